// What the live preference picks: one line under the sliders, and the mark on the sentence that was made for another one.

const worthOf = (method, row) => (row === null || row < 0 ? null : worth(method.scores[row]));
const dashed = (alpha) => alpha.map(weight).join(" / ");

const NEAR = 0.05; // a joint run speaks for a pick if no weight differs by more, as previa.study.recommend has it

// The row of the trained weighting nearest to this one, if it is near enough to speak for it; null: none is.
const nearestTrained = (alpha) => {
  const rows = truth ? truth.alphas.map((_, row) => row).filter((row) => truth.scores[row][0] !== null) : [];
  const far = (row) => Math.hypot(...truth.alphas[row].map((a, t) => a - alpha[t]));
  const best = rows.reduce((best, row) => (best === null || far(row) < far(best) - 1e-9 ? row : best), null);
  return best !== null && truth.alphas[best].every((a, t) => Math.abs(a - alpha[t]) <= NEAR + 1e-6) ? best : null;
};

const live = () => {
  const own = isStored();
  at("sentence").classList.toggle("aside", !own);
  at("sentence-mark").hidden = own;
  if (at("disagreement-mark")) at("disagreement-mark").hidden = own;
  const method = byKey.get(state.method);
  const pick = method.pick;
  const node = at("live");
  node.classList.toggle("on", !own);
  if (pick === null) {
    delete node.dataset.pick;
    node.textContent = `${method.label}: no weighting was scored.`;
    return;
  }
  const alpha = method.alphas[pick];
  const near = regionOf(method);
  const { kept, allowed, short, value } = ofWish(method);
  Object.assign(node.dataset, { pick: alpha.join(","), value: String(value[pick]), short: String(short[pick]) });
  const each = data.tasks.map((t, i) => `${shorten(t)} ${score(method.scores[pick][i])}${plusMinus(halfOf(method, pick, i))}`);
  const said = [
    `${own ? "The study's own preference" : "Your preference"}: ${method.label} picks ${dashed(alpha)}, ${measure()} ${score(value[pick])}${method.truth ? "" : " as previewed"} (${each.join(", ")}).`,
  ];
  if (floored())
    said.push(
      kept
        ? `${allowed.filter(Boolean).length} of ${method.alphas.length} weightings keep ${wish.floors.filter((f) => f !== null).length > 1 ? "all floors" : "the floor"}.`
        : "No weighting keeps the floors: this one misses them by least.",
    );
  const { by, width } = margin(method);
  const stored = own && method.key === data.chosen && isNumber(recommendation.region_fraction);
  const share = stored // a searched preview's region is interpolated: it has more weightings than were evaluated
    ? recommendation.region_fraction
    : near.length / method.alphas.filter((_, row) => value[row] !== null).length;
  if (kept)
    said.push(
      stored
        ? `About ${percent(share)} of the weightings are as good.`
        : `Roughly ${percent(share)} of the weightings are as good (within ${
            by === "noise" ? `about ${score(width)}, the noise of the test items` : "1 % of the range"
          }).`,
    );
  if (truth && truth !== method && truth.pick !== null) {
    const best = worthOf(truth, truth.pick);
    const row = rowAt(truth, alpha);
    const there = row >= 0 ? worthOf(truth, row) : null;
    const nearby = there === null ? nearestTrained(alpha) : row;
    const top = `the best of the truth has ${score(best)} at ${dashed(truth.alphas[truth.pick])}`;
    if (nearby === null) {
      node.textContent = [...said, `No joint run is near it, so that its regret is not known; ${top}.`].join(" ");
      return;
    }
    const got = worthOf(truth, nearby);
    const off = there === null ? ` (not trained there; this is the nearest run, ${dashed(truth.alphas[nearby])})` : "";
    const broken = floored() && !keeps(truth.scores[nearby]) ? " It truly misses a floor." : "";
    said.push(
      `True ${measure()} ${score(got)}${off}; ${top}: regret ${score(Math.max(0, best - got))}.${broken}`,
    );
  }
  node.textContent = said.join(" ");
};
