// The knee of a preview's front, as previa.study.knee finds it: farthest above the plane through the front's ends.

// The rows of a method that no other of these beats: found once for each choice of rows, since weights do not move it.
const frontsFound = new Map();
const frontRows = (method, rows) => {
  const key = `${method.key} ${rows.length === method.scores.length ? "all" : rows.join()}`;
  if (!frontsFound.has(key)) {
    const on = undominated(rows.map((row) => method.scores[row]));
    frontsFound.set(
      key,
      rows.filter((_, i) => on[i]),
    );
  }
  return frontsFound.get(key);
};

const kneeOf = (method) => {
  if (method.key === data.chosen && isStored() && recommendation.knee !== undefined) return recommendation.knee?.alpha ?? null;
  const { allowed } = ofWish(method);
  const rows = method.scores.flatMap((s, row) => (s[0] === null || !allowed[row] ? [] : [row]));
  const front = frontRows(method, rows);
  const spans = data.tasks.map((_, t) => extent(front.map((row) => method.scores[row][t])));
  const traded = data.tasks.map((_, t) => t).filter((t) => spans[t][1] - spans[t][0] > 1e-7 * Math.max(...spans[t].map(Math.abs)));
  if (traded.length < 2) return null;
  const height = (row) =>
    traded.reduce((sum, t) => sum + (method.scores[row][t] - spans[t][0]) / (spans[t][1] - spans[t][0]), -1);
  const best = extent(front.map(height))[1];
  if (!(best > 1e-7)) return null;
  return front
    .filter((row) => height(row) >= best - 1e-6)
    .map((row) => method.alphas[row])
    .reduce((a, b) => (safer(b, a) ? b : a));
};

const knees = () => {
  const method = byKey.get(state.method);
  const alpha = kneeOf(method);
  for (const chart of frontCharts) chart.knee(alpha);
  at("knee").textContent = alpha
    ? `Knee of the previewed front${floored() ? " among what keeps the floors" : ""}: ${dashed(alpha)}. From there, every step towards one task costs the others most.`
    : "The previewed front has no knee: it is straight, hollow, or a single point.";
};
