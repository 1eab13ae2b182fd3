// All weightings as a table, and what it all cost.

const table = { key: "mean", down: true, all: false };
const weightings = () => {
  const method = byKey.get(state.method),
    most = 200;
  const columns = [
    ...data.tasks.map((t, i) => ({
      key: `weight${i}`,
      name: `weight of ${shorten(t)}`,
      of: (row) => method.alphas[row][i],
      text: weight,
    })),
    ...data.tasks.map((t, i) => ({
      key: `score${i}`,
      name: `score on ${shorten(t)}`,
      of: (row) => method.scores[row][i],
      text: score,
    })),
    { key: "mean", name: "mean", of: (row) => meanOf(method.scores[row]), text: score },
    ...(truth && truth !== method
      ? [{ key: "truth", name: "true mean", of: (row) => scoreOf(truth, method.alphas[row]), text: score }]
      : []),
  ];
  const column = columns.find((c) => c.key === table.key) ?? columns.find((c) => c.key === "mean");
  const keyed = method.alphas.map((_, row) => [column.of(row), row]);
  const sorted = keyed
    .sort(([a, i], [b, j]) => (a === null) - (b === null) || (table.down ? b - a : a - b) || i - j)
    .map(([, row]) => row);
  const drawn = table.all ? sorted : sorted.slice(0, most);
  const sort = (key) => {
    Object.assign(table, { key, down: table.key === key ? !table.down : true });
    weightings();
    at("weightings").querySelector(`[data-key="${key}"]`).focus();
  };
  put(
    "weightings",
    el(
      "p",
      { class: "note" },
      `${method.label}: ${drawn.length} of ${sorted.length} weightings. Click a heading to sort.`,
    ),
    el(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": "All weightings" },
      el(
        "table",
        {},
        el(
          "thead",
          {},
          el(
            "tr",
            {},
            columns.map((c) =>
              el(
                "th",
                { scope: "col", "aria-sort": c === column ? (table.down ? "descending" : "ascending") : "none" },
                el(
                  "button",
                  { type: "button", "data-key": c.key, click: () => sort(c.key) },
                  c.name,
                  c === column ? (table.down ? " ↓" : " ↑") : "",
                ),
              ),
            ),
          ),
        ),
        el(
          "tbody",
          {},
          drawn.map((row) =>
            el(
              "tr",
              {},
              columns.map((c) => {
                const v = c.of(row);
                return el("td", {}, isNumber(v) ? c.text(v) : "–");
              }),
            ),
          ),
        ),
      ),
    ),
    sorted.length > drawn.length
      ? el(
          "p",
          {},
          el(
            "button",
            {
              type: "button",
              class: "quiet",
              click: () => {
                table.all = true;
                weightings();
              },
            },
            `Show all ${sorted.length}`,
          ),
        )
      : null,
  );
};

const costs = () => {
  const listed = Object.entries(facts.seconds ?? {})
    .filter(([name, s]) => isNumber(s) && name !== "joint" && !name.startsWith("preview/"))
    .map(([name, s]) => [name.replaceAll("_", " "), s]);
  const rows = [
    ...listed,
    ...previews.map((m) => [`preview: ${m.short}`, m.seconds, m.alphas.length]),
    ...(truth ? [["joint training: the truth", truth.seconds, truth.alphas.length]] : []),
  ].filter(([, s]) => isNumber(s));
  const most = Math.max(...rows.map(([, s]) => s), 1e-9);
  const cheapest = chosenPreview?.seconds / chosenPreview?.alphas.length,
    trained = truth?.seconds / truth?.alphas.length;
  put(
    "costs",
    isNumber(cheapest) && isNumber(trained) && cheapest > 0
      ? el(
          "p",
          { class: "note" },
          `One previewed weighting (${chosenPreview.label}) took ${duration(cheapest)}, one joint training ${duration(trained)}: ${Math.round(trained / cheapest).toLocaleString("en")} times as long. The task finetunings are needed once, before any preview.`,
        )
      : null,
    el(
      "div",
      { class: "scroll" },
      el(
        "table",
        {},
        el(
          "thead",
          {},
          el(
            "tr",
            {},
            ["What", "time", "weightings", "each"].map((h) => el("th", { scope: "col" }, h)),
          ),
        ),
        el(
          "tbody",
          {},
          rows.map(([name, s, n]) =>
            el(
              "tr",
              {},
              el("th", { scope: "row" }, name),
              el(
                "td",
                { class: "bar" },
                duration(s),
                svg(
                  "svg",
                  { viewBox: "0 0 100 4", preserveAspectRatio: "none", "aria-hidden": "true" },
                  svg("rect", { width: (100 * s) / most, height: 4, fill: "var(--accent)" }),
                ),
              ),
              el("td", {}, n ?? ""),
              el("td", {}, n ? duration(s / n) : ""),
            ),
          ),
        ),
      ),
    ),
  );
};
