// Reasons to believe this page, and reasons not to.

const CONVENTIONS = {
  mean: "Joint training minimises the weighted sum of each task's MEAN loss (convention “mean”): a weight of 0.5 is half of the attention, however much data a task has.",
  sum: "Joint training minimises the weighted sum of each task's SUMMED loss (convention “sum”): at equal weights, a task with twice the data counts twice.",
};
const amount = (n, one, many) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;

const trust = () => {
  const warnings = (facts.warnings ?? []).map(String);
  const sentences = [CONVENTIONS[data.convention] ?? `Convention: ${data.convention}.`];
  const sizes = (of) =>
    data.tasks
      .filter((t) => isNumber(of?.[t]))
      .map((t) => `${t} ${of[t].toLocaleString("en")}`)
      .join(", ");
  const train = sizes(facts.sizes),
    test = sizes(facts.test_sizes);
  if (train) sentences.push(`Training examples: ${train}.`);
  if (test) sentences.push(`Test items behind each score: ${test}.`);
  if (importance.some((w) => Math.abs(w - 1 / T) > 1e-9))
    sentences.push(
      `The mean weighs the tasks' scores: ${data.tasks.map((t, i) => `${t} ${percent(importance[i])}`).join(", ")}.`,
    );
  const failed = data.methods.filter((m) => m.failed > 0);
  sentences.push(
    failed.length
      ? `Failed, and left empty in the pictures: ${failed.map((m) => `${amount(m.failed, "weighting", "weightings")} of ${m.label}`).join(", ")}. Run the study again to retry them.`
      : "No weighting failed.",
  );
  if (truth)
    sentences.push(
      `The truth is ${amount(truth.alphas.length, "weighting", "weightings")} trained jointly, one run each: it has its own noise from run to run, which is not in the error bars.`,
    );
  else sentences.push("Nothing was trained jointly: all scores on this page are previews.");
  if (!Object.values(quality).some((q) => isNumber(q?.regret_noise)) && truth)
    sentences.push(
      "No scores of single test items were kept, so there is no noise floor: small differences may be chance.",
    );
  if (byKey.has("simple") && byKey.has("task_arithmetic"))
    sentences.push(
      "Task arithmetic is simple averaging by construction where weights sum to one, as they do here. Two equal rows are no coincidence and no second opinion.",
    );
  const others = Object.entries(recommendation.others ?? {}).filter(([key]) => byKey.has(key));
  const inside = others.filter(([, other]) => other?.pick_in_region).map(([key]) => byKey.get(key).short);
  if (others.length)
    sentences.push(
      `Of ${amount(others.length, "other method", "other methods")}, ${inside.length || "none"} ${inside.length === 1 ? "picks" : "pick"} a weighting inside the near-best region${inside.length ? ` (${inside.join(", ")})` : ""}.`,
    );
  sentences.push(
    "Previewed scores are biased low: a merged model is worse than one trained at the same weighting. Ranks and regions carry over, levels do not.",
  );
  for (const fact of facts.notes ?? []) sentences.push(String(fact));
  put(
    "trust",
    warnings.length
      ? el(
          "ul",
          { class: "warnings", "aria-label": "Warnings" },
          warnings.map((w) => el("li", {}, w)),
        )
      : el("p", { class: "note" }, "No warnings were raised in this study."),
    preflight().length
      ? [el("h3", {}, "Checked before the previews"), el("ul", { class: "checks", "aria-label": "Checks" }, preflight())]
      : null,
    el(
      "ul",
      { class: "facts" },
      sentences.map((s) => el("li", {}, s)),
    ),
  );
};
