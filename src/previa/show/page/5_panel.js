// The panel of the weighting in view, and the commands that are copied from it.

const copied = el("span", { role: "status", class: "note" });
const copy = async (text, button, shownIn) => {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // a page opened from disk may not have the clipboard: select the command, and use the older way
    const selection = getSelection();
    selection.selectAllChildren(shownIn);
    if (!document.execCommand("copy")) {
      copied.textContent = "selected: copy it with Ctrl+C";
      return;
    }
  }
  button.textContent = "Copied";
  copied.textContent = "";
  setTimeout(() => {
    button.textContent = "Copy";
  }, 1500);
};

const quoted = (text) => (/^[\w./:@%+=-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
// Six decimals whose sum is 1: what is rounded away goes to the largest.
const commandAlpha = (alpha) => {
  const parts = alpha.map((a) => Math.round(a * 1e6));
  parts[parts.indexOf(Math.max(...parts))] += 1e6 - parts.reduce((a, b) => a + b, 0);
  return parts.map((p) => String(p / 1e6)).join(",");
};
const command = (alpha) => `previa finetune ${quoted(data.study)} --alpha ${commandAlpha(alpha)}`;

// The training stacks that `previa export` writes for, the one of the reader's choice first shown.
const STACKS = [
  "trl",
  "datasets",
  "alignment-handbook",
  "open-instruct",
  "llama-factory",
  "ms-swift",
  "megatron",
  "nemo",
  "megatron-bridge",
  "olmo-core",
  "axolotl",
  "torchtune",
];
const stack = { name: STACKS[0] };
const exportCommand = (alpha) =>
  `previa export --study ${quoted(data.study)} --alpha ${commandAlpha(alpha)} --to ${stack.name}`;
const mergeCommand = (alpha) =>
  Array.isArray(facts.merge) && facts.merge.length
    ? `previa merge ${facts.merge.map((word) => quoted(String(word))).join(" ")} --alpha ${commandAlpha(alpha)} --out merged`
    : null;

const offered = (id, title, text, choice) => {
  const code = el(
    "code",
    { id },
    text.split(/( --alpha | --to )/).map((part) => (part.startsWith(" --") ? el("span", {}, part) : part)),
  );
  const button = el(
    "button",
    { type: "button", class: "quiet", "aria-label": `Copy the command: ${title}`, click: () => copy(text, button, code) },
    "Copy",
  );
  return el("div", { class: "offer" }, el("div", { class: "what" }, title, choice), el("div", { class: "command" }, code, button));
};
const stackChoice = () =>
  el(
    "select",
    {
      "aria-label": "Training stack",
      change: (event) => {
        stack.name = event.target.value;
        panel();
        at("panel").querySelector("select").focus();
      },
    },
    STACKS.map((name) => el("option", { value: name, selected: name === stack.name }, name)),
  );

const inView = () => {
  if (state.hover) return [state.hover, "In view"];
  if (state.pin) return [state.pin, "Pinned"];
  if (isStored() && recommendation.alpha?.length === T) return [recommendation.alpha, "Recommended"];
  const method = byKey.get(state.method);
  return [method.alphas[method.pick ?? 0], "The pick"];
};

const panel = () => {
  const [alpha, title] = inView();
  const scoresAt = (method) => {
    const row = rowAt(method, alpha);
    return row < 0 || method.scores[row][0] === null ? null : method.scores[row];
  };
  const within = (half) => (isNumber(half) ? el("small", {}, `± ${score(half)}`) : null);
  const shownMethods = [truth, byKey.get(state.method)].filter((m, i, all) => m && all.indexOf(m) === i);
  const columns = shownMethods.map((method) => ({ method, scores: scoresAt(method), row: rowAt(method, alpha) }));
  const cells = (of, half) =>
    columns.map(({ method, scores, row }) =>
      el("td", { "data-method": method.key }, scores ? [score(of(scores)), within(half(method, row))] : "–"),
    );
  const why = columns
    .filter((c) => !c.scores)
    .map(({ method }) =>
      rowAt(method, alpha) >= 0
        ? `${method.short}: this weighting failed.`
        : method.truth
          ? "Truth: not trained at this weighting."
          : `${method.short}: not previewed at this weighting.`,
    );
  const others = previews
    .filter((m) => !shownMethods.includes(m) && scoresAt(m))
    .map((m) => `${m.short} ${score(worth(scoresAt(m)))}`);
  const missed = columns.filter(({ scores }) => scores && floored() && !keeps(scores)).map(({ method }) => method.short);
  const intervals = columns.some(({ method, scores, row }) => scores && data.tasks.some((_, t) => halfOf(method, row, t) !== null));
  const merge = mergeCommand(alpha);
  at("panel").classList.toggle("live", Boolean(state.hover || state.pin));
  put(
    "panel",
    el(
      "h3",
      {},
      el("span", { id: "panel-title" }, title),
      state.pin
        ? el("button", { type: "button", class: "quiet", click: () => update({ pin: null }) }, "Unpin")
        : null,
    ),
    el(
      "table",
      {},
      el(
        "thead",
        {},
        el(
          "tr",
          {},
          el("td", {}),
          el("th", { scope: "col" }, "weight"),
          columns.map(({ method }) => el("th", { scope: "col" }, method.short)),
        ),
      ),
      el(
        "tbody",
        {},
        data.tasks.map((task, t) =>
          el(
            "tr",
            {},
            el("th", { scope: "row", title: task }, shorten(task, 40)),
            el("td", { class: "weight" }, weight(alpha[t])),
            cells(
              (scores) => scores[t],
              (method, row) => halfOf(method, row, t),
            ),
          ),
        ),
        el("tr", { class: "on" }, el("th", { scope: "row" }, measure()), el("td", {}), cells(worth, halfOfWorth)),
      ),
    ),
    missed.length ? el("p", { class: "why missed" }, `Misses a floor: ${missed.join(", ")}.`) : null,
    why.length ? el("p", { class: "why" }, why.join(" ")) : null,
    others.length ? el("p", {}, `${measure().replace(/^./, (c) => c.toUpperCase())} by the other previews: ${others.join(", ")}.`) : null,
    el("p", {}, `${intervals ? "± 95 % over test items. " : ""}Previewed levels are biased low: compare previews with each other, not with the truth.`),
    offered("command", "Train it", command(alpha)),
    offered("export-command", "Export it to", exportCommand(alpha), stackChoice()),
    merge ? offered("merge-command", "Merge it", merge) : null,
    copied,
  );
};
