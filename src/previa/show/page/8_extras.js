// What was checked before the previews, and what true runs said after them.

const preflight = () =>
  (facts.preflight ?? []).map((check) =>
    el(
      "li",
      { class: `check ${["ok", "note", "warning"].includes(check?.level) ? check.level : "note"}` },
      el("b", {}, { ok: "Fine", warning: "Careful" }[check?.level] ?? "Note"),
      ` ${String(check?.sentence ?? check?.name ?? "")}`,
    ),
  );

const validation = () => {
  const found = facts.validation;
  put(
    "validation",
    found
      ? [
          el("h3", {}, "Validated by true runs"),
          found.sentence ? el("p", {}, String(found.sentence)) : null,
          Array.isArray(found.proposed)
            ? el(
                "ul",
                { class: "facts" },
                found.proposed
                  .filter((one) => Array.isArray(one?.alpha) && one.alpha.length === T)
                  .map((one) => {
                    const row = truth ? rowAt(truth, one.alpha) : -1;
                    const got = row < 0 ? null : worth(truth.scores[row]);
                    return el("li", {}, `${dashed(one.alpha)} (${String(one.why ?? "")}): ${isNumber(got) ? `true ${measure()} ${score(got)}` : "not trained yet"}`);
                  }),
              )
            : null,
        ]
      : null,
  );
};
