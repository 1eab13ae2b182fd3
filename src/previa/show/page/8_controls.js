// Small groups of choices, and the controls of the maps.

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
      (method) => update({ method, follow: true }),
    ),
    radios(
      "show",
      T === 2 ? "Curve of" : "Colour by",
      [["-1", "value"], ...data.tasks.map((t, i) => [String(i), t])],
      String(state.show),
      (show) => update({ show: Number(show) }),
    ),
    radios(
      "level",
      "As",
      [
        ["score", "score"],
        ["gap", T === 2 ? "distance below each curve's best" : "distance below each map's best"],
      ],
      state.level,
      (level) => update({ level }),
    ),
    T > 3 ? el("fieldset", {}, el("legend", {}, "Axes"), pick("across", 0), " ", pick("up", 1)) : null,
  );
};
