// The recommendation beside its rivals, and the panel of the weighting in view.

const chosenPreview = byKey.get(data.chosen) ?? null;
const scoreOf = (method, alpha) => {
  const row = method ? rowAt(method, alpha) : -1;
  return row < 0 ? null : meanOf(method.scores[row]);
};

const choice = () => {
  const rivals = [
    ["Pick", recommendation.alpha, recommendation],
    ["Robust centre", recommendation.centre, recommendation.centre_scores],
    ["Uniform", recommendation.uniform?.alpha ?? data.tasks.map(() => 1 / T), recommendation.uniform],
    ["Size-proportional", recommendation.size_proportional?.alpha, recommendation.size_proportional],
  ].filter(([, alpha]) => Array.isArray(alpha) && alpha.length === T);
  const known = (more, key, method, alpha) => (isNumber(more?.[key]) ? more[key] : scoreOf(method, alpha));
  const rows = rivals.map(([name, alpha, more]) => ({
    name,
    alpha,
    preview: known(more, "score", chosenPreview, alpha),
    true: known(more, "true_score", truth, alpha),
    gain: more?.true_gain_over_uniform,
  }));
  const uniformRow = rows.find((row) => row.name === "Uniform");
  // The pick need not have been trained: its gain may come from the trained weighting nearest to it, and says so.
  const nearby = recommendation.gain_from === "truth" ? recommendation.gain_at : null;
  if (nearby && rows[0].name === "Pick")
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
            true: best.best_score ?? scoreOf(truth, truth.alphas[truth.pick]),
          },
        ]
      : [];
  at("choice-caption").textContent =
    `Task weights, and the mean score over tasks (${data.unit})${chosenPreview ? ` as previewed by ${chosenPreview.label}` : ""}.`;
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
            row.alpha.map((a) => el("td", { class: "bar" }, weight(a), bar(a))),
            el("td", {}, score(row.preview)),
            truth ? el("td", {}, isNumber(row.true) ? score(row.true) : el("small", {}, "not trained")) : null,
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
  if (isNumber(recommendation.region_fraction))
    note.push(
      `Near-best region: ${percent(recommendation.region_fraction)} of the previewed weightings ${rule} (dotted in the picture below); the robust centre lies deepest inside.`,
    );
  const noise = quality[data.chosen]?.regret_noise;
  if (isNumber(noise))
    note.push(`Differences in true score up to ${score(noise)} are within the noise of the test items.`);
  note.push(
    "Previews rank weightings; the level of a previewed score is usually too low, so compare previewed scores with each other, never with true ones.",
  );
  at("choice-note").textContent = note.join(" ");
};

const copied = el("span", { role: "status", class: "note" });
const copy = async (text, button) => {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // a page opened from disk may not have the clipboard: select the command, and use the older way
    const selection = getSelection();
    selection.selectAllChildren(at("command"));
    if (!document.execCommand("copy")) {
      copied.textContent = "selected: copy it with Ctrl+C";
      return;
    }
  }
  button.textContent = "Copied";
  copied.textContent = "";
  setTimeout(() => {
    button.textContent = "Copy";
  }, 1500);
};

const quoted = (text) => (/^[\w./:@%+=-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
const command = (alpha) =>
  `previa finetune ${quoted(data.study)} --alpha ${alpha.map((a) => String(Number(a.toFixed(6)))).join(",")}`;

const inView = () => {
  if (state.hover) return [state.hover, "In view"];
  if (state.pin) return [state.pin, "Pinned"];
  if (recommendation.alpha?.length === T) return [recommendation.alpha, "Recommended"];
  const method = byKey.get(state.method);
  return [method.alphas[method.pick ?? 0], "The pick"];
};

const panel = () => {
  const [alpha, title] = inView();
  const scoresAt = (method) => {
    const row = rowAt(method, alpha);
    return row < 0 || method.scores[row][0] === null ? null : method.scores[row];
  };
  const shownMethods = [truth, byKey.get(state.method)].filter((m, i, all) => m && all.indexOf(m) === i);
  const columns = shownMethods.map((method) => ({ method, scores: scoresAt(method) }));
  const cells = (of) =>
    columns.map(({ method, scores }) => el("td", { "data-method": method.key }, scores ? score(of(scores)) : "–"));
  const why = columns
    .filter((c) => !c.scores)
    .map(({ method }) =>
      rowAt(method, alpha) >= 0
        ? `${method.short}: this weighting failed.`
        : method.truth
          ? "Truth: not trained at this weighting."
          : `${method.short}: not previewed at this weighting.`,
    );
  const others = previews
    .filter((m) => !shownMethods.includes(m) && scoresAt(m))
    .map((m) => `${m.short} ${score(meanOf(scoresAt(m)))}`);
  const button = el(
    "button",
    { type: "button", class: "quiet", "aria-label": "Copy the command", click: () => copy(command(alpha), button) },
    "Copy",
  );
  at("panel").classList.toggle("live", Boolean(state.hover || state.pin));
  put(
    "panel",
    el(
      "h3",
      {},
      el("span", { id: "panel-title" }, title),
      state.pin
        ? el("button", { type: "button", class: "quiet", click: () => update({ pin: null }) }, "Unpin")
        : null,
    ),
    el(
      "table",
      {},
      el(
        "thead",
        {},
        el(
          "tr",
          {},
          el("td", {}),
          el("th", { scope: "col" }, "weight"),
          columns.map(({ method }) => el("th", { scope: "col" }, method.short)),
        ),
      ),
      el(
        "tbody",
        {},
        data.tasks.map((task, t) =>
          el(
            "tr",
            {},
            el("th", { scope: "row", title: task }, shorten(task, 40)),
            el("td", { class: "weight" }, weight(alpha[t])),
            cells((scores) => scores[t]),
          ),
        ),
        el("tr", { class: "on" }, el("th", { scope: "row" }, "mean"), el("td", {}), cells(meanOf)),
      ),
    ),
    why.length ? el("p", { class: "why" }, why.join(" ")) : null,
    others.length ? el("p", {}, `Mean by the other previews: ${others.join(", ")}.`) : null,
    el("p", {}, "Previewed levels are biased low: compare previews with each other, not with the truth."),
    el(
      "div",
      { class: "command" },
      el(
        "code",
        { id: "command" },
        command(alpha)
          .split(/(--alpha)/)
          .map((part) => (part === "--alpha" ? el("span", {}, part) : part)),
      ),
      button,
    ),
    copied,
  );
};
