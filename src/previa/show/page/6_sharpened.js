// How the preview was sharpened: the powers that were compared, the maps before and after, the anchors and their rival.

const sharper = facts.sharpened ?? null;
const anchorsOf = (method) => (sharper?.anchored?.includes(method.key) ? sharper.anchors.map((a) => a.alpha) : []);
const bandOf = (method) => (sharper?.band?.method === method.key ? sharper.band : null);
const wide = (half) => (data.unit === "accuracy" ? `${fixed(100 * half, 100 * half < 1 ? 2 : 1)} points` : score(half));

const headed = (title, heads, rows, caption) => [
  el("h3", {}, title),
  el(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": title },
    el(
      "table",
      {},
      el("thead", {}, el("tr", {}, heads.map((h) => el("th", { scope: "col" }, h)))),
      el(
        "tbody",
        {},
        rows.map(({ head, cells, best }) =>
          el("tr", { class: best ? "best" : null }, el("th", { scope: "row" }, head), cells.map((c) => el("td", {}, c))),
        ),
      ),
    ),
  ),
  caption ? el("p", { class: "note" }, caption) : null,
];

const named = (key) => byKey.get(key)?.label ?? data.labels[key] ?? key;

// The joint loss by family and power, the chosen one marked: JSON keys are text, the powers in them numbers.
const powerTable = (method, found) => {
  const losses = Object.entries(found.losses ?? {});
  const powers = [...new Set(losses.flatMap(([, own]) => Object.keys(own)))].sort((a, b) => Number(b) - Number(a));
  if (!powers.length) return [];
  const chosen = (family, p) => family === found.chosen?.method && Number(p) === found.chosen?.p;
  return headed(
    `${named(method)}: joint loss of merged models`,
    ["Family", ...powers.map((p) => `p = ${Number(p)}`)],
    losses.map(([family, own]) => ({
      head: named(family),
      cells: powers.map((p) => {
        const loss = isNumber(own[p]) ? String(Number(own[p].toPrecision(4))) : "–";
        return chosen(family, p) ? el("span", { class: "chosen" }, loss) : loss;
      }),
    })),
    powers.length > 1
      ? "Less is better; boxed: chosen. p = 1 is merging without a warp. A dash: the loss was not finite."
      : `p = ${Number(powers[0])}, as the study file sets it.${losses.length > 1 ? " Less is better; boxed: the chosen family." : ""}`,
  );
};

const anchorTable = () => {
  if (!sharper.anchors.length) return [];
  const began = (from) => (from === "base" || from === "preview" ? `the ${from}` : (from ?? "–"));
  const left = sharper.anchors.some((a) => isNumber(a.left_out_mean));
  return headed(
    "Joint runs used as anchors",
    [
      "Anchor",
      ...data.tasks.map((t) => shorten(t)),
      "began at",
      "steps",
      "cost, in joint runs",
      "its mean score",
      ...(left ? ["previewed there by the others", "difference"] : []),
    ],
    sharper.anchors.map((a, i) => ({
      head: `${i + 1}`,
      cells: [
        ...a.alpha.map(weight),
        began(a.from),
        a.steps ?? "–",
        fixed(a.share, 2),
        score(a.mean),
        ...(left
          ? [
              score(a.left_out_mean),
              isNumber(a.mean) && isNumber(a.left_out_mean) ? signed(a.left_out_mean - a.mean, digits) : "–",
            ]
          : []),
      ],
    })),
    left ? "Previewed by the others: leave-one-anchor-out, the preview at this weighting without this run." : null,
  );
};

const rivalTable = () => {
  const shown = [...sharper.pairs.flat(), ...sharper.anchored, ...sharper.rivals];
  const rows = [...new Set(shown)].filter((key) => quality[key]);
  if (!rows.length) return [];
  const least = extent(rows.map((key) => quality[key].regret_at_1))[0];
  return headed(
    "Judged by the joint runs",
    ["Preview", "regret@1", "rank agreement", "top 25 %", "MSE"],
    rows.map((key) => ({
      head: named(key),
      best: quality[key].regret_at_1 === least,
      cells: [
        score(quality[key].regret_at_1),
        fixed(quality[key].spearman, 3),
        fixed(quality[key].spearman_top25, 2),
        small(quality[key].mse),
      ],
    })),
    sharper.rivals.length && sharper.anchored.length
      ? "Interpolated scores use the same runs as the anchored preview and merge nothing: the rival to beat."
      : null,
  );
};

const refinedTable = () => {
  const steps = [...new Set(sharper.refined.flatMap((one) => one.steps))].sort((a, b) => a - b);
  if (!steps.length) return [];
  return headed(
    "Joint training from the preview, step by step",
    ["Weighting", ...steps.map((k) => (k ? `${k} step${k === 1 ? "" : "s"}` : "the preview")), "joint run"],
    sharper.refined.map((one) => ({
      head: one.alpha.map(weight).join(" / "),
      cells: [...steps.map((k) => score(one.means[one.steps.indexOf(k)])), score(one.true)],
    })),
    "Mean scores over tasks.",
  );
};

// Two tasks: before and after in one chart, with the truth, the anchors and the error band.
const beforeAfter = ([before, after]) => {
  const drawn = [...(truth ? [truth] : []), byKey.get(before), byKey.get(after)];
  const half = bandOf(byKey.get(after))?.half_width ?? 0;
  const all = drawn.map((m) => values(m, -1));
  const y = padded(all.flatMap((v) => v.filter(isNumber).flatMap((x) => [x - half, x + half])));
  const frame = axes(
    { low: 0, high: 1 },
    y,
    [`weight of ${shorten(data.tasks[0], 24)}`, `mean over tasks (${data.unit})`],
    { left: 48, right: 392, top: 30, bottom: 300 },
  );
  const lines = drawn.map((m, i) =>
    svg("path", {
      class: `line ${m.truth ? "truth" : m.key === after ? "on" : ""}`,
      d: path(
        m.alphas.map((a) => frame.sx(a[0])),
        all[i].map((v) => (v === null ? null : frame.sy(v))),
      ),
    }),
  );
  const label = `${named(before)} (grey), ${named(after)} (blue)${truth ? ", the truth (thin)" : ""}`;
  return el(
    "figure",
    { "data-pair": after },
    el("figcaption", {}, el("b", {}, label)),
    svg(
      "svg",
      { viewBox: "0 0 400 345", role: "img", "aria-label": label },
      frame.node,
      ...banded(byKey.get(after), frame),
      ...lines,
      ...anchored(byKey.get(after), frame),
    ),
  );
};

const sorted = (method) =>
  method.alphas
    .map((a, row) => [a[0], valueAt(method, row, -1)])
    .filter(([, v]) => isNumber(v))
    .sort((a, b) => a[0] - b[0]);
const banded = (method, frame) => {
  const half = bandOf(method)?.half_width;
  if (!isNumber(half)) return [];
  const line = sorted(method);
  const points = [...line.map(([x, v]) => [x, v + half]), ...line.reverse().map(([x, v]) => [x, v - half])];
  return [svg("path", { class: "band", d: `M${points.map(([x, v]) => `${frame.sx(x)} ${frame.sy(v)}`).join("L")}Z` })];
};
const anchored = (method, frame) =>
  anchorsOf(method).flatMap((alpha) => {
    const row = rowAt(method, alpha);
    const mean = row < 0 ? sharper.anchors.find((a) => same(a.alpha, alpha))?.mean : valueAt(method, row, -1);
    return isNumber(mean) ? markers.anchor(frame.sx(alpha[0]), frame.sy(mean)) : [];
  });

let sharperMaps = [];
const sharpened = () => {
  at("sharpened-section").hidden = !sharper;
  if (!sharper) return;
  sharperMaps = T === 3 ? [...new Set(sharper.pairs.flat())].map((key) => triangle(byKey.get(key))) : [];
  put(
    "sharpened",
    sharper.sentences.map((s) => el("p", {}, s)),
    sharper.pairs.length && T < 4
      ? el(
          "p",
          { class: "note" },
          T === 3
            ? "The map at p = 1, and after sharpening, on the same colours as above."
            : "The preview at p = 1, and after sharpening.",
        )
      : null,
    el("div", { id: "sharpened-maps" }, T === 3 ? sharperMaps.map((m) => m.node) : T === 2 ? sharper.pairs.map(beforeAfter) : null),
    Object.entries(sharper.powers).map(([method, found]) => powerTable(method, found)),
    anchorTable(),
    refinedTable(),
    rivalTable(),
  );
};
