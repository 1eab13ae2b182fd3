// The first drawing, and what is drawn again on which change.

let maps = [];
const draw = () => {
  const method = byKey.get(state.method);
  if (T === 2) maps = [curves()];
  else {
    const make = T === 3 ? triangle : scatter;
    maps = [truth, method].filter((m, i, all) => m && all.indexOf(m) === i).map(make);
  }
  const lines = T > 3 ? [parallel(method), slices(method)] : [];
  at("maps").classList.toggle("curves", T === 2);
  put("maps", ...maps.map((m) => m.node));
  put("many", ...lines.map((m) => m.node));
  maps = [...maps, ...lines];
};
const paint = () => {
  for (const map of [...maps, ...sharperMaps]) (map.paint ?? map.marks)?.();
};

const HELP = {
  2: "Score against the first task's weight. Point at a weighting to read it, click to pin it; with the keyboard: Tab, then the arrow keys, Enter pins, Escape lets go.",
  3: "Each corner trains one task alone, the middle is uniform; every cell is one weighting. Point at a cell to read it, click to pin it; with the keyboard: Tab, then the arrow keys, Home goes to the pick, Enter pins, Escape lets go.",
};

theme();
document.querySelector("details.all").open = T > 3; // the table is the better picture there
document.querySelector("details.all").addEventListener("toggle", () => weightings());
at("map-help").textContent =
  HELP[T] ??
  "Every point is one weighting: how good it is on one task, and on another. Point at it to read it, click to pin it; with the keyboard: Tab, then the arrow keys, Enter pins, Escape lets go.";
at("foot").textContent =
  `Made by previa${facts.version ? ` ${facts.version}` : ""}${facts.date ? `, ${facts.date}` : ""}. This file is complete in itself and never uses the network. The method: “How to Weight Multitask Finetuning? Fast Previews via Bayesian Model-Merging”, arXiv 2412.08147.`;
const syncWish = preferencePanel();
const syncWhatIf = whatIf();
choice();
controls();
tradeoffs();
qualityTable();
validation();
sharpened();
costs();
trust();
at("beside").classList.toggle("beside", T <= 3);
put("disagreement-place", disagreementMap());

listeners.push((change) => {
  if (change.wish)
    steadily(() => {
      choice();
      live();
    });
  if ("hover" in change || "pin" in change) {
    for (const map of [...maps, ...sharperMaps]) map.marks?.();
    rowMarks();
    if ("pin" in change) syncWhatIf(change);
  } else {
    if (T === 2 || "method" in change || T > 3) draw();
    paint();
    legend();
    histograms();
    if (document.querySelector("details.all").open) weightings();
    inBetween();
    if (!change.wish) live();
    syncWhatIf(change);
    if ("method" in change && change.follow === undefined) controls();
  }
  if (change.wish) syncWish();
  panel();
  if (!("hover" in change) || "pin" in change) writeHash();
});
draw();
syncWish();
update({ show: -1 });
weightings();
fromHash();
// Focus that goes from a point to the panel keeps that weighting in view, so that Tab and Enter copy its command.
at("panel").addEventListener("focusout", (event) => {
  if (event.relatedTarget && !at("panel").contains(event.relatedTarget)) update({ hover: null });
});
let resized;
addEventListener("resize", () => {
  clearTimeout(resized);
  resized = setTimeout(() => {
    width = null;
    update({ show: state.show });
  }, 150);
});
