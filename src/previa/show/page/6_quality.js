// The quality of the previews, in the order in which it matters to a choice.

const TERMS = [
  [
    "regret_at_1",
    "regret@1",
    "How much true score the preview's own pick gives away against the best weighting of the truth. 0 is perfect. This is what a choice costs you.",
  ],
  [
    "regret_at_k",
    "regret@5",
    "The same when the preview's best five are trained and the truly best of them is kept.",
  ],
  [
    "gain_over_uniform",
    "gain over uniform",
    "How much better the pick truly is than equal weights, with a 95 % interval where test items were kept. If the interval holds 0, there is no detectable gain.",
  ],
  [
    "gain_over_size_proportional",
    "gain over size-prop.",
    "The same against weights in proportion to the data sizes.",
  ],
  [
    "spearman",
    "rank agreement",
    "Spearman's rank correlation between preview and truth over all weightings: 1 orders them all alike, 0 is chance.",
  ],
  [
    "spearman_top25",
    "rank agreement, top 25 %",
    "The same among the truly best quarter only, where the choice is made.",
  ],
  [
    "pairwise_accuracy",
    "right pairs",
    "Of all pairs of weightings that truly differ, the share that the preview orders rightly; 50 % is chance.",
  ],
  [
    "iou_top10",
    "overlap of top 10 %",
    "The share that the best tenth of the preview and the best tenth of the truth have in common (intersection over union).",
  ],
  [
    "mse",
    "MSE (offset)",
    "Mean squared error of the previewed level, the paper's Table 1; in brackets the constant part: how much lower the preview lies on average. It says little about choices.",
  ],
];

const span = (interval) =>
  Array.isArray(interval)
    ? el("small", {}, ` [${signed(interval[0], digits)}, ${signed(interval[1], digits)}]`)
    : null;
const judged = { task: -1 }; // whose score the table is about: -1 the mean

const qualityTable = () => {
  const perTask = previews.some((m) => data.tasks.every((t) => quality[m.key]?.per_task?.[t]));
  const rows = previews
    .filter((m) => quality[m.key])
    .map((m) => ({
      m,
      q: (judged.task < 0 ? null : quality[m.key].per_task?.[data.tasks[judged.task]]) ?? quality[m.key],
    }));
  if (!truth || !rows.length) {
    return put(
      "quality",
      el(
        "p",
        { class: "note" },
        "Nothing was trained jointly in this study, so the quality of these previews is unknown here. Train a few weightings, the pick and uniform at least, before believing them.",
      ),
    );
  }
  rows.sort(
    (a, b) =>
      (a.q.regret_at_1 ?? Infinity) - (b.q.regret_at_1 ?? Infinity) || (b.q.spearman ?? -2) - (a.q.spearman ?? -2),
  );
  const least = extent(rows.map((r) => r.q.regret_at_1))[0];
  const used = TERMS.filter(([key]) => rows.some((r) => isNumber(r.q[key])));
  const cell = (q, key) => {
    if (key === "regret_at_1")
      return [
        score(q[key]),
        isNumber(q.regret_noise)
          ? el("small", {}, ` ${q[key] <= q.regret_noise ? "≤" : ">"} noise ${score(q.regret_noise)}`)
          : null,
      ];
    if (key === "regret_at_k") return [score(q[key])];
    if (key.startsWith("gain")) return [signed(q[key], digits), span(q[`${key}_interval`])];
    if (key === "pairwise_accuracy") return [percent(q[key])];
    if (key === "mse")
      return [small(q[key]), isNumber(q.offset) ? el("small", {}, ` (${signed(q.offset, digits)})`) : null];
    return [fixed(q[key], 2)];
  };
  const shared = extent(rows.map((r) => r.q.weightings)),
    count = isNumber(shared[1]) ? shared[1] : truth.alphas.length;
  const included = rows.some(
    ({ m, q }) => isNumber(quality[m.key].seconds) && quality[m.key].seconds > m.seconds * 1.001,
  );
  put(
    "quality",
    el(
      "p",
      { class: "note" },
      `Judged at the ${count} weightings that were both previewed and really trained; best regret first, under the study's own preference. Scores are ${data.unit}.`,
    ),
    perTask
      ? el(
          "div",
          { class: "controls" },
          radios(
            "judge",
            "Judged by",
            [["-1", "mean"], ...data.tasks.map((t, i) => [String(i), t])],
            String(judged.task),
            (task) => {
              judged.task = Number(task);
              qualityTable();
              document.querySelector(`input[name=judge][value="${task}"]`).focus();
            },
          ),
        )
      : null,
    el(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-labelledby": "h-quality" },
      el(
        "table",
        {},
        el(
          "thead",
          {},
          el(
            "tr",
            {},
            el("th", { scope: "col" }, "Method"),
            used.map(([, name]) => el("th", { scope: "col" }, name)),
            el("th", { scope: "col" }, "time"),
          ),
        ),
        el(
          "tbody",
          {},
          rows.map(({ m, q }) =>
            el(
              "tr",
              { class: q.regret_at_1 === least ? "best" : null, "data-method": m.key },
              el(
                "th",
                { scope: "row" },
                m.label,
                el(
                  "small",
                  {},
                  `picks ${(q.pick ?? (m.pick === null ? [] : m.alphas[m.pick])).map(weight).join(" / ")}`,
                ),
              ),
              used.map(([key]) => el("td", {}, cell(q, key))),
              el("td", {}, duration(quality[m.key].seconds ?? m.seconds)),
            ),
          ),
        ),
      ),
    ),
    el(
      "dl",
      { class: "terms" },
      used.map(([, name, words]) => el("div", {}, el("dt", {}, name), el("dd", {}, words))),
      el(
        "div",
        {},
        el("dt", {}, "noise"),
        el(
          "dd",
          {},
          "The regret that even the best weighting would show on another draw of as many test items. A regret at most that is not distinguishable from 0.",
        ),
      ),
      el(
        "div",
        {},
        el("dt", {}, "picks, time"),
        el(
          "dd",
          {},
          `The weighting the method would choose among the judged ones (${data.tasks.map((t) => shorten(t)).join(" / ")}), and what previewing all weightings took, ${included ? "the task finetunings it needs included" : "the task finetunings not included"}.`,
        ),
      ),
    ),
  );
};
