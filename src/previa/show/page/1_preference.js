// What counts as good: the preference of the sliders, with the meaning of previa.study.preference.

const SLACK = 64 * Number.EPSILON; // of the largest score: a floor is not missed by rounding
const TIE = 3e-8; // scores come with eight digits: what differs by less is equal
const Z = 1.96;

const stored = data.preference;
const experts = data.experts; // each task's score of its own expert, null where it is not known
const noExpert = data.tasks.find((_, t) => !(experts[t] > 0)) ?? null;
const importance = data.importance; // how much each task counts in the study's own mean; sums to 1
const copyOf = (p) => ({ ...p, weights: [...p.weights], floors: [...p.floors] });
const wish = copyOf(stored); // weights and floors by task; worst: the least of the tasks that count; relative: as shares of experts

const isStored = () =>
  wish.worst === stored.worst &&
  wish.relative === stored.relative &&
  wish.weights.every((w, t) => Math.abs(w - stored.weights[t]) < 1e-9) &&
  wish.floors.every((f, t) => f === stored.floors[t]);

const counts = () => {
  const sum = wish.weights.reduce((a, b) => a + b, 0);
  return wish.weights.map((w) => w / sum);
};
let w = counts(); // sums to 1
const seen = (s, t) => (wish.relative ? s / experts[t] : s);

// The one number of a weighting's scores; null where it failed.
const worth = (scores) => {
  if (scores[0] === null) return null;
  if (!wish.worst) return scores.reduce((sum, s, t) => sum + seen(s, t) * w[t], 0);
  return Math.min(...scores.map((s, t) => (w[t] > 0 ? seen(s, t) : Infinity)));
};
const shortfall = (scores) =>
  scores.reduce((sum, s, t) => {
    if (wish.floors[t] === null) return sum;
    const x = seen(s, t),
      missed = Math.max(0, wish.floors[t] - x);
    return sum + (missed <= SLACK * Math.max(Math.abs(x), 1) ? 0 : missed);
  }, 0);
const floored = () => wish.floors.some((f) => f !== null);
const keeps = (scores) => scores[0] !== null && shortfall(scores) === 0;

// What a preference says of a method, computed once for each preference: value, what misses a floor, who may be picked.
let cache = new Map();
const ofWish = (method) => {
  if (!cache.has(method.key)) {
    const value = method.scores.map(worth);
    const short = method.scores.map((s) => (s[0] === null ? null : shortfall(s)));
    const least = extent(short)[0];
    const allowed = short.map((x) => x !== null && x <= least + SLACK * Math.max(Math.abs(least), 1));
    cache.set(method.key, { value, short, allowed, kept: least === 0 });
  }
  return cache.get(method.key);
};

const fromUniform = (alpha) => Number(Math.hypot(...alpha.map((a) => a - 1 / T)).toFixed(6));
const safer = (a, b) => {
  const near = fromUniform(a) - fromUniform(b);
  return near !== 0 ? near < 0 : a.some((x, t) => x < b[t] && a.slice(0, t).every((y, s) => y === b[s]));
};
// The best of those that keep the floors (none does: that miss them least); ties: the nearest to uniform.
const pickOf = (method) => {
  const { value, allowed } = ofWish(method);
  const best = extent(value.filter((_, row) => allowed[row]))[1];
  if (!isNumber(best)) return null;
  const tie = best - TIE * Math.max(Math.abs(best), Math.abs(extent(value)[0]));
  return value.reduce(
    (pick, v, row) =>
      allowed[row] && v >= tie && (pick === null || safer(method.alphas[row], method.alphas[pick])) ? row : pick,
    null,
  );
};
for (const method of data.methods) method.own = method.pick; // as Python chose it, from scores with all digits
const repick = () => {
  for (const method of data.methods) method.pick = isStored() ? method.own : pickOf(method);
};

const prefer = (change) => {
  Object.assign(wish, change);
  w = counts();
  cache = new Map();
  repick();
  update({ wish: true });
};

const typical = (noise, t) => (isNumber(noise?.[t]) ? (wish.relative ? noise[t] / experts[t] : noise[t]) : null);
// Differences of value up to this are about the noise of the test items; without items 1 % of the range, as Python does.
const margin = (method) => {
  const parts = data.tasks.map((_, t) => (w[t] > 0 ? typical(method.noise, t) : 0));
  if (parts.some((n) => n === null)) {
    const [low, high] = extent(ofWish(method).value);
    return { by: "range", width: 0.01 * (high - low) };
  }
  const width = wish.worst ? Math.max(...parts) : Math.hypot(...parts.map((n, t) => n * w[t]));
  return { by: "noise", width: Z * width };
};
// Of a search the region of the recommendation lies between the evaluated weightings: it is drawn where these are interpolated.
const dotsBetween = (method) =>
  T === 3 &&
  isStored() &&
  method?.key === data.chosen &&
  recommendation.region_rule === "surrogate" &&
  Boolean(data.surrogates?.[method.key]);
const regionOf = (method) => {
  if (isStored() && method.key === data.chosen && recommendation.region?.length) return recommendation.region;
  const { value, allowed } = ofWish(method);
  if (method.pick === null) return [];
  const least = value[method.pick] - margin(method).width * (1 + 1e-9);
  return method.alphas.filter((_, row) => allowed[row] && value[row] >= least);
};

// Values of what is shown: the preference's, or one task's scores as they are.
const valueAt = (method, row, show = state.show) => (show < 0 ? ofWish(method).value[row] : method.scores[row][show]);
const values = (method, show = state.show) => (show < 0 ? ofWish(method).value : method.scores.map((s) => s[show]));
const same = (a, b) => a.every((x, t) => Math.abs(x - b[t]) < 1e-6); // weights are of order one
const rowAt = (method, alpha) => method.alphas.findIndex((other) => same(alpha, other));
const range = extent(data.methods.flatMap((m) => values(m, -1)));
// Three digits of the range of all values; and, up to three decimals, two of what tells near-best ones apart: the noise, or
// else the range of the chosen method's best quarter, which a few very bad weightings do not widen.
const digits = (() => {
  const wide = Math.max(0, Math.min(5, 3 - Math.floor(Math.log10(Math.max(range[1] - range[0], 1e-3)) + 1)));
  const method = byKey.get(data.chosen);
  const best = (method ? values(method, -1) : []).filter(isNumber).sort((a, b) => b - a);
  const noises = data.tasks.map((_, t) => (w[t] > 0 ? typical(method?.noise, t) : null)).filter((n) => n > 0);
  const unit = noises.length ? Math.min(...noises) : best[0] - best[Math.floor((best.length - 1) / 4)];
  return unit > 0 ? Math.max(wide, Math.min(3, 1 - Math.floor(Math.log10(unit)))) : wide;
})();
const score = (x) => fixed(x, digits);
const even = () => w.every((x) => Math.abs(x - w[0]) < 1e-9);
const measure = () => (wish.worst ? "worst task" : even() ? "mean" : "weighted mean") + (wish.relative ? ", of experts'" : "");
const measured = () =>
  (wish.worst ? "worst task" : `${even() ? "mean" : "weighted mean"} over tasks`) +
  (wish.relative ? ", relative to each task's own expert" : "");
const shown = () => (state.show < 0 ? measured() : data.tasks[state.show]);
const weights = (alpha) => alpha.map((a, t) => `${data.tasks[t]} ${weight(a)}`).join(", ");

// 95 % intervals over test items: half of the width, null where there are no scores of single items.
const halfOf = (method, row, t) => (isNumber(method.errors?.[row]?.[t]) ? Z * method.errors[row][t] : null);
const halfOfWorth = (method, row) => {
  const halves = data.tasks.map((_, t) => {
    const half = halfOf(method, row, t);
    return half === null ? null : wish.relative ? half / experts[t] : half;
  });
  if (method.scores[row][0] === null || halves.some((h, t) => h === null && w[t] > 0)) return null;
  if (!wish.worst) return Math.hypot(...halves.map((h, t) => h * w[t]));
  const worst = method.scores[row].map((s, t) => (w[t] > 0 ? seen(s, t) : Infinity));
  return halves[worst.indexOf(Math.min(...worst))];
};
