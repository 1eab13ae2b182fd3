// The quality of the previews, all weightings as a table, and what it all cost.

const TERMS = [
  ["regret_at_1", "regret@1", "How much true score the preview's own pick gives away against the best weighting of the truth. 0 is perfect. This is what a choice costs you.", true],
  ["gain_over_uniform", "gain over uniform", "How much better the pick truly is than equal weights, with a 95 % interval where test items were kept. If the interval holds 0, there is no detectable gain.", true],
  ["gain_over_size_proportional", "gain over size-prop.", "The same against weights in proportion to the data sizes.", true],
  ["spearman", "rank agreement", "Spearman's rank correlation between preview and truth over all weightings: 1 orders them all alike, 0 is chance."],
  ["spearman_top25", "rank agreement, top 25 %", "The same among the truly best quarter only, where the choice is made."],
  ["iou_top10", "overlap of top 10 %", "The share that the best tenth of the preview and the best tenth of the truth have in common (intersection over union)."],
  ["mse", "MSE (offset)", "Mean squared error of the previewed level, the paper's Table 1; in brackets the constant part: how much lower the preview lies on average. It says little about choices."],
];

const interval = (q) => q.gain_over_uniform_interval ?? q.gain_interval ?? q.gain_over_uniform_ci ?? null;

const qualityTable = () => {
  const rows = previews.filter((m) => quality[m.key]).map((m) => ({ m, q: quality[m.key] }));
  if (!truth || !rows.length) {
    return put("quality", el("p", { class: "note" }, "Nothing was trained jointly in this study, so the quality of these previews is unknown here. Train a few weightings, the pick and uniform at least, before believing them."));
  }
  rows.sort((a, b) => (a.q.regret_at_1 ?? Infinity) - (b.q.regret_at_1 ?? Infinity) || (b.q.spearman ?? -2) - (a.q.spearman ?? -2));
  const least = extent(rows.map((r) => r.q.regret_at_1))[0];
  const used = TERMS.filter(([key]) => rows.some((r) => isNumber(r.q[key])));
  const cell = (q, key) => {
    if (key === "regret_at_1") return [score(q[key]), isNumber(q.regret_noise) ? el("small", {}, ` ${q[key] <= q.regret_noise ? "≤" : ">"} noise ${score(q.regret_noise)}`) : null];
    if (key === "gain_over_uniform") { const i = interval(q); return [signed(q[key], digits), Array.isArray(i) ? el("small", {}, ` [${signed(i[0], digits)}, ${signed(i[1], digits)}]`) : null]; }
    if (key === "gain_over_size_proportional") return [signed(q[key], digits)];
    if (key === "mse") return [small(q[key]), isNumber(q.offset) ? el("small", {}, ` (${signed(q.offset, digits)})`) : null];
    return [fixed(q[key], 2)];
  };
  put("quality", el("p", { class: "note" }, `Judged against ${truth.alphas.length} really trained weightings; best regret first. Scores are ${data.unit}.`),
    el("div", { class: "scroll", tabindex: "0", role: "region", "aria-labelledby": "h-quality" }, el("table", {},
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Method"), used.map(([, name]) => el("th", { scope: "col" }, name)), el("th", { scope: "col" }, "its pick"), el("th", { scope: "col" }, "time"))),
      el("tbody", {}, rows.map(({ m, q }) => el("tr", { class: q.regret_at_1 === least ? "best" : null, "data-method": m.key }, el("th", { scope: "row" }, m.label),
        used.map(([key]) => el("td", {}, cell(q, key))),
        el("td", {}, (q.pick ?? (m.pick === null ? [] : m.alphas[m.pick])).map(weight).join(" / ")), el("td", {}, duration(q.seconds ?? m.seconds))))))),
    el("dl", { class: "terms" }, used.map(([, name, words]) => el("div", {}, el("dt", {}, name), el("dd", {}, words))),
      el("div", {}, el("dt", {}, "noise"), el("dd", {}, "The regret that even the best weighting would show on another draw of as many test items. A regret at most that is not distinguishable from 0.")),
      el("div", {}, el("dt", {}, "its pick, time"), el("dd", {}, `The weighting the method would choose (${data.tasks.map((t) => shorten(t)).join(" / ")}), and what previewing all weightings took; the task finetunings come on top.`))));
};

const table = { key: "mean", down: true, all: false };
const weightings = () => {
  const method = byKey.get(state.method), most = 200;
  const columns = [
    ...data.tasks.map((t, i) => ({ key: `weight${i}`, name: `weight of ${shorten(t)}`, of: (row) => method.alphas[row][i], text: weight })),
    ...data.tasks.map((t, i) => ({ key: `score${i}`, name: `score on ${shorten(t)}`, of: (row) => method.scores[row][i], text: score })),
    { key: "mean", name: "mean", of: (row) => meanOf(method.scores[row]), text: score },
    ...(truth && truth !== method ? [{ key: "truth", name: "true mean", of: (row) => scoreOf(truth, method.alphas[row]), text: score }] : []),
  ];
  const column = columns.find((c) => c.key === table.key) ?? columns.find((c) => c.key === "mean");
  const keyed = method.alphas.map((_, row) => [column.of(row), row]);
  const sorted = keyed.sort(([a, i], [b, j]) => (a === null) - (b === null) || (table.down ? b - a : a - b) || i - j).map(([, row]) => row);
  const drawn = table.all ? sorted : sorted.slice(0, most);
  const sort = (key) => { Object.assign(table, { key, down: table.key === key ? !table.down : true }); weightings(); at("weightings").querySelector(`[data-key="${key}"]`).focus(); };
  put("weightings", el("p", { class: "note" }, `${method.label}: ${drawn.length} of ${sorted.length} weightings. Click a heading to sort.`),
    el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "All weightings" }, el("table", {},
      el("thead", {}, el("tr", {}, columns.map((c) => el("th", { scope: "col", "aria-sort": c === column ? (table.down ? "descending" : "ascending") : "none" },
        el("button", { type: "button", "data-key": c.key, click: () => sort(c.key) }, c.name, c === column ? (table.down ? " ↓" : " ↑") : ""))))),
      el("tbody", {}, drawn.map((row) => el("tr", {}, columns.map((c) => { const v = c.of(row); return el("td", {}, isNumber(v) ? c.text(v) : "–"); })))))),
    sorted.length > drawn.length ? el("p", {}, el("button", { type: "button", class: "quiet", click: () => { table.all = true; weightings(); } }, `Show all ${sorted.length}`)) : null);
};

const costs = () => {
  const listed = Object.entries(facts.seconds ?? {}).filter(([, s]) => isNumber(s)).map(([name, s]) => [name.replaceAll("_", " "), s]);
  const rows = [...listed, ...previews.map((m) => [`preview: ${m.short}`, m.seconds, m.alphas.length]), ...(truth ? [["joint training: the truth", truth.seconds, truth.alphas.length]] : [])].filter(([, s]) => isNumber(s));
  const most = Math.max(...rows.map(([, s]) => s), 1e-9);
  const cheapest = chosenPreview?.seconds / chosenPreview?.alphas.length, trained = truth?.seconds / truth?.alphas.length;
  put("costs", isNumber(cheapest) && isNumber(trained) && cheapest > 0 ? el("p", { class: "note" }, `One previewed weighting (${chosenPreview.label}) took ${duration(cheapest)}, one joint training ${duration(trained)}: ${Math.round(trained / cheapest).toLocaleString("en")} times as long. The task finetunings are needed once, before any preview.`) : null,
    el("div", { class: "scroll" }, el("table", {}, el("thead", {}, el("tr", {}, ["What", "time", "weightings", "each"].map((h) => el("th", { scope: "col" }, h)))),
      el("tbody", {}, rows.map(([name, s, n]) => el("tr", {}, el("th", { scope: "row" }, name),
        el("td", { class: "bar" }, duration(s), svg("svg", { viewBox: "0 0 100 4", preserveAspectRatio: "none", "aria-hidden": "true" }, svg("rect", { width: (100 * s) / most, height: 4, fill: "var(--accent)" }))),
        el("td", {}, n ?? ""), el("td", {}, n ? duration(s / n) : "")))))));
};
