// The sliders: how much each task counts, which score it must keep, and what counts of several.

const MOST = 4; // times: how much more one task may count than another, by slider
const STEPS = 120; // of a floor's slider

// The scores that a task's floor can be set between: of all methods, as they are compared.
const scoresSeen = (t) => extent(data.methods.flatMap((m) => m.scores.map((s) => (s[t] === null ? null : seen(s[t], t)))));
const stepOf = (low, high) => {
  const raw = (high - low || 1) / STEPS;
  const power = 10 ** Math.floor(Math.log10(raw));
  return [1, 2, 5, 10].map((n) => n * power).find((s) => s >= raw * 0.999);
};
const gridOf = (t) => {
  const [low, high] = scoresSeen(t);
  const step = stepOf(low, high);
  const first = Math.floor(low / step);
  return { at: (k) => Number(((first + k - 1) * step).toPrecision(12)), last: Math.ceil(high / step) - first + 1, step };
};

const setFloor = (t, floor) => prefer({ floors: wish.floors.map((f, s) => (s === t ? floor : f)) });
const setWeight = (t, many) => {
  const next = wish.weights.map((x, s) => (s === t ? many : x));
  if (next.every((x) => x === 0)) next[t] = 0.1; // one has to count
  prefer({ weights: next });
};
// A floor is a score, or a share of the expert's: the same weightings keep it after the switch.
const setRelative = (relative) =>
  prefer({
    relative,
    floors: wish.floors.map((f, t) => (f === null ? null : Number((relative ? f / experts[t] : f * experts[t]).toPrecision(10)))),
  });

const floorText = (t) => (wish.floors[t] === null ? "off" : `≥ ${fixed(wish.floors[t], digits)}`);

// The table of sliders is built once; `wishes` brings it to the state, whoever changed that.
const preferencePanel = () => {
  const rows = data.tasks.map((task, t) => {
    const weightInput = el("input", {
      type: "range",
      min: 0,
      max: Math.max(MOST, ...stored.weights),
      step: 0.1,
      "data-weight": t,
      "aria-label": `How much ${task} counts`,
      input: (event) => setWeight(t, Number(event.target.value)),
    });
    const floorInput = el("input", {
      type: "range",
      min: 0,
      step: 1,
      "data-floor": t,
      "aria-label": `Floor of ${task}`,
      input: (event) => {
        const k = Number(event.target.value);
        setFloor(t, k === 0 ? null : gridOf(t).at(k));
      },
    });
    const [share, floor] = [el("output", {}), el("output", {})];
    const sync = () => {
      weightInput.value = String(wish.weights[t]);
      share.textContent = percent(w[t]).replace(/\.0 %/, " %");
      weightInput.setAttribute("aria-valuetext", share.textContent);
      const grid = gridOf(t);
      floorInput.max = String(grid.last);
      const f = wish.floors[t];
      floorInput.value = f === null ? "0" : String(Math.max(1, Math.min(grid.last, Math.round((f - grid.at(1)) / grid.step) + 1)));
      floor.textContent = floorText(t);
      floor.classList.toggle("off", f === null);
      floorInput.setAttribute("aria-valuetext", floor.textContent);
    };
    const row = el(
      "div",
      { class: "wish", role: "group", "aria-label": task },
      el("div", { class: "wish-task", title: task }, shorten(task, 30)),
      el("label", {}, el("span", {}, "counts"), weightInput, share),
      el("label", {}, el("span", {}, "floor"), floorInput, floor),
    );
    return { row, sync };
  });
  const modes = radios(
    "worst",
    "What counts",
    [
      ["mean", "mean over tasks"],
      ["worst", "worst task"],
    ],
    wish.worst ? "worst" : "mean",
    (choice) => prefer({ worst: choice === "worst" }),
  );
  const relative = el("input", {
    type: "checkbox",
    id: "relative",
    disabled: noExpert !== null && !wish.relative,
    change: (event) => setRelative(event.target.checked),
  });
  const reason =
    noExpert === null
      ? "1 is as good as the task's own finetuning, as previewed at its corner"
      : `not possible: ${shorten(noExpert, 40)} has no positive score at its own corner`;
  const reset = el(
    "button",
    { type: "button", class: "quiet", id: "reset", click: () => isStored() || prefer(copyOf(stored)) },
    "Reset",
  );
  put(
    "preference",
    el("div", { class: "wishes" }, rows.map(({ row }) => row)),
    el(
      "div",
      { class: "controls" },
      modes,
      el(
        "fieldset",
        {},
        el("legend", {}, "Scores"),
        el("label", { class: "switch" }, relative, el("span", {}, "relative to each task's own expert", el("small", {}, reason))),
      ),
      reset,
    ),
  );
  return () => {
    for (const { sync } of rows) sync();
    for (const input of modes.querySelectorAll("input")) input.checked = (input.value === "worst") === wish.worst;
    relative.checked = wish.relative;
    reset.setAttribute("aria-disabled", String(isStored())); // not disabled, which would lose the keyboard's place
  };
};
