// The data, the state, and small builders. Text enters the page as text nodes only: names are never parsed as HTML.

const data = JSON.parse(document.getElementById("data").textContent);
const T = data.tasks.length;
for (const method of data.methods) method.alphas = data.designs[method.design];
const truth = data.methods.find((m) => m.truth) ?? null;
const previews = data.methods.filter((m) => !m.truth);
const byKey = new Map(data.methods.map((m) => [m.key, m]));
const recommendation = data.recommendation;
const facts = data.facts;
const quality = data.comparison?.methods ?? {};

// show: -1 is the mean over tasks, otherwise a task's number. level: "score", or "gap" below a map's own best.
const state = { method: data.chosen, show: -1, level: "score", hover: null, pin: null };
// A change of the preference goes through `prefer` (1_preference.js), which is told apart by change.wish.
const listeners = [];
const update = (change) => {
  if ("hover" in change && change.hover === state.hover && !("pin" in change)) return;
  Object.assign(state, change);
  for (const listener of listeners) listener(change);
};

const fill = (node, attributes, children) => {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value !== null && value !== undefined && value !== false)
      node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...tidy(children));
  return node;
};
const tidy = (children) =>
  children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== "");
const put = (id, ...children) => document.getElementById(id).replaceChildren(...tidy(children));
const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
const at = (id) => document.getElementById(id);

// Numbers

const isNumber = (x) => typeof x === "number" && Number.isFinite(x);
const shorten = (text, most = 22) =>
  text.length <= most ? text : `${text.slice(0, most / 2 - 1).trimEnd()}…${text.slice(1 - most / 2).trimStart()}`;
const fixed = (x, digits) =>
  isNumber(x)
    ? x
        .toFixed(digits)
        .replace("-", "−")
        .replace(/^−(0(?:\.0*)?)$/, "$1")
    : "–";
const signed = (x, digits) => (isNumber(x) && x > 0 ? "+" : "") + fixed(x, digits);
const percent = (x) => (isNumber(x) ? `${(100 * x).toFixed(100 * x < 10 ? 1 : 0)} %` : "–");
const weight = (x) => (Math.abs(x * 100 - Math.round(x * 100)) < 1e-6 ? x.toFixed(2) : x.toFixed(3));
const small = (x) =>
  !isNumber(x)
    ? "–"
    : x !== 0 && Math.abs(x) < 1e-3
      ? x.toExponential(1).replace("-", "−").replace("e−", "e−")
      : fixed(x, 4);

const duration = (seconds) => {
  if (!isNumber(seconds)) return "–";
  if (seconds < 10) return `${seconds.toPrecision(2)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60)} min`;
};

const extent = (numbers) =>
  numbers.filter(isNumber).reduce(([low, high], x) => [Math.min(low, x), Math.max(high, x)], [Infinity, -Infinity]);

// Axes

const ticks = (low, high, about = 5) => {
  const raw = (high - low || 1) / about;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((n) => n * power).find((s) => s >= raw);
  const places = Math.max(0, Math.min(6, 1 - Math.floor(Math.log10(step)) + (step / power === 2.5 ? 0 : -1)));
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.max(0, Math.floor(high / step + 1e-9) - first + 1) }, (_, i) => ({
    at: (first + i) * step,
    text: fixed((first + i) * step, places),
  }));
};

// Tick labels below a picture that stretches: text of constant size, placed by percentages.
const ruler = (marks) =>
  el(
    "div",
    { class: "ruler", "aria-hidden": "true" },
    marks.map(({ x, text }) => {
      const span = el("span", {}, text);
      span.style.left = `${100 * x}%`;
      return span;
    }),
  );
