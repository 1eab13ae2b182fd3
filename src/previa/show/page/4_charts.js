// Two tasks: curves. Four or more: each weighting's scores on two tasks of the reader's choice.

const axes = (x, y, titles, box) => {
  const sx = (v) => box.left + ((v - x.low) / (x.high - x.low || 1)) * (box.right - box.left);
  const sy = (v) => box.bottom - ((v - y.low) / (y.high - y.low || 1)) * (box.bottom - box.top);
  const nodes = [
    ...ticks(y.low, y.high).flatMap((t) => [
      svg("path", { class: "rule", d: `M${box.left} ${sy(t.at)}H${box.right}` }),
      svg("text", { x: box.left - 6, y: sy(t.at) + 4, "text-anchor": "end" }, t.text),
    ]),
    ...ticks(x.low, x.high).map((t) =>
      svg("text", { x: sx(t.at), y: box.bottom + 17, "text-anchor": "middle" }, t.text),
    ),
    svg("path", { class: "edge", d: `M${box.left} ${box.bottom}H${box.right}` }),
    svg(
      "text",
      { class: "name", x: (box.left + box.right) / 2, y: box.bottom + 37, "text-anchor": "middle" },
      titles[0],
    ),
    svg("text", { class: "name", x: box.left - 40, y: box.top - 10 }, titles[1]),
  ];
  return { sx, sy, node: svg("g", { "aria-hidden": "true" }, nodes) };
};
const padded = (numbers) => {
  const [low, high] = extent(numbers),
    pad = (high - low || Math.abs(high) || 1) * 0.06;
  return isNumber(low) ? { low: low - pad, high: high + pad } : { low: 0, high: 1 };
};

const heights = (method) => {
  const all = values(method),
    best = state.level === "gap" ? extent(all)[1] : 0;
  return all.map((v) => (v === null ? null : v - best));
};
const path = (xs, ys) =>
  xs
    .map((x, i) => [x, ys[i]])
    .sort((a, b) => a[0] - b[0])
    .reduce(
      ([d, pen], [x, y]) => (y === null ? [d, "M"] : [`${d}${pen}${x.toFixed(2)} ${y.toFixed(2)}`, "L"]),
      ["", "M"],
    )[0];

// Drawn for its width, so that letters keep their size; measured once, since that lays the page out.
let width = null;
const roomy = () => (width ??= Math.max(330, Math.min(720, at("maps").clientWidth || 600)));
const curves = () => {
  // one chart: the truth, the chosen preview, and the others behind them
  const chosen = byKey.get(state.method);
  const drawn = [...previews.filter((m) => m !== chosen), ...(truth && truth !== chosen ? [truth] : []), chosen];
  const half = (state.level === "score" && state.show < 0 && isStored() && bandOf(chosen)?.half_width) || 0;
  const y = padded([...drawn.flatMap(heights), ...sorted(chosen).flatMap(([, v]) => (half ? [v - half, v + half] : []))]);
  const title = state.level === "gap" ? "below each curve's own best" : `${shorten(shown(), 40)} (${data.unit})`;
  const frame = axes(
    { low: 0, high: 1 },
    y,
    [roomy() < 480 ? `weight of ${shorten(data.tasks[0], 34)}` : `weight of ${shorten(data.tasks[0], 24)}, the rest on ${shorten(data.tasks[1], 24)}`, title],
    { left: 48, right: roomy() - 8, top: 30, bottom: 300 },
  );
  const root = svg(
    "svg",
    {
      viewBox: `0 0 ${roomy()} 345`,
      role: "group",
      "aria-label": "Score against the first task's weight. Arrow keys walk, Enter pins.",
    },
    frame.node,
  );
  const painters = [];
  if (half) root.append(...banded(chosen, frame));
  for (const method of drawn) {
    const xs = method.alphas.map((a) => frame.sx(a[0])),
      ys = heights(method).map((v) => (v === null ? null : frame.sy(v)));
    root.append(
      svg(
        "path",
        { class: `line ${method.truth ? "truth" : method === chosen ? "on" : ""}`, d: path(xs, ys) },
        svg("title", {}, method.label),
      ),
    );
    if (method !== chosen && method !== truth) continue;
    const shapes = xs.map((x, i) =>
      svg("circle", { class: `point ${method.truth ? "truth" : ""} ${ofWish(method).short[i] > 0 ? "short" : ""}`, cx: x, cy: ys[i] ?? frame.sy(y.low), r: 4.5 }),
    );
    const group = svg("g", {}, ...shapes);
    root.append(group);
    painters.push(
      livePoints(
        group,
        method,
        xs.map((x, i) => [x, ys[i] ?? frame.sy(y.low)]),
        shapes,
      ),
    );
  }
  const marks = () => painters.forEach((paint) => paint());
  marks();
  const named = {
    key: chosen.key,
    truth: false,
    alphas: chosen.alphas,
    label: `${chosen.label}${truth && truth !== chosen ? " (blue) beside the truth (thin)" : ""}`,
  };
  return { node: framed(named, root, `; grey: the other methods${half ? `; shaded: ± ${wide(half)}` : ""}`), marks };
};

const scatterAxes = [0, 1];
const scatter = (method) => {
  // a weighting is a point: how good on one task, how good on another
  const [i, j] = scatterAxes;
  const along = (t) => padded(data.methods.flatMap((m) => m.scores.map((s) => s[t])));
  const x = along(i),
    y = along(j);
  const frame = axes(x, y, [`score on ${shorten(data.tasks[i], 30)}`, `score on ${shorten(data.tasks[j], 30)}`], {
    left: 48,
    right: 392,
    top: 30,
    bottom: 300,
  });
  const places = method.scores.map((s) => [frame.sx(s[i] ?? x.low), frame.sy(s[j] ?? y.low)]);
  const shapes = places.map(([u, v]) => svg("circle", { class: "cell", cx: u, cy: v, r: 5 }));
  const root = svg(
    "svg",
    {
      viewBox: "0 0 400 345",
      role: "group",
      "aria-label": `${method.label}: one point for each weighting. Arrow keys walk, Enter pins.`,
    },
    frame.node,
    ...shapes
      .map((shape, row) => [ofWish(method).short[row] > 0 ? -Infinity : (worth(method.scores[row]) ?? -Infinity), shape])
      .sort((a, b) => a[0] - b[0])
      .map(([, shape]) => shape),
  ); // the best on top
  const marks = livePoints(root, method, places, shapes);
  const paint = () => {
    coloured(method, shapes);
    marks();
  };
  return { node: framed(method, root, ""), paint, marks };
};

// How many weightings reach which score: one small histogram a method, on shared bins.
const histograms = () => {
  const [low, high] = extent(data.methods.flatMap((m) => values(m)));
  if (!isNumber(low)) return put("histograms", el("p", { class: "note" }, "No weighting was scored."));
  const count = 26,
    step = (high - low || 1) / count;
  const shares = data.methods.map((m) => {
    const fine = values(m).filter(isNumber),
      bins = new Array(count).fill(0);
    for (const v of fine) bins[Math.min(count - 1, Math.floor((v - low) / step))] += 1 / fine.length;
    return { m, bins, n: fine.length, median: fine.sort((a, b) => a - b)[Math.floor(fine.length / 2)] };
  });
  const top = Math.max(...shares.flatMap((s) => s.bins)),
    w = 600 / count;
  const rows = shares.flatMap(({ m, bins, n, median }, row) => {
    const last = row === shares.length - 1,
      x = (v) => ((v - low) / (step * count)) * 600;
    const bars = bins.map((b, i) =>
      svg(
        "rect",
        {
          class: `bin ${m.truth ? "truth" : m.key === state.method ? "on" : ""}`,
          x: i * w + 0.6,
          width: w - 1.2,
          y: 44 - (40 * b) / top,
          height: (40 * b) / top,
        },
        svg("title", {}, `${score(low + i * step)} to ${score(low + (i + 1) * step)}: ${percent(b)}`),
      ),
    );
    const label = n
      ? `${m.label}: half of ${n} weightings score above ${score(median)}`
      : `${m.label}: none scored`;
    return [
      el(
        "div",
        { class: "who" },
        m.truth || m.key === state.method ? el("b", {}, m.label) : m.label,
        el("small", {}, n ? `${n} weightings, median ${score(median)}` : "none scored"),
      ),
      el(
        "div",
        {},
        svg(
          "svg",
          { viewBox: "0 0 600 52", role: "img", "aria-label": label },
          ...bars,
          svg("path", { class: "rule", d: "M0 44.5H600" }),
          n ? svg("path", { class: "median", d: `M${x(median)} 45l4 7h-8z` }) : null,
        ),
        last
          ? ruler(ticks(low, high, innerWidth < 640 ? 4 : 6).map((t) => ({ x: x(t.at) / 600, text: t.text })))
          : null,
      ),
    ];
  });
  put(
    "histograms",
    el("div", { class: "hist" }, rows),
    el(
      "p",
      { class: "note" },
      `Across: ${shown()} (${data.unit}). Up: the tallest bar is ${percent(top)} of its weightings.`,
    ),
  );
};
