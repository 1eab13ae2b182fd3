// Of a search: what a Gaussian process makes of few evaluated weightings. And where methods disagree. Neither was measured.

const between = { what: "scores" };

const landscapeOf = (method) => {
  const found = data.surrogates?.[method.key];
  if (!found) return null;
  const value = found.scores.map(worth);
  const sd = found.sd.map((row, i) => {
    if (!wish.worst) return Math.hypot(...row.map((x, t) => (w[t] * x) / (wish.relative ? experts[t] : 1)));
    const each = found.scores[i].map((s, t) => (w[t] > 0 ? seen(s, t) : Infinity));
    const t = each.indexOf(Math.min(...each));
    return row[t] / (wish.relative ? experts[t] : 1);
  });
  return {
    alphas: found.alphas,
    scores: state.show < 0 ? value : found.scores.map((s) => s[state.show]),
    sd: state.show < 0 ? sd : found.sd.map((s) => s[state.show]),
  };
};

// A triangle of numbers that are no weighting's own: read by pointing, never pinned, in no table.
const readOnly = (alphas, numbers, colours, evaluated, say, locate = place, titles = data.tasks, region = []) => {
  const { root, shapes } = triangleOf(alphas.map(locate), titles, say(numbers.indexOf(extent(numbers)[1])), alphas);
  root.setAttribute("role", "img");
  shapes.forEach((shape, i) => {
    shape.classList.add("read");
    shape.setAttribute("fill", colours(numbers[i]));
    shape.append(svg("title", {}, say(i)));
  });
  const marks = (kind, rows) => rows.flatMap((alpha) => markers[kind](...locate(alpha)));
  root.append(svg("g", { class: "over" }, marks("region", region), marks("evaluated", evaluated)));
  return root;
};

const surrogateMap = (method) => {
  const found = landscapeOf(method);
  const evaluated = method.alphas.filter((_, row) => method.scores[row][0] !== null);
  const search = facts.searches?.[method.key];
  const said = `${evaluated.length} weightings were evaluated${
    isNumber(search?.candidates) ? ` of ${search.candidates} candidates` : ""
  }${search?.why_ended ? `; the search ended: ${String(search.why_ended).replace(/\.$/, "")}` : ""}.`;
  const sure = between.what === "sd";
  const numbers = sure ? found.sd : found.scores;
  const picture = () => {
    if (T === 2) return surrogateCurve(method, found);
    const [low, high] = sure ? [0, extent(numbers)[1]] : (({ low, high }) => [low, high])(plainScale());
    const colour = (v) => (sure ? doubt : viridis)(high > low ? (v - low) / (high - low) : 0.5);
    const bar = sure
      ? doubtBar(high, score, `standard deviation of the interpolated ${shown()} (${data.unit}): the darker, the less sure`)
      : null;
    if (T > 3) return [bar ? el("figure", {}, bar) : null, slicePairs().map((pair) => surrogateSlice(method, found, numbers, colour, evaluated, pair))];
    const say = (i) => `interpolated at ${weights(found.alphas[i])}: ${score(found.scores[i])} ± ${score(Z * found.sd[i])}`;
    return el(
      "figure",
      { "data-surrogate": method.key },
      el(
        "figcaption",
        {},
        el("b", {}, `Interpolated: ${method.label}`),
        el(
          "small",
          {},
          sure ? "how unsure the Gaussian process is" : `${shown()} by a Gaussian process; same colours as the maps above`,
        ),
      ),
      readOnly(found.alphas, numbers, colour, evaluated, say, place, data.tasks, dotsBetween(method) ? regionOf(method) : []),
      bar,
    );
  };
  return el(
    "div",
    { class: "block" },
    el("h3", {}, "Between the evaluated weightings: interpolated"),
    el(
      "p",
      { class: "note" },
      `${said} ${T === 2 ? "Dots" : "Rings"} are evaluated; all else is interpolated, and is in no table of this page.${
        dotsBetween(method) ? " Dotted: the near-best region, going by what is interpolated." : ""
      }${
        T > 3 ? " A cell is the best interpolated score with these two weights, over all weights of the others." : ""
      }`,
    ),
    T > 2
      ? radios(
          "between",
          "Show",
          [
            ["scores", "score"],
            ["sd", "uncertainty"],
          ],
          between.what,
          (what) => {
            between.what = what;
            inBetween();
            document.querySelector(`input[name=between][value=${what}]`).focus();
          },
        )
      : null,
    el("div", { class: "small-maps" }, picture()),
  );
};
// More tasks: of two of them and all others together, a cell is the best interpolated score with these two weights.
const surrogateSlice = (method, found, numbers, colour, evaluated, [s, t]) => {
  const best = new Map();
  found.alphas.forEach((alpha, i) => {
    const key = `${alpha[s].toFixed(5)} ${alpha[t].toFixed(5)}`;
    if (!best.has(key) || found.scores[i] > found.scores[best.get(key)]) best.set(key, i);
  });
  const rows = [...best.values()];
  const locate = (alpha) => place([alpha[s], alpha[t], 1 - alpha[s] - alpha[t]]);
  const say = (i) =>
    i < 0 ? "" : `interpolated at ${weights(found.alphas[rows[i]])}: ${score(found.scores[rows[i]])} ± ${score(Z * found.sd[rows[i]])}`;
  return el(
    "figure",
    { "data-surrogate": method.key },
    readOnly(
      rows.map((i) => found.alphas[i]),
      rows.map((i) => numbers[i]),
      colour,
      evaluated,
      say,
      locate,
      [data.tasks[s], data.tasks[t], "all others"],
    ),
  );
};

const plainScale = () => {
  const [low, high] = extent(data.methods.flatMap((m) => values(m)));
  return { low, high };
};

const surrogateCurve = (method, found) => {
  const order = found.alphas.map((a, i) => [a[0], i]).sort((a, b) => a[0] - b[0]).map(([, i]) => i);
  const ends = order.flatMap((i) => [found.scores[i] - Z * found.sd[i], found.scores[i] + Z * found.sd[i]]);
  const frame = axes(
    { low: 0, high: 1 },
    padded([...ends, ...values(method)]),
    [`weight of ${shorten(data.tasks[0], 24)}`, `${shorten(shown(), 40)} (${data.unit})`],
    { left: 48, right: 392, top: 30, bottom: 300 },
  );
  const point = (i, v) => `${frame.sx(found.alphas[i][0]).toFixed(2)} ${frame.sy(v).toFixed(2)}`;
  const upper = order.map((i) => point(i, found.scores[i] + Z * found.sd[i]));
  const lower = [...order].reverse().map((i) => point(i, found.scores[i] - Z * found.sd[i]));
  const dots = method.alphas.map((a, row) => [a, valueAt(method, row)]).filter(([, v]) => isNumber(v));
  return el(
    "figure",
    { "data-surrogate": method.key },
    el("figcaption", {}, el("b", {}, `Interpolated: ${method.label}`), el("small", {}, "a Gaussian process, shaded ± 95 %")),
    svg(
      "svg",
      { viewBox: "0 0 400 345", role: "img", "aria-label": "Interpolated curve with its uncertainty" },
      frame.node,
      svg("path", { class: "band", d: `M${[...upper, ...lower].join("L")}Z` }),
      svg("path", { class: "line on", d: `M${order.map((i) => point(i, found.scores[i])).join("L")}` }),
      dots.map(([a, v]) => svg("circle", { class: "dot", cx: frame.sx(a[0]), cy: frame.sy(v), r: 3.4 })),
    ),
  );
};

// A bar of the colours of doubt, from 0 to the most there is.
const doubtBar = (most, text, words) => {
  const steps = 60;
  const bar = strip(
    Array.from({ length: steps }, (_, i) => doubt((i + 0.5) / steps)),
    most > 0 ? [0, 0.25, 0.5, 0.75, 1].map((x) => ({ x, text: text(x * most) })) : [{ x: 0, text: text(0) }],
    words,
    `Colours from 0 to ${text(most)}`,
  );
  bar.classList.add("doubt");
  return bar;
};

const disagreementMap = () => {
  const found = data.disagreement;
  if (!found) return null;
  const drawn = T === 3 && found.alphas?.length;
  const most = extent(found.spread ?? [])[1];
  const say = (i) => `${weights(found.alphas[i])}: ranks ${percent(found.spread[i])} of all weightings apart`;
  return el(
    "div",
    { class: "block", id: "disagreement" },
    el("h3", {}, "Where the methods disagree"),
    el(
      "p",
      { class: "note missed", id: "disagreement-mark", hidden: isStored() },
      "Under the study's own preference, not the one that is set above:",
    ),
    el("p", { class: "note" }, found.sentence),
    drawn
      ? el(
          "div",
          { class: "small-maps" },
          el(
            "figure",
            {},
            readOnly(found.alphas, found.spread, (v) => (isNumber(v) ? doubt(most > 0 ? v / most : 0) : "transparent"), [], say),
            doubtBar(most, percent, "how far apart the methods rank a weighting, of all weightings: the darker, the less they agree"),
          ),
        )
      : null,
  );
};

const inBetween = () => {
  const method = byKey.get(state.method);
  put("between", data.surrogates?.[method.key] ? surrogateMap(method) : null);
};
