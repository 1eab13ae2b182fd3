// What if a task had more weight? The others give way in proportion; what is shown is the nearest weighting that was scored.

const asked = { alpha: null };

const proportional = (alpha, t, to) => {
  const rest = 1 - alpha[t];
  return alpha.map((a, s) => (s === t ? to : rest > 1e-9 ? (a * (1 - to)) / rest : (1 - to) / (T - 1)));
};
const nearestScored = (method, alpha) => {
  const far = (row) => Math.hypot(...method.alphas[row].map((a, t) => a - alpha[t]));
  return method.scores.reduce(
    (best, s, row) =>
      s[0] === null || (best !== null && (far(row) > far(best) + 1e-9 || (far(row) > far(best) - 1e-9 && !safer(method.alphas[row], method.alphas[best]))))
        ? best
        : row,
    null,
  );
};

// A bar from the middle: how much better or worse; faint within the noise of the test items.
const changeBar = (change, most, noise) => {
  const size = most > 0 ? (Math.abs(change) / most) * 48 : 0;
  const faint = isNumber(noise) && Math.abs(change) <= noise;
  return svg(
    "svg",
    { class: "change", viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("rect", { class: `${change < 0 ? "worse" : "better"} ${faint ? "faint" : ""}`, x: change < 0 ? 50 - size : 50, y: 2, width: size, height: 6 }),
    svg("path", { class: "zero", d: "M50 0V10" }),
  );
};

// The sliders are built once, so that one keeps the focus while it moves; the function returned brings them up to date.
const whatIf = () => {
  const parts = data.tasks.map((task, t) => {
    const out = el("output", {});
    const input = el("input", {
      type: "range",
      min: 0,
      max: 1,
      step: 0.01,
      "data-ask": t,
      "aria-label": `Weight of ${task}`,
      input: (event) => {
        const method = byKey.get(state.method);
        asked.alpha = proportional(asked.alpha, t, Number(event.target.value));
        const row = nearestScored(method, asked.alpha);
        if (row !== null) update({ pin: method.alphas[row], hover: null, asked: true });
      },
    });
    return { input, out, row: el("label", { class: "ask" }, el("span", { title: task }, shorten(task, 26)), input, out) };
  });
  const found = el("div", { id: "what-if-found", "aria-live": "polite" });
  put("what-if", el("div", { class: "asks" }, parts.map((p) => p.row)), found);
  return (change) => {
    const method = byKey.get(state.method);
    const pick = method.pick;
    if (pick === null) return found.replaceChildren("No weighting was scored.");
    const [base] = state.pin ? [state.pin] : [method.alphas[pick]];
    if (!change.asked || !asked.alpha) asked.alpha = [...base];
    parts.forEach(({ input, out }, t) => {
      if (Number(input.value) !== Number(asked.alpha[t].toFixed(2)) || !change.asked) input.value = asked.alpha[t].toFixed(2);
      out.textContent = asked.alpha[t].toFixed(2);
    });
    const row = nearestScored(method, asked.alpha);
    const changes = data.tasks.map((_, t) => method.scores[row][t] - method.scores[pick][t]);
    const total = worth(method.scores[row]) - worth(method.scores[pick]);
    const most = Math.max(...data.tasks.map((_, t) => 0).concat(changes.map(Math.abs)), Math.abs(total));
    const noises = data.tasks.map((_, t) => (isNumber(method.noise?.[t]) ? Z * method.noise[t] : null));
    const here = method.alphas[row];
    found.replaceChildren(
      el(
        "p",
        {},
        same(here, asked.alpha) ? "Shown: " : "Shown, the nearest previewed weighting: ",
        el("b", { id: "what-if-alpha" }, dashed(here)),
        row === pick ? ", which is the pick." : `, against the pick ${dashed(method.alphas[pick])}.`,
        floored() && !keeps(method.scores[row]) ? " It misses a floor." : "",
      ),
      el(
        "table",
        {},
        el(
          "tbody",
          {},
          [...data.tasks.map((task, t) => [shorten(task, 26), method.scores[row][t], changes[t], noises[t]]), [measure(), worth(method.scores[row]), total, margin(method).width]].map(
            ([name, s, d, noise], i) =>
              el(
                "tr",
                { class: i === T ? "on" : null },
                el("th", { scope: "row" }, name),
                el("td", {}, score(s)),
                el("td", { class: "delta" }, signed(d, digits)),
                el("td", { class: "drawn" }, changeBar(d, most, noise)),
              ),
          ),
        ),
      ),
      el(
        "p",
        { class: "note" },
        noises.some((n) => n !== null)
          ? "Previewed scores and their change. Faint bars are within about the noise of the test items."
          : "Previewed scores and their change. No scores of single items were kept, so nothing tells what is noise.",
      ),
    );
  };
};
