"""Translation (figures 7 and 10) for the study beyond the paper: LoRA adapters, merged by their factors or by their products."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from _beyond import SHORT, Costs, Ingredients, anchors
from _shared import ROOT, Options
from _translation import JOINT_SEED, Bench, Scorer, batches, own_params, rows, train
from _translation import loss as token_loss
from _translation_text import TASKS
from fig7_fig10_translation import SCALES, methods
from torch import Tensor
from torch.nn import Module

from previa import Flat, Isotropic, Modes, modes, open_checkpoint
from previa.core.anchored import anchored
from previa.core.params import Layout
from previa.core.runs import Run
from previa.core.warp import Method
from previa.study.preview import Preview
from previa.study.simplex import find
from previa.study.store import Store

SHOWN = (0.5, 0.25)
SUMMED = (1.0, 0.5, 0.25)  # powers of the weights in sums of products
REFINED = ((0.8, 0.2), (0.5, 0.5), (0.2, 0.8))
FAMILIES = {"ivon": ("simple", "ivon_hessian", "squared_gradients"), "adamw": ("simple", "squared_gradients")}
LOOKED = 200  # training pairs of each task whose loss chooses a power
ANCHOR = 5  # joint run number of anchors: of another seed than the truth's (0)


@dataclass(frozen=True)
class Started(Bench):
    """A bench whose trainings start elsewhere than at the base's fresh factors."""

    start: Mapping[str, Tensor] = field(default_factory=dict, compare=False)

    def model(self, rank: int | None = None) -> Module:
        """The model at ``start``."""
        model = super().model(rank)
        with torch.no_grad():
            for name, value in self.start.items():
                model.get_parameter(name).copy_(value)
        return model


@dataclass(frozen=True)
class Losses:
    """A scorer of training losses: -log p(translation | prompt) a token, of each task's first training pairs."""

    bench: Bench

    def __call__(self, model: Module) -> dict[str, Tensor]:
        """Of the model as it is."""
        found = {}
        for task in TASKS:
            part = sorted(rows(self.bench, task)[0][:LOOKED], key=lambda row: len(row["input_ids"]))
            found[task] = torch.cat([token_loss(model, b) for b in batches(self.bench, part, 50)])
        return found


def truth(bench: Bench, kind: str, likely: bool) -> Preview:
    """The scores of the experiment's joint runs by this optimizer: BLEU, or log-likelihood a token."""
    parts = (*(("adamw",) if kind == "adamw" else ()), *(("likelihood",) if likely else ()))
    return Store.read(bench.out.joinpath(*parts, "results.sqlite")).preview("joint")


def families(bench: Bench, kind: str) -> dict[str, Any]:
    """name -> method, unwarped, of the tasks' own runs: averages of factors."""
    found = methods(bench, kind)
    return {name: found[name][0] for name in FAMILIES[kind]}


def means(bench: Bench, kind: str) -> list[Flat]:
    """The factors of the tasks' own runs."""
    if kind == "ivon":
        return [bench.posterior(task).mode() for task in TASKS]
    return [Flat.of(dict(open_checkpoint(bench.file(kind, task)))) for task in TASKS]


def layout(bench: Bench, kind: str) -> Layout:
    """Of the tasks' parameters."""
    return means(bench, kind)[0].layout


def joint(
    bench: Bench,
    kind: str,
    alpha: tuple[float, ...],
    *,
    start: Tensor | None = None,
    share: float = 1.0,
    k: int = ANCHOR,
) -> tuple[Flat, float]:
    """Joint run number k at alpha, by the experiment's own recipe; ``start``: parameters to begin at, ``share``: of the steps."""
    s = bench.settings
    steps = max(1, round(share * s.steps))
    shorter = replace(s, steps=steps, warmup=min(s.warmup, steps // 2))
    begin = {} if start is None else Flat(layout(bench, kind), start)
    own = Started(shorter, bench.out, bench.device, bench.seed, begin)
    model, found = train(own, alpha, kind, bench.seed + JOINT_SEED + 1000 * k)
    return own_params(model), found.seconds


def coefficients(T: int, anchors: Sequence[tuple[float, ...]], p: float) -> Callable[[Tensor], Tensor]:
    """alphas [A, T] -> how much each run counts [A, T + n] in averages through anchors: those of runs that are unit vectors."""
    unit = torch.eye(T + len(anchors))
    plain = [Isotropic({"run": unit[t]}) for t in range(T)]
    at = [Run(alpha, {"run": unit[T + r]}) for r, alpha in enumerate(anchors)]
    found = anchored(lambda alphas: modes(alphas, plain), at, p=p)
    return lambda alphas: found(alphas).params.vector


def products(own: Sequence[Flat], anchors: Sequence[Run], p: float, rank: int) -> Method:
    """The exact sums sum_r c_r B_r A_r over all runs, c of `coefficients`, by factors of this rank, filled up with zeros.

    The A of all runs stand below each other, the c_r B_r beside each other, as ``io.adapter_product`` writes them.
    """
    counts = coefficients(len(own), [anchor.alpha for anchor in anchors], p)
    runs = [*own, *(Flat.of(dict(anchor.params), own[0].layout) for anchor in anchors)]

    def preview(alphas: Tensor) -> Modes:
        found = []
        for c in counts(alphas).tolist():
            both = {
                name: torch.cat(
                    [run[name] * (a if along(name) else 1) for a, run in zip(c, runs, strict=True)],
                    along(name),
                )
                for name in runs[0]
            }
            found.append(filled(Flat.of(both), rank))
        return Modes(Flat(found[0].layout, torch.stack([flat.vector for flat in found])), {})

    return preview


def along(name: str) -> int:
    """The dimension of the rank: 1 of B [out, r], 0 of A [r, in]."""
    return int(".lora_B." in name)


def filled(factors: Mapping[str, Tensor], rank: int) -> Flat:
    """The same update by factors of this rank: rows of A and columns of B that are zero, or those cut off again."""
    found = {}
    for name, value in factors.items():
        shape = (value.shape[0], rank) if along(name) else (rank, value.shape[1])
        wide = value.new_zeros(shape)
        r = min(rank, value.shape[along(name)])
        index = (slice(None), slice(r)) if along(name) else (slice(r),)
        wide[index] = value[index]
        found[name] = wide
    return Flat.of(found)


def widened(method: Method, rank: int) -> Method:
    """The method with its factors `filled` up to this rank, so that all previews fit one model."""

    def preview(alphas: Tensor) -> Modes:
        found = method(alphas)
        each = [filled(found.params.row(row), rank) for row in range(len(alphas))]
        return Modes(Flat(each[0].layout, torch.stack([flat.vector for flat in each])), found.stats)

    return preview


def ingredients(name: str, o: Options) -> Ingredients:
    """The study of what ``fig7_fig10_translation.py`` kept, judged by log-likelihoods: "translation" IVON's, "translation_adamw" AdamW's.

    All previews are factors of rank (T + n) r with the same scaling, so that exact sums of products fit the same model.
    Ends the program where the runs are not there.
    """
    there = ROOT / "experiments-out" / f"fig7_fig10_translation-{o.scale}{f'-seed{o.seed}' if o.seed else ''}"
    if not (there / "results.sqlite").exists():
        command = f"fig7_fig10_translation.py --scale {o.scale} --seed {o.seed}"
        raise SystemExit(f"{name} needs the runs of {there}: python experiments/{command}")
    s, kind, T = SCALES[o.scale], "adamw" if name.endswith("adamw") else "ivon", len(TASKS)
    bench = Bench(s, there, o.device, o.seed)
    r, wide = s.rank, (T + 1) * s.rank
    own, one, true = means(bench, kind), 3.0 * s.steps * s.batch, truth(bench, kind, likely=True)

    def trained(alpha: tuple[float, ...], *, start: Flat | None, share: float) -> Flat:
        begin = None if start is None else filled(start, r).vector
        return filled(joint(bench, kind, alpha, start=begin, share=share)[0], wide)

    summed = {f"product_p{p:g}": products(own, [], p, wide) for p in SUMMED}
    costs = Costs(
        run=lambda alpha: one,
        sources={"own runs": T * one, "squares": 3.0 * s.fisher * T},
        needs={"simple": ("own runs",), "ivon_hessian": ("own runs",), "squared_gradients": ("own runs", "squares"),
               **dict.fromkeys(summed, ("own runs",))},
        score=float(s.test * T), losses=float(LOOKED * T),
    )  # fmt: skip
    made = Ingredients(
        study=name, seed=bench.seed, tasks=TASKS, truth=true, model=bench.model(wide),
        families={name: widened(method, wide) for name, method in families(bench, kind).items()}, others=summed,
        score=Scorer(bench, likely=True), losses=Losses(bench), train=trained, costs=costs, folder=o.out,
        refined=[a for a in REFINED if find(true.alphas, a) is not None] or [(0.5, 0.5)], shown=SHOWN, settings={"scale": asdict(s), "judge": name},
    )  # fmt: skip
    o.out.mkdir(parents=True, exist_ok=True)
    more = {}
    for which, share in (("full", 1.0), ("short", SHORT)):
        runs = [Run(run.alpha, filled(run.params, r)) for run in anchors(made, which, share)]
        trained_at = costs.of("simple") + share * one * len(runs)
        more |= {
            f"product_anchored_{which}_1_p{p:g}": (products(own, runs, p, wide), trained_at) for p in SUMMED
        }
    return replace(made, more=more)
