// What colours and marks mean.

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
        `${shown()} (${data.unit})${data.methods.length < 2 ? "" : `, the same colours for ${truth ? "the truth and all previews" : "all previews"}`}`,
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
      previews.length ? item("region", "near-best region") : null,
      item("pinned", "pinned"),
      floored()
        ? el("li", {}, svg("svg", { viewBox: "-11 -11 22 22", "aria-hidden": "true" }, T === 3 ? svg("path", { class: "slash", d: "M-6 6L6 -6" }) : svg("circle", { class: "cell short", r: 5 })), "misses a floor")
        : null,
    ),
  );
  put("legend", parts);
};
