// Four or more tasks: small triangles of one task, another, and all others together. A cell is the best weighting with these
// two weights, whatever the others' are: measured ones only.

const slicing = { first: 0 };
const slicePairs = () => {
  const all = data.tasks.flatMap((_, s) => data.tasks.slice(s + 1).map((_, i) => [s, s + 1 + i]));
  return T <= 4 ? all : all.filter((pair) => pair.includes(slicing.first));
};

const bestOfCells = (method, [s, t]) => {
  const { short } = ofWish(method);
  const value = values(method);
  const cells = new Map();
  method.alphas.forEach((alpha, row) => {
    if (value[row] === null) return;
    const key = `${alpha[s].toFixed(5)} ${alpha[t].toFixed(5)}`,
      had = cells.get(key);
    const better = had === undefined || short[row] < short[had] - 1e-12 || (short[row] <= short[had] + 1e-12 && value[row] > value[had]);
    if (better) cells.set(key, row);
  });
  return [...cells.values()];
};

const slice = (method, [s, t]) => {
  const rows = bestOfCells(method, [s, t]);
  const alphas = rows.map((row) => method.alphas[row]);
  const best = rows.reduce((a, row, i) => (valueAt(method, row) > valueAt(method, rows[a]) ? i : a), 0);
  const part = {
    key: `slice ${method.key} ${s} ${t}`,
    label: method.label,
    truth: true, // no marks of a pick of its own
    alphas,
    scores: rows.map((row) => method.scores[row]),
    errors: method.errors ? rows.map((row) => method.errors[row]) : null,
    pick: best,
  };
  const located = (alpha) => place([alpha[s], alpha[t], 1 - alpha[s] - alpha[t]]);
  const places = alphas.map(located);
  const { root, shapes } = triangleOf(
    places,
    [data.tasks[s], data.tasks[t], "all others"],
    `${method.label}: best of all weightings by the weights of ${data.tasks[s]} and ${data.tasks[t]}. Arrow keys walk, Enter pins.`,
  );
  const colour = scale().of(method);
  shapes.forEach((shape, i) => {
    shape.setAttribute("fill", colour(valueAt(method, rows[i])));
    shape.classList.toggle("short", ofWish(method).short[rows[i]] > 0);
  });
  const short = places.filter((_, i) => ofWish(method).short[rows[i]] > 0);
  root.append(svg("path", { class: "slash over", d: short.map(([x, y]) => `M${(x - 5).toFixed(1)} ${(y + 5).toFixed(1)}l10 -10`).join("") }));
  const chosen = method.pick === null ? [] : markers.pick(...located(method.alphas[method.pick]));
  root.append(svg("g", { class: "over" }, chosen));
  const marks = shapes.length ? livePoints(root, part, places, shapes, { locate: located, bare: true }) : () => {};
  marks();
  return { node: el("figure", { "data-pair": `${s} ${t}` }, root), marks };
};

const slices = (method) => {
  const drawn = slicePairs().map((pair) => slice(method, pair));
  const chooser =
    T <= 4
      ? null
      : el(
          "label",
          { class: "chooser" },
          "Pairs with ",
          el(
            "select",
            {
              id: "slice-task",
              change: (event) => {
                slicing.first = Number(event.target.value);
                update({ show: state.show });
                at("slice-task").focus();
              },
            },
            data.tasks.map((task, t) => el("option", { value: t, selected: t === slicing.first }, task)),
          ),
        );
  const node = el(
    "div",
    { class: "block" },
    el("h3", {}, "Two tasks at a time"),
    el(
      "p",
      { class: "note" },
      `${method.label}. Every cell is the best measured weighting with these weights of two tasks, over all weights of the others; the star is the pick.`,
    ),
    chooser,
    el("div", { class: "small-maps", id: "slices" }, drawn.map((d) => d.node)),
  );
  return { node, marks: () => drawn.forEach((d) => d.marks()) };
};
