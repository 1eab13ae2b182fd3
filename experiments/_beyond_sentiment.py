"""Sentiment (figure 6) for the study beyond the paper: its tasks' own runs as they were kept, joint runs trained again and kept."""

import math
import os
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _beyond import Costs, Ingredients
from _beyond_again import refined, twice
from _sentiment import JOINT_SEED, by_length, collate, scorer, split
from _sentiment import loss as text_loss
from _sentiment_bench import Bench
from _sentiment_data import TASKS, Batch
from _sentiment_layers import First
from _sentiment_methods import mean, methods
from _shared import ROOT, Options, open_store, weightings
from fig5_fig6_sentiment import scales, told
from fig5_fig6_sentiment import train as train_all
from torch import Tensor
from torch.nn import Module

from previa import AdamWRecipe, Flat, Recipe
from previa.run.accelerate_loop import accelerator_of, finetune_accelerated
from previa.run.accelerate_step import Loop
from previa.run.joint_data import Mixture
from previa.study.preview import Preview

FAMILIES = ("simple", "squared_gradients", "regmean")
WARPED = ("simple", "squared_gradients")  # RegMean's conjugate gradients take longer than all scores
SHOWN = (0.5, 0.25)
LOOKED = 200  # training texts of each task whose loss chooses a power
AGAIN = 1  # joint run number of the truth once more
ANCHOR = 5  # joint run number of anchors: of other seeds than the truth (0) and its repetitions (1 to 4)


class Turned(First):
    """`First` with the maps of keys and values on the query's side: W_k^T q for each token's key, W_v of the mean token.

    The same numbers to rounding, at a fifth of the work, since there are many tokens and one query.
    """

    def forward(self, hidden: Tensor, mask: Tensor | None = None, *_: Any, **__: Any) -> Tensor:
        """[B, words, width] -> [B, 1, width]"""
        own, x = self.attention.self, hidden[:, :1]
        H, D = own.num_attention_heads, hidden.shape[-1]
        q = own.query(x).view(len(x), H, -1)
        W_k, W_v = (f.weight.view(H, -1, D) for f in (own.key, own.value))
        asked = torch.einsum("bhd,hde->bhe", q, W_k)
        scale = math.sqrt(q.shape[-1])
        a = (asked @ hidden.mT + (q * own.key.bias.view(H, -1)).sum(-1, keepdim=True)) / scale
        if mask is not None:
            mask = mask[:, :, 0]
            a = a.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else a + mask
        seen = a.softmax(-1) @ hidden  # [B, H, D]
        context = torch.einsum("bhe,hde->bhd", seen, W_v).flatten(1) + own.value.bias
        x = self.attention.output(context[:, None], x)
        return self.output(self.intermediate(x), x)


def model_of(bench: Bench) -> Module:
    """What the tasks train, at the base, with `Turned` where only one layer is trained and nothing drops out."""
    model = bench.model()
    layers = model.base_model.encoder.layer
    if isinstance(layers[-1], First) and bench.settings.dropout == 0:
        layers[-1] = Turned(layers[-1])
    return model


def families(bench: Bench) -> dict[str, Any]:
    """name -> method, unwarped, of the tasks' own runs."""
    found = methods(bench)
    return {name: found[name] for name in FAMILIES}


def layout(bench: Bench) -> Any:
    """Of the tasks' parameters."""
    return Flat.of(mean(bench, (TASKS[0], 0))).layout


def losses(bench: Bench) -> Any:
    """A scorer of training losses: each task's cross-entropy on its first training texts."""
    parts = {t: {n: v[:LOOKED] for n, v in bench.data()[t][0].items()} for t in TASKS}
    return partial(_losses, {t: by_length(part) for t, part in parts.items()})


def likelihoods(bench: Bench) -> Any:
    """A scorer of log-likelihoods: log p(label | text) of each test text."""
    return partial(_likelihoods, {t: by_length(bench.data()[t][1]) for t in TASKS})


def _likelihoods(parts: Mapping[str, Batch], model: Module) -> dict[str, Tensor]:
    return {task: -values for task, values in _losses(parts, model).items()}


def _losses(parts: Mapping[str, Batch], model: Module) -> dict[str, Tensor]:
    found = {}
    for task, part in parts.items():
        each = [
            text_loss(model, {n: v[i : i + 64] for n, v in part.items()})
            for i in range(0, len(part["labels"]), 64)
        ]
        found[task] = torch.cat(each)
    return found


def joint(
    bench: Bench,
    alpha: tuple[float, ...],
    *,
    start: Tensor | None = None,
    share: float = 1.0,
    k: int = ANCHOR,
) -> tuple[Flat, float]:
    """Joint run number k at alpha, by the experiment's own recipe; ``start``: parameters to begin at, ``share``: of the steps."""
    s, model = bench.settings, model_of(bench)
    data = {task: bench.data()[task][0] for task in TASKS}
    steps = max(1, round(share * s.steps(s.joint_epochs, sum(len(part["labels"]) for part in data.values()))))
    if start is not None:
        with torch.no_grad():
            for name, value in Flat(layout(bench), start).items():
                model.get_parameter(name).copy_(value)
    recipe = Recipe(optimizer=AdamWRecipe(lr=s.lr), steps=steps, batch_size=s.batch, sampling="sample")
    mixture = Mixture(
        {t: split(p) for t, p in data.items()}, alpha, recipe, seed=bench.seed + JOINT_SEED + 1000 * k
    )
    found = finetune_accelerated(
        model, mixture, loss=text_loss, collate=collate,
        loop=Loop(micro_batch=s.batch, schedule="cosine", warmup=min(s.warmup, steps // 2)),
        accelerator=accelerator_of(cpu=bench.device == "cpu"),
    )  # fmt: skip
    return Flat.of({name: p.detach().cpu().clone() for name, p in model.named_parameters()}), found.seconds


def ingredients(name: str, o: Options) -> Ingredients:
    """The study at this seed: "sentiment", judged by accuracy, or "sentiment_likelihood", by log-likelihoods of the test texts.

    Accuracies of 600 texts hide most of what weights do to this encoder; likelihoods show it.
    """
    bench = bench_of(o)
    s, likely = bench.settings, name != "sentiment"
    sizes = {task: len(bench.tokens()[task][0]["labels"]) for task in TASKS}
    steps = s.steps(s.joint_epochs, sum(sizes.values()))
    own = sum(s.batch * s.steps(epochs, sizes[t]) for t, epochs in zip(TASKS, s.own_epochs, strict=True))
    costs = Costs(
        run=lambda alpha: 3.0 * steps * s.batch,
        sources={"own runs": 3.0 * own, "squares": 3.0 * s.measured * (len(TASKS) + 1), "inputs": float(s.measured * len(TASKS))},
        needs={"simple": ("own runs",), "squared_gradients": ("own runs", "squares"), "regmean": ("own runs", "inputs")},
        score=float(s.test * len(TASKS)), losses=float(LOOKED * len(TASKS)),
    )  # fmt: skip
    found, train = families(bench), partial(of_number, bench, ANCHOR)
    alphas = weightings(len(TASKS), s.grid)
    blank = Preview(TASKS, alphas, np.zeros_like(alphas))
    made = Ingredients(
        study=name, seed=bench.seed, tasks=TASKS, truth=blank, model=model_of(bench),
        families={name: found[name] for name in WARPED}, others={n: m for n, m in found.items() if n not in WARPED},
        score=likelihoods(bench) if likely else scorer(bench), losses=losses(bench), train=train, costs=costs, folder=o.out,
        refined=refined(alphas), shown=SHOWN, settings={"scale": told(s), "judge": name},
    )  # fmt: skip
    folder = o.out.parents[1] / "sentiment" / str(o.seed)
    true, again = (twice(made, folder, partial(of_number, bench, k), k) for k in (0, AGAIN))
    return replace(made, truth=true, again=again)


def bench_of(o: Options) -> Bench:
    """The runs of ``fig5_fig6_sentiment.py`` at this scale and seed, made in a folder of this study where it has not run."""
    folder = os.environ.get("PREVIA_MINILM", "")
    if o.scale == "small" and not (Path(folder) / "model.safetensors").is_file():
        raise SystemExit(
            f"sentiment needs an encoder: PREVIA_MINILM names no folder with model.safetensors (found {folder!r})"
        )
    s = scales(folder)[o.scale]
    there = ROOT / "experiments-out" / f"fig5_fig6_sentiment-{o.scale}{f'-seed{o.seed}' if o.seed else ''}"
    own = o.out.parents[1] / "sentiment" / str(o.seed) / "study"
    if (there / "results.sqlite").exists():
        return Bench(s, there, o.device, o.seed)
    bench = Bench(s, own, o.device, o.seed)
    own = replace(o, out=own)
    with closing(open_store(own, TASKS, told(s))) as store:
        train_all(own, bench, store)
    return bench


def of_number(bench: Bench, k: int, alpha: tuple[float, ...], *, start: Flat | None, share: float) -> Flat:
    """Joint run number k."""
    return joint(bench, alpha, start=None if start is None else start.vector, share=share, k=k)[0]
