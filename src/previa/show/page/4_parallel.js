// Four or more tasks: a line for each weighting across the tasks' scores, ending at its value under the preference.

const parallel = (method) => {
  const across = roomy(),
    box = { left: 34, right: across - 40, top: 44, bottom: 292 };
  const rows = method.scores.flatMap((s, row) => (s[0] === null ? [] : [row]));
  const columns = [...data.tasks.map((_, t) => (row) => method.scores[row][t]), (row) => ofWish(method).value[row]];
  const xs = columns.map((_, i) => box.left + ((box.right - box.left) * i) / T);
  const spans = columns.map((of, i) =>
    padded(data.methods.flatMap((m) => (i < T ? m.scores.map((s) => s[i]) : ofWish(m).value))),
  );
  const y = (i, v) => box.bottom - ((v - spans[i].low) / (spans[i].high - spans[i].low)) * (box.bottom - box.top);
  const heightsOf = new Map(rows.map((row) => [row, columns.map((of, i) => y(i, of(row)))]));
  const line = (row) => `M${heightsOf.get(row).map((v, i) => `${xs[i].toFixed(1)} ${v.toFixed(1)}`).join("L")}`;
  const shapes = method.scores.map((_, row) =>
    svg("path", { class: "strand", d: heightsOf.has(row) ? line(row) : "M0 0" }),
  );
  // For arrow keys: up and down go through the values, one after another.
  const { value, short } = ofWish(method);
  const ranked = [...rows].sort((a, b) => value[b] - value[a]);
  const places = method.scores.map(() => [0, -1e6]);
  ranked.forEach((row, i) => (places[row] = [0, 4 * i]));
  const letters = Math.max(8, Math.floor((box.right - box.left) / T / 7.2));
  const frame = xs.map((x, i) => [
    svg("path", { class: "axis", d: `M${x} ${box.top}V${box.bottom}` }),
    ticks(spans[i].low, spans[i].high, 4).map((t) =>
      svg("text", { class: "tick", x: i === T ? x + 5 : x - 4, y: y(i, t.at) + 4, "text-anchor": i === T ? "start" : "end" }, t.text),
    ),
    svg(
      "text",
      { class: "name", x, y: i % 2 && across < 520 ? 14 : 30, "text-anchor": i === 0 ? "start" : i === T ? "end" : "middle" },
      svg("title", {}, data.tasks[i] ?? measure()),
      shorten(data.tasks[i] ?? measure(), i === 0 || i === T ? letters + 2 : letters),
    ),
    i < T && wish.floors[i] !== null
      ? svg("path", { class: "floor", d: `M${x - 9} ${y(i, wish.relative ? wish.floors[i] * experts[i] : wish.floors[i])}h18` })
      : [],
  ]);
  const root = svg(
    "svg",
    {
      viewBox: `0 0 ${across} 304`,
      role: "group",
      "aria-label": `${method.label}: one line for each weighting across the tasks' scores. Arrow keys walk by value, Enter pins.`,
    },
    svg("rect", { class: "catch", x: 0, y: box.top - 8, width: across, height: box.bottom - box.top + 16 }),
    svg("g", { class: "strands" }, [...ranked].reverse().sort((a, b) => (short[b] > 0) - (short[a] > 0)).map((row) => shapes[row])),
    svg("g", { class: "over", "aria-hidden": "true" }, frame.flat(3)),
  );
  const drawn = (kind, row) =>
    heightsOf.has(row) && ["here", "pinned", "pick"].includes(kind)
      ? [svg("path", { class: `strand-${kind}`, d: line(row) })]
      : [];
  const marks = livePoints(root, method, places, shapes, { draw: drawn });
  // A line is thin: the pointer takes the nearest one.
  const under = (event) => {
    const area = root.getBoundingClientRect();
    const [px, py] = [((event.clientX - area.left) / area.width) * across, ((event.clientY - area.top) / area.height) * 304];
    const i = Math.max(0, Math.min(T - 1, Math.floor(((px - box.left) / (box.right - box.left)) * T)));
    const part = Math.max(0, Math.min(1, (px - xs[i]) / (xs[i + 1] - xs[i])));
    const off = (row) => Math.abs(heightsOf.get(row)[i] * (1 - part) + heightsOf.get(row)[i + 1] * part - py);
    const best = rows.reduce((near, row) => (near === null || off(row) < off(near) ? row : near), null);
    return best !== null && off(best) < 14 ? best : null;
  };
  root.addEventListener("pointermove", (event) => {
    const row = event.pointerType === "mouse" ? under(event) : null;
    if (row !== null) update({ hover: method.alphas[row] });
  });
  root.addEventListener("click", (event) => {
    const row = under(event);
    if (row === null) return;
    const again = state.pin && same(state.pin, method.alphas[row]);
    update({ pin: again ? null : method.alphas[row], hover: null });
  });
  const paint = () => {
    const colour = scale().of(method);
    values(method).forEach((v, row) => {
      shapes[row].setAttribute("stroke", v === null ? "none" : colour(v));
      shapes[row].classList.toggle("short", short[row] > 0);
    });
    marks();
  };
  const what = "; a line each, coloured as above; grey and thin: misses a floor";
  return { node: framed(method, root, floored() ? what : "; a line each, coloured as above"), paint, marks };
};
