// Colours: viridis for scores, uniform to the eye and ordered by lightness alone

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
];
// Magma, from light to dark: of what is no score. Dark is unsure, or contested, as in the pictures of the output folder.
const MAGMA = [
  "fcfdbf",
  "fde2a3",
  "fec488",
  "fea772",
  "fc8961",
  "f56b5c",
  "e75263",
  "d0416f",
  "b73779",
  "9c2e7f",
  "832681",
  "6a1c81",
  "51127c",
  "36106b",
  "1d1147",
  "0a0822",
  "000004",
];
const along = (hexes) => {
  const stops = hexes.map((hex) => [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16)));
  return (x) => {
    const place = Math.max(0, Math.min(1, x)) * (stops.length - 1);
    const low = Math.min(Math.floor(place), stops.length - 2);
    return `rgb(${stops[low].map((c, i) => Math.round(c + (stops[low + 1][i] - c) * (place - low))).join(" ")})`;
  };
};
const viridis = along(VIRIDIS);
const doubt = along(MAGMA);

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
