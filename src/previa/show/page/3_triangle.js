// Three tasks: the triangle of weightings. Each weighting owns the part of the triangle nearest to it (its Voronoi cell),
// so nothing is drawn between weightings that was not measured, whatever design they come from.

const CORNERS = [
  [200, 26],
  [24, 331],
  [376, 331],
];
const place = (alpha) => [0, 1].map((i) => alpha.reduce((sum, a, t) => sum + a * CORNERS[t][i], 0));

const clip = (polygon, [x, y], [u, v]) => {
  // keep what is nearer to (x, y) than to (u, v)
  const side = ([p, q]) => (p - (x + u) / 2) * (u - x) + (q - (y + v) / 2) * (v - y);
  const kept = [];
  polygon.forEach((a, i) => {
    const b = polygon[(i + 1) % polygon.length],
      da = side(a),
      db = side(b);
    if (da <= 0) kept.push(a);
    if ((da < 0 && db > 0) || (da > 0 && db < 0))
      kept.push([0, 1].map((k) => a[k] + ((b[k] - a[k]) * da) / (da - db)));
  });
  return kept;
};

const cells = (places) =>
  places.map((here) => {
    const others = places
      .map((p) => [(p[0] - here[0]) ** 2 + (p[1] - here[1]) ** 2, p])
      .filter(([d]) => d > 1e-9)
      .sort((a, b) => a[0] - b[0]);
    let polygon = CORNERS;
    for (const [distance, other] of others) {
      const reach = Math.max(0, ...polygon.map((p) => (p[0] - here[0]) ** 2 + (p[1] - here[1]) ** 2));
      if (distance > 4 * reach) break; // too far to cut anything off
      polygon = clip(polygon, here, other);
    }
    return polygon;
  });

const sides = () =>
  [
    [0, 1],
    [1, 2],
    [2, 0],
  ].flatMap(([from, to]) =>
    [0.2, 0.4, 0.6, 0.8].map((w) => {
      const alpha = [0, 0, 0];
      alpha[from] = w;
      alpha[to] = 1 - w;
      const [x, y] = place(alpha),
        out = [
          [-14, 0],
          [0, 16],
          [14, 0],
        ][from];
      return svg(
        "text",
        {
          x: x + out[0],
          y: y + out[1] + 4,
          "text-anchor": ["end", "middle", "start"][from],
          "aria-hidden": "true",
        },
        w.toFixed(1),
      );
    }),
  );

// Its cells and names; places: [x, y] of each; what: said to those who do not see it.
const shapesOf = new WeakMap(); // of a list of weightings: cells are cut once
const triangleOf = (places, titles, what, of = places) => {
  if (!shapesOf.has(of)) shapesOf.set(of, cells(places));
  const shapes = shapesOf.get(of).map((polygon) =>
    svg("path", {
      class: "cell",
      d: polygon.length ? `M${polygon.map((p) => p.map((c) => c.toFixed(2)).join(" ")).join("L")}Z` : "M0 0",
    }),
  );
  const names = titles.map((task, t) =>
    svg(
      "text",
      { class: "name", x: [200, 0, 400][t], y: [14, 372, 372][t], "text-anchor": ["middle", "start", "end"][t] },
      svg("title", {}, task),
      shorten(task, t ? 24 : 40),
    ),
  );
  const root = svg(
    "svg",
    {
      viewBox: "0 0 400 382",
      role: "group",
      "aria-label": what,
    },
    ...shapes,
    svg("path", { class: "edge over", d: `M${CORNERS.map((c) => c.join(" ")).join("L")}Z` }),
    ...sides(),
    ...names,
  );
  return { root, shapes };
};

const triangle = (method) => {
  const places = method.alphas.map((alpha) => place(alpha));
  const { root, shapes } = triangleOf(
    places,
    data.tasks,
    `${method.label}: one cell for each weighting. Arrow keys walk, Enter pins.`,
    method.alphas,
  );
  const slashes = svg("path", { class: "slash over" });
  root.append(slashes);
  const marks = livePoints(root, method, places, shapes, { locate: place });
  const paint = () => {
    coloured(method, shapes);
    slashes.setAttribute("d", slashed(method, places));
    marks();
  };
  return { node: framed(method, root, ""), paint, marks };
};
