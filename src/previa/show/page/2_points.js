// What every picture of weightings shares: points one can hover, focus, walk between with arrow keys, and pin.

const starPath = (x, y, r) =>
  `M${Array.from({ length: 10 }, (_, i) => {
    const angle = (Math.PI * i) / 5 - Math.PI / 2,
      radius = i % 2 ? r * 0.42 : r;
    return `${(x + radius * Math.cos(angle)).toFixed(2)} ${(y + radius * Math.sin(angle)).toFixed(2)}`;
  }).join("L")}Z`;

const markers = {
  pick: (x, y) => [svg("path", { class: "star", d: starPath(x, y, 9) })],
  best: (x, y) => [
    svg("circle", { class: "halo", cx: x, cy: y, r: 8 }),
    svg("circle", { class: "ring", cx: x, cy: y, r: 8 }),
  ],
  uniform: (x, y) =>
    ["plus-back", "plus"].map((c) => svg("path", { class: c, d: `M${x - 5} ${y}h10M${x} ${y - 5}v10` })),
  anchor: (x, y) => [svg("path", { class: "anchor", d: `M${x} ${y - 6.5}l6.5 6.5l-6.5 6.5l-6.5 -6.5z` })],
  region: (x, y) => [svg("circle", { class: "dot", cx: x, cy: y, r: 2 })],
  evaluated: (x, y) => ["ring-back", "ring-front"].map((c) => svg("circle", { class: c, cx: x, cy: y, r: 4.4 })),
  here: (x, y) => [svg("circle", { class: "here", cx: x, cy: y, r: 6 })],
  pinned: (x, y) => [svg("circle", { class: "pinned", cx: x, cy: y, r: 7.5 })],
};

const plusMinus = (half) => (isNumber(half) ? ` ± ${score(half)}` : "");
const describe = (method, row) => {
  const scores = method.scores[row];
  if (scores[0] === null) return `${weights(method.alphas[row])}: not scored`;
  const each = data.tasks.map((t, i) => `${t} ${score(scores[i])}${plusMinus(halfOf(method, row, i))}`);
  const missed = floored() && !keeps(scores) ? "; misses a floor" : "";
  return `${weights(method.alphas[row])}: ${measure()} ${score(worth(scores))}; ${each.join(", ")}${missed}`;
};

// Every weighting's colour; what misses a floor is faint, and struck through where there is room.
const coloured = (method, shapes) => {
  const colour = scale().of(method);
  const { short } = ofWish(method);
  values(method).forEach((value, row) => {
    shapes[row].setAttribute("fill", value === null ? "transparent" : colour(value));
    shapes[row].classList.toggle("empty", value === null);
    shapes[row].classList.toggle("short", short[row] > 0);
  });
};
const slashed = (method, places, r = 3.4) => {
  const { short } = ofWish(method);
  return places.map(([x, y], row) => (short[row] > 0 ? `M${(x - r).toFixed(1)} ${(y + r).toFixed(1)}l${2 * r} ${-2 * r}` : "")).join("");
};

const nearest = (places, from, direction) => {
  const [dx, dy] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[direction];
  let best = -1,
    least = Infinity;
  places.forEach(([x, y], row) => {
    const along = (x - from[0]) * dx + (y - from[1]) * dy,
      across = Math.abs((x - from[0]) * dy) + Math.abs((y - from[1]) * dx);
    if (along < 0.5 || across > along * 2.2) return;
    const far = along + across * 1.4;
    if (far < least - 1e-6) [best, least] = [row, far];
  });
  return best;
};

// root: the SVG or group that holds the shapes; method: what it shows; places: [x, y] of each row; shapes: the element of each row;
// locate: the [x, y] of any weighting, where the picture has a place for those that were not scored; bare: without the marks
// of picks and of uniform weights, where points lie too close for them; draw: other marks than these, by kind and row.
const livePoints = (root, method, places, shapes, { locate = null, bare = false, draw = null } = {}) => {
  const overlay = svg("g", { class: "over", "aria-hidden": "true" });
  root.append(overlay);
  let current = method.pick ?? 0;
  const enter = (row) => {
    shapes[current].setAttribute("tabindex", "-1");
    current = row;
    shapes[current].setAttribute("tabindex", "0");
  };
  const pin = (row) => {
    const again = state.pin !== null && same(state.pin, method.alphas[row]);
    update({ pin: again ? null : method.alphas[row], hover: null });
  };
  shapes.forEach((shape, row) =>
    fill(
      shape,
      {
        role: "button",
        tabindex: row === current ? "0" : "-1",
        "aria-pressed": "false",
        "data-row": row,
      },
      [],
    ),
  );
  const rowOf = (event) => (event.target.dataset?.row === undefined ? null : Number(event.target.dataset.row));
  const look = (event) => {
    const row = rowOf(event);
    if (row !== null) update({ hover: method.alphas[row] });
  };
  root.addEventListener("pointerover", (event) => {
    if (event.pointerType === "mouse") look(event);
  });
  root.addEventListener("pointerleave", () =>
    update({ hover: shapes[current].matches(":focus-visible") ? method.alphas[current] : null }),
  );
  root.addEventListener("focusin", (event) => {
    const row = rowOf(event);
    if (row !== null) {
      enter(row);
      if (event.target.matches(":focus-visible")) look(event);
    }
  });
  root.addEventListener("focusout", (event) => {
    if (!at("panel").contains(event.relatedTarget)) update({ hover: null });
  });
  root.addEventListener("click", (event) => {
    const row = rowOf(event);
    if (row !== null) {
      enter(row);
      pin(row);
    }
  });
  root.addEventListener("keydown", (event) => {
    const row = rowOf(event);
    if (row === null) return;
    if (event.key === "Enter" || event.key === " ") pin(row);
    else if (event.key === "Escape") update({ pin: null });
    else {
      const next =
        event.key === "Home"
          ? (method.pick ?? 0)
          : event.key.startsWith("Arrow")
            ? nearest(places, places[row], event.key)
            : null;
      if (next === null) return;
      if (next >= 0) shapes[next].focus();
    }
    event.preventDefault();
  });
  const stamp = (kind, alpha) => {
    const row = alpha ? rowAt(method, alpha) : -1;
    if (row >= 0 && draw) return draw(kind, row);
    if (row >= 0) return markers[kind](...places[row]);
    return alpha && locate ? markers[kind](...locate(alpha)) : [];
  };
  const fixedMarks = () => [
    ...(method.truth || dotsBetween(method) ? [] : regionOf(method).filter((a) => rowAt(method, a) >= 0)).flatMap((alpha) =>
      stamp("region", alpha),
    ),
    ...anchorsOf(method).flatMap((alpha) => stamp("anchor", alpha)),
    ...stamp(
      "uniform",
      data.tasks.map(() => 1 / T),
    ),
    ...(truth && truth.pick !== null ? stamp("best", truth.alphas[truth.pick]) : []),
    ...(!method.truth && method.pick !== null ? stamp("pick", method.alphas[method.pick]) : []),
  ];
  let pressed = -1,
    said = null;
  return () => {
    if (said !== cache) shapes.forEach((shape, row) => shape.setAttribute("aria-label", describe(method, row)));
    said = cache; // a new preference has a new one
    overlay.replaceChildren(...(bare ? [] : fixedMarks()), ...stamp("pinned", state.pin), ...stamp("here", state.hover));
    if (pressed >= 0) shapes[pressed].setAttribute("aria-pressed", "false");
    pressed = state.pin ? rowAt(method, state.pin) : -1;
    if (pressed >= 0) shapes[pressed].setAttribute("aria-pressed", "true");
  };
};

const framed = (method, picture, what) =>
  el(
    "figure",
    { "data-method": method.key },
    el(
      "figcaption",
      {},
      el("b", {}, method.label),
      el(
        "small",
        {},
        `${method.alphas.length} weightings${method.truth ? ", each really trained" : ", previewed"}${what}`,
      ),
    ),
    picture,
  );
