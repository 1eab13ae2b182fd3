// Trade-offs: the chosen preview's Pareto front, at its true scores where enough weightings were trained.

const beats = (b, a) => b.every((s, t) => s >= a[t]) && b.some((s, t) => s > a[t]);
const undominated = (scores) => scores.map((a) => !scores.some((b) => beats(b, a)));

// What is drawn of a preview: weightings, their scores, each one's kind, and where the preview itself saw those on its front.
const frontOf = (method) => {
  const judged = data.fronts?.[method.key];
  if (!judged) {
    const rows = method.scores.flatMap((s, row) => (s[0] === null ? [] : [row]));
    const scores = rows.map((row) => method.scores[row]);
    const on = undominated(scores);
    const kinds = on.map((best) => (best ? "unknown" : "rest"));
    return { alphas: rows.map((row) => method.alphas[row]), scores, kinds, ghosts: [], pick: rows.indexOf(method.pick) };
  }
  const [previewed, good] = [new Set(judged.previewed), new Set(judged.good)];
  const alphas = judged.rows.map((row) => truth.alphas[row]);
  const seen = alphas.map((alpha) => method.scores[rowAt(method, alpha)]);
  return {
    judged,
    alphas,
    scores: judged.rows.map((row) => truth.scores[row]),
    kinds: judged.rows.map((row) =>
      previewed.has(row) ? (good.has(row) ? "good" : "bad") : good.has(row) ? "missed" : "rest",
    ),
    ghosts: judged.rows.flatMap((row, i) => (previewed.has(row) ? [[i, seen[i]]] : [])),
    pick: method.pick === null ? -1 : alphas.findIndex((alpha) => same(alpha, method.alphas[method.pick])),
  };
};

const frontMark = (kind, x, y) =>
  kind === "bad"
    ? svg("path", { class: "front bad", d: `M${x - 4} ${y - 4}l8 8m0 -8l-8 8` })
    : svg("circle", { class: `front ${kind}`, cx: x, cy: y, r: { rest: 2.6, missed: 4 }[kind] ?? 4.6 });
const ghost = (x, y) => svg("path", { class: "ghost", d: `M${x} ${y - 3.4}l3.4 3.4l-3.4 3.4l-3.4 -3.4Z` });
const DEPTH = { rest: 0, missed: 1, unknown: 2, good: 2, bad: 3 };

const frontChart = (drawn, method, [i, j], ranges) => {
  const { sx, sy, node } = axes(
    ranges[i],
    ranges[j],
    [i, j].map((t) => `${shorten(data.tasks[t], 26)} (${data.unit})`),
    { left: 48, right: 392, top: 30, bottom: 300 },
  );
  const places = drawn.scores.map((s) => [sx(s[i]), sy(s[j])]);
  const shapes = places.map(([x, y], row) => frontMark(drawn.kinds[row], x, y));
  const best = undominated(drawn.scores.map((s) => [s[i], s[j]]));
  const stairs = places.filter((_, row) => best[row]).sort((a, b) => a[0] - b[0]);
  const line = stairs.map(([x, y], n) => (n ? `V${y.toFixed(1)}H${x.toFixed(1)}` : `M${x.toFixed(1)} ${y.toFixed(1)}`));
  const ends = drawn.ghosts.map(([row, s]) => [places[row], [sx(s[i]), sy(s[j])]]);
  const named = {
    key: "front",
    truth: false,
    alphas: drawn.alphas,
    scores: drawn.scores,
    pick: drawn.pick < 0 ? null : drawn.pick,
  };
  const root = svg(
    "svg",
    {
      viewBox: "0 0 400 345",
      role: "group",
      "aria-label": `${method.label}: ${data.tasks[i]} against ${data.tasks[j]}, one point for each weighting. Arrow keys walk, Enter pins.`,
    },
    node,
    svg(
      "g",
      { "aria-hidden": "true", class: "over" },
      T === 2 ? ends.map(([[x, y], [u, v]]) => svg("path", { class: "thread", d: `M${x} ${y}L${u} ${v}` })) : [],
      ends.map(([, [u, v]]) => ghost(u, v)),
      svg("path", { class: "stairs", d: line.join("") }),
    ),
    ...shapes
      .map((shape, row) => [DEPTH[drawn.kinds[row]], shape])
      .sort((a, b) => a[0] - b[0])
      .map(([, shape]) => shape),
  );
  const bend = svg("g", { class: "over", "aria-hidden": "true" });
  root.append(bend);
  const knee = (alpha) => {
    const row = alpha ? drawn.alphas.findIndex((other) => same(alpha, other)) : -1;
    const [x, y] = places[row] ?? [];
    bend.replaceChildren(...(row < 0 ? [] : [svg("path", { class: "knee", d: `M${x} ${y - 9}l8 14h-16z` })]));
  };
  const marks = shapes.length ? livePoints(root, named, places, shapes, { bare: true }) : () => {};
  return { node: el("figure", {}, root), marks, knee };
};

let frontCharts = [];
const FRONT_WORDS = {
  good: (what) => `on the previewed front, truly ${what}`,
  bad: (what) => `on the previewed front, not ${what}`,
  missed: (what) => `${what}, not on the previewed front`,
  unknown: () => "on the front",
  rest: (what) => (what ? "neither" : "not on it"),
};

const tradeoffs = () => {
  const method = byKey.get(state.method);
  const drawn = frontOf(method);
  const { judged } = drawn;
  const what = judged ? (judged.noise ? "near-optimal" : "on the true front") : "";
  // One range for every method, so that choosing another one never moves the truth.
  const all = (judged ? previews.filter((m) => data.fronts[m.key]) : [method]).map(frontOf);
  const ranges = data.tasks.map((_, t) =>
    padded(all.flatMap((d) => [...d.scores.map((s) => s[t]), ...d.ghosts.map(([, s]) => s[t])])),
  );
  frontCharts = drawn.scores.length ? data.pairs.map((pair) => frontChart(drawn, method, pair, ranges)) : [];
  const on = drawn.kinds.filter((kind) => kind === "unknown").length;
  at("front-sentence").textContent = judged
    ? judged.sentence
    : `${on} of ${drawn.kinds.length} weightings are on this front: no other one is as good in every task and better in one. ${
        method.truth
          ? "These are true scores."
          : "It was not judged: too few of these weightings were trained, and the scores are previewed, so biased low."
      }`;
  at("front-help").textContent = [
    `${method.label}${judged ? ", at true scores: what you get in each task when you trust it." : "."}`,
    what === "near-optimal"
      ? "Near-optimal: in every task within noise of some weighting on the true front (a paired test on the same test items)."
      : "",
    isNumber(judged?.volume_share) && isNumber(judged.volume_by_chance)
      ? `The previewed front's weightings reach ${percent(judged.volume_share)} of the true front's hypervolume; as many drawn blindly, ${percent(judged.volume_by_chance)}.`
      : "",
    (T * (T - 1)) / 2 > data.pairs.length ? "Shown are the pairs of tasks most in conflict." : "",
  ]
    .filter(Boolean)
    .join(" ");
  const item = (mark, words) =>
    el("li", {}, svg("svg", { viewBox: "-11 -11 22 22", "aria-hidden": "true" }, mark), words);
  put("fronts", ...frontCharts.map((chart) => chart.node));
  put(
    "front-legend",
    el(
      "ul",
      {},
      Object.keys(FRONT_WORDS)
        .filter((kind) => drawn.kinds.includes(kind))
        .map((kind) => item(frontMark(kind, 0, 0), FRONT_WORDS[kind](what))),
      item(svg("path", { class: "knee", d: "M0 -8l8 14h-16z" }), "knee of the previewed front"),
      judged ? item(ghost(0, 0), "previewed scores of the previewed front, biased low") : null,
      item(
        svg("path", { class: "stairs", d: "M-9 0H9" }),
        `the ${judged ? "true " : ""}front${T > 2 ? " of these two tasks alone" : ""}`,
      ),
    ),
  );
  frontMarks();
  knees();
};

const frontMarks = () => {
  for (const chart of frontCharts) chart.marks();
  const drawn = frontCharts.length ? frontOf(byKey.get(state.method)) : null;
  const alpha = state.hover ?? state.pin;
  const row = drawn && alpha ? drawn.alphas.findIndex((other) => same(alpha, other)) : -1;
  at("front-here").textContent =
    row < 0 ? "Point at a weighting to read it; click to pin it in all pictures." : `${drawn.judged ? "True scores at " : ""}${describe(drawn, row)}`;
};

listeners.push((change) => {
  if ("method" in change) tradeoffs();
  else if (change.wish) knees();
  else if ("hover" in change || "pin" in change) frontMarks();
});
