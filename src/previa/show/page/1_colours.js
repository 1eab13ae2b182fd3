// Colours: viridis, uniform to the eye and ordered by lightness alone

const VIRIDIS = [
  "440154",
  "48186a",
  "472d7b",
  "424086",
  "3b528b",
  "33638d",
  "2c728e",
  "26828e",
  "21918c",
  "1fa088",
  "28ae80",
  "3fbc73",
  "5ec962",
  "84d44b",
  "addc30",
  "d8e219",
  "fde725",
].map((hex) => [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16)));
const viridis = (x) => {
  const place = Math.max(0, Math.min(1, x)) * (VIRIDIS.length - 1);
  const low = Math.min(Math.floor(place), VIRIDIS.length - 2);
  return `rgb(${VIRIDIS[low].map((c, i) => Math.round(c + (VIRIDIS[low + 1][i] - c) * (place - low))).join(" ")})`;
};

// One scale for the truth and every preview, so that choosing another method never changes what a colour means.
const scale = () => {
  const all = data.methods.map((m) => values(m));
  if (state.level === "score") {
    const [low, high] = extent(all.flat());
    return { level: "score", low, high, of: () => (v) => viridis(high > low ? (v - low) / (high - low) : 0.5) };
  }
  const largest =
    Math.max(
      ...all
        .map((v) => {
          const [low, high] = extent(v);
          return high - low;
        })
        .filter(isNumber),
      0,
    ) || 1;
  const noise = state.show < 0 && isStored() ? extent(Object.values(quality).map((q) => q?.regret_noise))[1] : -Infinity;
  const known = noise > largest / 256 && noise < largest / 4;
  let edge = known ? noise : largest / 64;
  const bands = [];
  for (; edge < largest; edge *= 2) bands.push(edge);
  bands.push(largest);
  const colour = (gap) =>
    viridis(1 - (bands.findIndex((b) => gap <= b * (1 + 1e-9)) / Math.max(1, bands.length - 1)) * 0.96);
  return {
    level: "gap",
    bands,
    known,
    colour,
    of: (method) => {
      const best = extent(values(method))[1];
      return (v) => colour(best - v);
    },
  };
};
