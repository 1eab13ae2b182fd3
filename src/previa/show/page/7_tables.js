// All weightings as a table; a row pointed at is the weighting in view, in every picture.

const table = { key: "mean", down: true, all: false };
const weightings = () => {
  const method = byKey.get(state.method),
    most = 200;
  const columns = [
    ...data.tasks.map((t, i) => ({
      key: `weight${i}`,
      name: `weight of ${shorten(t)}`,
      of: (row) => method.alphas[row][i],
      text: weight,
    })),
    ...data.tasks.map((t, i) => ({
      key: `score${i}`,
      name: `score on ${shorten(t)}`,
      of: (row) => method.scores[row][i],
      text: score,
    })),
    { key: "mean", name: measure(), of: (row) => worth(method.scores[row]), text: score },
    ...(truth && truth !== method
      ? [{ key: "truth", name: `true ${measure()}`, of: (row) => scoreOf(truth, method.alphas[row]), text: score }]
      : []),
  ];
  const column = columns.find((c) => c.key === table.key) ?? columns.find((c) => c.key === "mean");
  const keyed = method.alphas.map((_, row) => [column.of(row), row]);
  const { kept, allowed } = ofWish(method);
  const filtered = floored() && kept; // where none keeps the floors, all are listed
  const sorted = keyed
    .filter(([, row]) => !filtered || allowed[row])
    .sort(([a, i], [b, j]) => (a === null) - (b === null) || (table.down ? b - a : a - b) || i - j)
    .map(([, row]) => row);
  const drawn = table.all ? sorted : sorted.slice(0, most);
  const sort = (key) => {
    Object.assign(table, { key, down: table.key === key ? !table.down : true });
    weightings();
    at("weightings").querySelector(`[data-key="${key}"]`).focus();
  };
  put(
    "weightings",
    el(
      "p",
      { class: "note" },
      `${method.label}: ${drawn.length} of ${sorted.length} weightings${
        filtered ? ` that keep the floors, of ${method.alphas.length} in all` : floored() ? "; none keeps the floors" : ""
      }. Click a heading to sort, a row to pin it.`,
    ),
    el(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": "All weightings" },
      el(
        "table",
        {},
        el(
          "thead",
          {},
          el(
            "tr",
            {},
            columns.map((c) =>
              el(
                "th",
                { scope: "col", "aria-sort": c === column ? (table.down ? "descending" : "ascending") : "none" },
                el(
                  "button",
                  { type: "button", "data-key": c.key, click: () => sort(c.key) },
                  c.name,
                  c === column ? (table.down ? " ↓" : " ↑") : "",
                ),
              ),
            ),
          ),
        ),
        el(
          "tbody",
          {},
          drawn.map((row, i) =>
            el(
              "tr",
              { "data-row": row, tabindex: i ? "-1" : "0", "aria-label": describe(method, row) },
              columns.map((c) => {
                const v = c.of(row);
                return el("td", {}, isNumber(v) ? c.text(v) : "–");
              }),
            ),
          ),
        ),
      ),
    ),
    sorted.length > drawn.length
      ? el(
          "p",
          {},
          el(
            "button",
            {
              type: "button",
              class: "quiet",
              click: () => {
                table.all = true;
                weightings();
              },
            },
            `Show all ${sorted.length}`,
          ),
        )
      : null,
  );
  linked(method);
};

// Rows and pictures show each other: pointing, focus, arrow keys, Enter.
const linked = (method) => {
  const body = at("weightings").querySelector("tbody");
  const rowOf = (event) => event.target.closest("tr[data-row]");
  const alphaOf = (tr) => method.alphas[Number(tr.dataset.row)];
  const pin = (tr) => {
    const again = state.pin && same(state.pin, alphaOf(tr));
    update({ pin: again ? null : alphaOf(tr), hover: null });
  };
  body.addEventListener("pointerover", (event) => {
    const tr = rowOf(event);
    if (tr && event.pointerType === "mouse") update({ hover: alphaOf(tr) });
  });
  body.addEventListener("pointerleave", () => update({ hover: null }));
  body.addEventListener("focusin", (event) => {
    const tr = rowOf(event);
    if (tr?.matches(":focus-visible")) update({ hover: alphaOf(tr) });
  });
  body.addEventListener("focusout", () => update({ hover: null }));
  body.addEventListener("click", (event) => {
    const tr = rowOf(event);
    if (tr) pin(tr);
  });
  body.addEventListener("keydown", (event) => {
    const tr = rowOf(event);
    const step = { ArrowDown: tr?.nextElementSibling, ArrowUp: tr?.previousElementSibling }[event.key];
    if (event.key === "Enter") pin(tr);
    else if (event.key === "Escape") update({ pin: null });
    else if (step) {
      tr.tabIndex = -1;
      step.tabIndex = 0;
      step.focus();
    } else if (!event.key.startsWith("Arrow")) return;
    event.preventDefault();
  });
  rowMarks();
};
const rowMarks = () => {
  const method = byKey.get(state.method);
  for (const tr of at("weightings").querySelectorAll("tr.seen, tr.held")) tr.classList.remove("seen", "held");
  for (const [alpha, kind] of [
    [state.hover, "seen"],
    [state.pin, "held"],
  ]) {
    const row = alpha ? rowAt(method, alpha) : -1;
    if (row >= 0) at("weightings").querySelector(`tr[data-row="${row}"]`)?.classList.add(kind);
  }
};
