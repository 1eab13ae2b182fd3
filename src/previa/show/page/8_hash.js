// The view in the address: #m=METHOD&show=1&level=gap&w=1,2,1&f=,0.9,&v=worst&r=1&pin=0.2,0.3,0.5. What differs from the page's
// own start is written, what does not fit this page is ignored.

const numbersOf = (text, good) => {
  const parts = (text ?? "").split(",").map((part) => (part.trim() === "" ? null : Number(part)));
  return parts.length === T && parts.every(good) ? parts : null;
};
const finite = (x) => isNumber(x) && Math.abs(x) < 1e9;

const toHash = () => {
  const parts = new Map();
  if (state.method !== data.chosen) parts.set("m", state.method);
  if (state.show >= 0) parts.set("show", String(state.show));
  if (state.level !== "score") parts.set("level", state.level);
  if (!isStored()) {
    parts.set("w", wish.weights.join(","));
    parts.set("f", wish.floors.map((f) => (f === null ? "" : f)).join(","));
    parts.set("v", wish.worst ? "worst" : "mean");
    parts.set("r", wish.relative ? "1" : "0");
  }
  if (state.pin) parts.set("pin", state.pin.map((a) => Number(a.toFixed(6))).join(","));
  return [...parts].map(([key, value]) => `${key}=${encodeURIComponent(value).replaceAll("%2C", ",")}`).join("&");
};

const fromHash = () => {
  const found = new URLSearchParams(location.hash.slice(1));
  if (location.hash.length > 4000 || !["m", "show", "level", "w", "f", "v", "r", "pin"].some((key) => found.has(key))) return;
  const change = { method: data.chosen, show: -1, level: "score", pin: null, hover: null };
  const method = found.get("m");
  if (byKey.has(method) && (!byKey.get(method).truth || !previews.length)) change.method = method;
  const show = /^\d{1,3}$/.test(found.get("show") ?? "") ? Number(found.get("show")) : -1;
  if (show < T) change.show = show;
  if (found.get("level") === "gap") change.level = "gap";
  const pin = numbersOf(found.get("pin"), (x) => finite(x) && x >= 0);
  // only what some method has scored, or tried to, can be pinned
  const known = pin && data.methods.map((m) => [m, rowAt(m, pin)]).find(([, row]) => row >= 0);
  if (known) change.pin = known[0].alphas[known[1]];
  const next = copyOf(stored);
  const many = numbersOf(found.get("w"), (x) => finite(x) && x >= 0);
  if (many && many.some((x) => x > 0)) next.weights = many;
  const relative = found.has("r") ? found.get("r") === "1" : stored.relative;
  next.relative = relative && (noExpert === null || stored.relative);
  const floors = numbersOf(found.get("f"), (x) => x === null || finite(x));
  if (floors && next.relative === relative) next.floors = floors; // shares of experts mean nothing as scores
  if (["worst", "mean"].includes(found.get("v"))) next.worst = found.get("v") === "worst";
  Object.assign(state, change);
  prefer(next);
  update({ method: state.method }); // draws all anew
};

// Browsers bear some hundred changes of an address in a while, and a slider makes more: the last one of a move is written.
const QUIET = 150; // milliseconds
let known = location.hash; // as this page last read or wrote it
let due = null;
const writeHash = () => {
  if (due === null) due = setTimeout(writeNow, QUIET);
};
const writeNow = () => {
  due = null;
  if (location.hash !== known) return; // somebody else's, which is read next
  const hash = toHash();
  if (`#${hash}` === location.hash || (hash === "" && location.hash === "")) return;
  try {
    history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
  } catch {
    /* a page that may not change its address keeps its view until it is closed */
  }
  known = location.hash;
};
addEventListener("hashchange", () => {
  if (location.hash === known) return;
  known = location.hash;
  fromHash();
});
addEventListener("pagehide", () => {
  if (due !== null) writeNow();
});
