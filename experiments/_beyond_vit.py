"""ViT (figure 4) for the study beyond the paper: its tasks' own runs as they were kept, joint runs trained again and kept."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from _beyond import Costs, Ingredients
from _beyond_again import refined, twice
from _shared import ROOT, Options, weightings
from _vit import Bench, Part, Tagger, finetune_task, fit_heads, loss, pretrain, scorer, split, train
from _workers import in_workers
from fig4_vit import SCALES, STUDIES, methods
from torch import Tensor

from previa import Flat, open_checkpoint
from previa.core.params import Layout
from previa.study.preview import Preview

FAMILIES = ("simple", "squared_gradients", "regmean")
WARPED = ("simple", "squared_gradients")  # RegMean's conjugate gradients take longer than all scores
SHOWN = (0.5, 0.25)
LOOKED = 200  # training pictures of each task whose loss chooses a power
JOINT_SEED = 999  # of the experiment's truth
AGAIN = 1  # joint run number of the truth once more
ANCHOR = 5  # joint run number of anchors: of another seed than the truth's (0)


@dataclass(frozen=True)
class Started(Bench):
    """A bench whose trainings start elsewhere than at the base."""

    start: Mapping[str, Tensor] = field(default_factory=dict, compare=False)

    def model(self) -> Tagger:
        """The model at ``start``."""
        model = super().model()
        with torch.no_grad():
            for name, value in self.start.items():
                model.get_parameter(name).copy_(value)
        return model


def families(bench: Bench) -> dict[str, Any]:
    """name -> method, unwarped, of the tasks' own runs."""
    found = methods(bench)
    return {name: found[name] for name in FAMILIES}


def layout(bench: Bench) -> Layout:
    """Of the tasks' parameters."""
    return Flat.of(dict(open_checkpoint(bench.file(bench.tasks[0])))).layout


def losses(bench: Bench) -> Any:
    """A scorer of training losses: each task's cross-entropy on its first training pictures."""
    return partial(_losses, {t: (x[:LOOKED], y[:LOOKED]) for t, ((x, y), _) in bench.pictures().items()})


def likelihoods(bench: Bench) -> Any:
    """A scorer of log-likelihoods: log p(class | picture) of each test picture, among its task's classes."""
    return partial(_likelihoods, {t: test for t, (_, test) in bench.pictures().items()})


def _likelihoods(parts: Mapping[str, Part], model: Tagger) -> dict[str, Tensor]:
    return {task: -values for task, values in _losses(parts, model).items()}


def _losses(parts: Mapping[str, Part], model: Tagger) -> dict[str, Tensor]:
    return {task: torch.cat([loss(model, b) for b in split(part, 250)]) for task, part in parts.items()}


def joint(
    bench: Bench,
    alpha: tuple[float, ...],
    *,
    start: Tensor | None = None,
    share: float = 1.0,
    k: int = ANCHOR,
) -> tuple[Flat, float]:
    """Joint run number k at alpha, by the experiment's own recipe; ``start``: parameters to begin at, ``share``: of the steps."""
    s = bench.settings
    steps = max(1, round(share * bench.steps))
    shorter = replace(s, steps=steps, epochs=None, warmup=min(s.warmup, steps // 2))
    begin = {} if start is None else Flat(layout(bench), start)
    own = Started(shorter, bench.tasks, bench.root, bench.out, bench.device, bench.seed, begin)
    found, seconds = train(own, alpha, bench.seed + JOINT_SEED + 1000 * k)
    return Flat(found.layout, found.vector.clone()), seconds


def ingredients(name: str, o: Options) -> Ingredients:
    """The study at this seed: "vit", judged by accuracy, or "vit_likelihood", by log-likelihoods of the test pictures."""
    bench = bench_of(o)
    s, T = bench.settings, len(bench.tasks)
    one = 3.0 * bench.steps * s.batch
    costs = Costs(
        run=lambda alpha: one,
        sources={"own runs": T * one, "squares": 3.0 * s.measured * T, "inputs": float(s.measured * T)},
        needs={"simple": ("own runs",), "squared_gradients": ("own runs", "squares"), "regmean": ("own runs", "inputs")},
        score=float(s.test * T), losses=float(LOOKED * T),
    )  # fmt: skip
    found, alphas = families(bench), weightings(T, s.grid)
    made = Ingredients(
        study=name, seed=bench.seed, tasks=bench.tasks, truth=Preview(bench.tasks, alphas, np.zeros_like(alphas)),
        model=bench.model(),
        families={name: found[name] for name in WARPED}, others={n: m for n, m in found.items() if n not in WARPED},
        score=scorer(bench) if name == "vit" else likelihoods(bench), losses=losses(bench),
        train=partial(of_number, bench, ANCHOR), costs=costs, folder=o.out, refined=refined(alphas), shown=SHOWN,
        settings={"scale": asdict(s), "judge": name},
    )  # fmt: skip
    folder = o.out.parents[1] / "vit" / str(o.seed)
    true, again = (twice(made, folder, partial(of_number, bench, k), k) for k in (0, AGAIN))
    return replace(made, truth=true, again=again)


def bench_of(o: Options) -> Bench:
    """The runs of ``fig4_vit.py`` at this scale and seed, made in a folder of this study where it has not run."""
    (name, tasks), s = next(iter(STUDIES[o.scale].items())), SCALES[o.scale]
    there = ROOT / "experiments-out" / f"fig4_vit-{o.scale}{f'-seed{o.seed}' if o.seed else ''}"
    own = o.out.parents[1] / "vit" / str(o.seed) / "study"
    root = there if (there / name.removeprefix("fig4_") / "results.sqlite").exists() else own
    bench = Bench(s, tasks, root, root / name.removeprefix("fig4_"), o.device, o.seed)
    bench.out.mkdir(parents=True, exist_ok=True)
    if s.model == "vit" and not (root / "base.safetensors").exists():
        pretrain(bench)
    if not (bench.out / "heads.safetensors").exists():
        fit_heads(bench)
    jobs = [task for task in tasks if not bench.file(task).exists()]
    for _ in in_workers("finetune", finetune_task, jobs, bench, 1):
        pass
    return bench


def of_number(bench: Bench, k: int, alpha: tuple[float, ...], *, start: Flat | None, share: float) -> Flat:
    """Joint run number k."""
    return joint(bench, alpha, start=None if start is None else start.vector, share=share, k=k)[0]
