// The recommendation beside its rivals, or the live pick where the preference is not the study's own.

const chosenPreview = byKey.get(data.chosen) ?? null;
const scoreOf = (method, alpha) => {
  const row = method ? rowAt(method, alpha) : -1;
  return row < 0 ? null : worth(method.scores[row]);
};

const choice = () => {
  const own = isStored();
  const live = chosenPreview?.pick ?? null;
  const rivals = [
    ["Pick", own ? recommendation.alpha : live === null ? null : chosenPreview.alphas[live], recommendation],
    ["Robust centre", recommendation.centre, recommendation.centre_scores],
    ["Knee", chosenPreview ? kneeOf(chosenPreview) : null, recommendation.knee],
    ["Uniform", recommendation.uniform?.alpha ?? data.tasks.map(() => 1 / T), recommendation.uniform],
    ["Size-proportional", recommendation.size_proportional?.alpha, recommendation.size_proportional],
  ].filter(([, alpha]) => Array.isArray(alpha) && alpha.length === T);
  const known = (more, key, method, alpha) => (own && isNumber(more?.[key]) ? more[key] : scoreOf(method, alpha));
  // The robust centre is of the study's own preference alone: under another its row stays, empty, so that nothing moves.
  const rows = rivals.map(([name, alpha, more]) =>
    !own && name === "Robust centre"
      ? { name, alpha: null }
      : {
          name,
          alpha,
          preview: known(more, "score", chosenPreview, alpha),
          true: known(more, "true_score", truth, alpha),
          gain: own ? more?.true_gain_over_uniform : null,
        },
  );
  const uniformRow = rows.find((row) => row.name === "Uniform");
  // The pick need not have been trained: its gain may come from the trained weighting nearest to it, and says so.
  const nearby = own && recommendation.gain_from === "truth" ? recommendation.gain_at : null;
  if (nearby && rows[0]?.name === "Pick")
    Object.assign(rows[0], { gain: recommendation.gain, at: same(nearby, rows[0].alpha) ? null : nearby });
  const gainOf = (row) =>
    isNumber(row.gain?.value)
      ? row.gain.value
      : isNumber(row.true) && isNumber(uniformRow?.true)
        ? row.true - uniformRow.true
        : null;
  const bar = (a) =>
    svg(
      "svg",
      { viewBox: "0 0 100 4", preserveAspectRatio: "none", "aria-hidden": "true" },
      svg("rect", { width: 100, height: 4, rx: 2, fill: "var(--rule)" }),
      svg("rect", { width: 100 * a, height: 4, rx: 2, fill: "var(--accent)" }),
    );
  const best = data.comparison?.truth ?? {};
  const extra =
    truth && truth.pick !== null
      ? [
          {
            name: "Best of the truth",
            alpha: truth.alphas[truth.pick],
            preview: scoreOf(chosenPreview, truth.alphas[truth.pick]),
            true: (own ? best.best_score : null) ?? scoreOf(truth, truth.alphas[truth.pick]),
          },
        ]
      : [];
  at("choice-caption").textContent =
    `Task weights, and the ${own && recommendation.measure ? recommendation.measure : measured()} (${data.unit})${chosenPreview ? ` as previewed by ${chosenPreview.label}` : ""}.`;
  put(
    "choice",
    el(
      "table",
      {},
      el(
        "thead",
        {},
        el(
          "tr",
          {},
          el("th", { scope: "col" }, "Weighting"),
          data.tasks.map((t) => el("th", { scope: "col", class: "task", title: t }, shorten(t, 28))),
          el("th", { scope: "col" }, "previewed", el("br"), "(biased low)"),
          truth ? el("th", { scope: "col" }, "true,", el("br"), "really trained") : null,
          truth ? el("th", { scope: "col" }, "true, against", el("br"), "uniform") : null,
        ),
      ),
      el(
        "tbody",
        {},
        [...rows, ...extra].map((row, i) =>
          el(
            "tr",
            { class: i === 0 ? "best" : null },
            el("th", { scope: "row" }, row.name),
            (row.alpha ?? data.tasks.map(() => null)).map((a) =>
              el("td", { class: "bar" }, a === null ? "–" : [weight(a), bar(a)]),
            ),
            el("td", {}, score(row.preview)),
            truth
              ? el("td", {}, isNumber(row.true) || !row.alpha ? score(row.true) : el("small", {}, "not trained"))
              : null,
            truth
              ? el(
                  "td",
                  {},
                  row === uniformRow ? "–" : signed(gainOf(row), digits),
                  row !== uniformRow ? span(row.gain?.interval) : null,
                  row.at ? el("small", {}, ` at ${row.at.map(weight).join(" / ")}, nearest trained`) : null,
                )
              : null,
          ),
        ),
      ),
    ),
  );
  const note = [];
  if (truth && rows.some((row) => row.gain?.interval))
    note.push("In brackets: 95 % intervals over test items, both weightings on the same items.");
  const rule =
    recommendation.region_rule === "range"
      ? "score within 1 % of the range of the pick"
      : "cannot be told from the pick";
  if (!own) note.push("These are the picks under the preference that is set below, not the study's own.");
  if (own && isNumber(recommendation.region_fraction))
    note.push(
      `Near-best region: ${percent(recommendation.region_fraction)} of ${recommendation.region_rule === "surrogate" ? "all weightings, going by what lies between those that were evaluated," : "the previewed weightings"} ${rule} ${dotsBetween(chosenPreview) ? "(dotted in the interpolated picture below)" : "(dotted in the picture below)"}; the robust centre lies deepest inside.`,
    );
  const noise = quality[data.chosen]?.regret_noise;
  if (own && isNumber(noise))
    note.push(`Differences in true score up to ${score(noise)} are within the noise of the test items.`);
  note.push(
    "Previews rank weightings; the level of a previewed score is usually too low, so compare previewed scores with each other, never with true ones.",
  );
  at("choice-note").textContent = note.join(" ");
};

// What stands above the sliders may shrink or grow with the preference; the slider under the hand stays where it is.
const steadily = (redraw) => {
  const top = () => at("preference").getBoundingClientRect().top;
  const section = at("choice").parentElement;
  const before = top();
  section.style.minHeight = "";
  redraw();
  const lost = before - top();
  if (lost > 0 && !isStored()) section.style.minHeight = `${section.getBoundingClientRect().height + lost}px`;
  if (Math.abs(top() - before) > 0.5) scrollBy({ top: top() - before, behavior: "instant" });
};
