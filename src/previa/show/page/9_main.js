// Controls, the legend, the theme, and the first drawing.

const radios = (name, legend, options, current, choose) =>
  el(
    "fieldset",
    {},
    el("legend", {}, legend),
    el(
      "div",
      { class: "choices" },
      options.map(([value, label]) =>
        el(
          "label",
          {},
          el("input", { type: "radio", name, value, checked: value === current, change: () => choose(value) }),
          shorten(label, 40),
        ),
      ),
    ),
  );

const controls = () => {
  const chosen = previews.length ? previews : data.methods;
  const pick = (name, axis) =>
    el(
      "label",
      {},
      `${name} `,
      el(
        "select",
        {
          change: (event) => {
            scatterAxes[axis] = Number(event.target.value);
            update({ show: state.show });
          },
        },
        data.tasks.map((t, i) => el("option", { value: i, selected: i === scatterAxes[axis] }, t)),
      ),
    );
  put(
    "controls",
    radios(
      "method",
      "Preview",
      chosen.map((m) => [m.key, m.label]),
      state.method,
      (method) => update({ method }),
    ),
    radios(
      "show",
      T === 2 ? "Curve of" : "Colour by",
      [["-1", "mean"], ...data.tasks.map((t, i) => [String(i), t])],
      "-1",
      (show) => update({ show: Number(show) }),
    ),
    radios(
      "level",
      "As",
      [
        ["score", "score"],
        ["gap", T === 2 ? "distance below each curve's best" : "distance below each map's best"],
      ],
      "score",
      (level) => update({ level }),
    ),
    T > 3 ? el("fieldset", {}, el("legend", {}, "Axes"), pick("across", 0), " ", pick("up", 1)) : null,
  );
};

let maps = [];
const draw = () => {
  const method = byKey.get(state.method);
  if (T === 2) maps = [curves()];
  else {
    const make = T === 3 ? triangle : scatter;
    maps = [truth, method].filter((m, i, all) => m && all.indexOf(m) === i).map(make);
  }
  put("maps", ...maps.map((m) => m.node));
};
const paint = () => {
  for (const map of [...maps, ...sharperMaps]) (map.paint ?? map.marks)();
};

const strip = (colours, marks, words, label) => {
  // colours side by side, each with its share of the width
  const bar = el("div", { class: "strip", role: "img", "aria-label": `${label}: ${words}` });
  bar.style.backgroundImage = `linear-gradient(to right, ${colours.map((c, i) => `${c} ${(100 * i) / colours.length}% ${(100 * (i + 1)) / colours.length}%`).join(", ")})`;
  return el("div", { class: "scale" }, bar, ruler(marks), el("div", {}, words));
};

const legend = () => {
  const parts = [],
    s = scale();
  if (T !== 2 && s.level === "score") {
    const steps = 60,
      x = (v) => (s.high > s.low ? (v - s.low) / (s.high - s.low) : 0.5);
    const colours = Array.from({ length: steps }, (_, i) => viridis((i + 0.5) / steps));
    parts.push(
      strip(
        colours,
        ticks(s.low, s.high, innerWidth < 640 ? 4 : 6).map((t) => ({ x: x(t.at), text: t.text })),
        `${shown()} (${data.unit}), the same colours for the truth and all previews`,
        `Colours from ${score(s.low)} to ${score(s.high)}`,
      ),
    );
  } else if (T !== 2) {
    parts.push(
      strip(
        s.bands.map(s.colour),
        s.bands.map((b, i) => ({ x: (i + 1) / s.bands.length, text: score(b) })),
        `${shown()} (${data.unit}): at most so far below the map's own best${s.known ? "; the first band is within the noise" : ""}`,
        "Bands below each map's best",
      ),
    );
  }
  const item = (kind, words) =>
    el("li", {}, svg("svg", { viewBox: "-11 -11 22 22", "aria-hidden": "true" }, markers[kind](0, 0)), words);
  parts.push(
    el(
      "ul",
      {},
      previews.length ? item("pick", "the preview's pick") : null,
      truth ? item("best", "best of the truth") : null,
      sharper?.anchored.length && sharper.anchors.length ? item("anchor", "a joint run that is an anchor") : null,
      item("uniform", "uniform weights"),
      recommendation.region?.length ? item("region", "near-best region of the recommended preview") : null,
      item("pinned", "pinned"),
    ),
  );
  put("legend", parts);
};

const HELP = {
  2: "Score against the first task's weight. Point at a weighting to read it, click to pin it; with the keyboard: Tab, then the arrow keys, Enter pins, Escape lets go.",
  3: "Each corner trains one task alone, the middle is uniform; every cell is one weighting. Point at a cell to read it, click to pin it; with the keyboard: Tab, then the arrow keys, Home goes to the pick, Enter pins, Escape lets go.",
};

const theme = () => {
  const button = at("theme"),
    root = document.documentElement;
  const dark = () =>
    (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const name = () => {
    button.textContent = dark() ? "Light" : "Dark";
  };
  try {
    const kept = localStorage.getItem("previa-theme");
    if (kept === "dark" || kept === "light") root.dataset.theme = kept;
  } catch {
    /* no storage for pages from disk: the system's choice stands */
  }
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    try {
      localStorage.setItem("previa-theme", root.dataset.theme);
    } catch {
      /* as above */
    }
    name();
  });
  name();
};

theme();
document.querySelector("details.all").open = T > 3; // the table is the better picture there
at("map-help").textContent =
  HELP[T] ??
  "Every point is one weighting: how good it is on one task, and on another. Point at it to read it, click to pin it; with the keyboard: Tab, then the arrow keys, Enter pins, Escape lets go.";
at("foot").textContent =
  `Made by previa${facts.version ? ` ${facts.version}` : ""}${facts.date ? `, ${facts.date}` : ""}. This file is complete in itself and never uses the network. The method: “How to Weight Multitask Finetuning? Fast Previews via Bayesian Model-Merging”, arXiv 2412.08147.`;
choice();
controls();
tradeoffs();
qualityTable();
sharpened();
costs();
trust();
listeners.push((change) => {
  if ("hover" in change || "pin" in change) {
    for (const map of [...maps, ...sharperMaps]) map.marks();
  } else {
    if (T === 2 || "method" in change || T > 3) draw();
    paint();
    legend();
    histograms();
    weightings();
  }
  panel();
});
draw();
update({ show: -1 });
// Focus that goes from a point to the panel keeps that weighting in view, so that Tab and Enter copy its command.
at("panel").addEventListener("focusout", (event) => {
  if (event.relatedTarget && !at("panel").contains(event.relatedTarget)) update({ hover: null });
});
let resized;
addEventListener("resize", () => {
  clearTimeout(resized);
  resized = setTimeout(() => update({ show: state.show }), 150);
});
