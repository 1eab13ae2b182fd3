// What it all cost.

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
