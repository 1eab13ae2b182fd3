"""Figures 7 and 10: LoRA adapters of a causal language model for German-English and French-English (paper, sec. 4.4, B.6, C.2).

Previews: simple averaging of the factors A and B, IVON-HESS, and squared gradients at the same models; beside them, not in the paper,
the exact sum of the updates, and adapters trained by AdamW, which have a truth of their own. Scores: BLEU, and log-likelihoods.

Small scale: a language model that is trained here on Multi30k. Paper scale: gemma-2b-it and IWSLT2017, by their names on the hub.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from _cifar import keep_memory
from _results import judge
from _shared import Options, data, finish, open_store, options, weightings
from _translation import (
    JOINT_SEED,
    Bench,
    Scorer,
    finetune_task,
    joint_run,
    pretrain,
)  # fmt: skip
from _translation_figure import draw
from _translation_text import TASKS, Settings, sentences
from _workers import in_workers
from torch import Tensor

from previa import Diagonal, Flat, Isotropic, Modes, damped, modes, open_checkpoint, sweep
from previa.run.live import evaluating
from previa.study.store import Store

SCALES = {
    "tiny": Settings("", 12, 60, 8, 3, 2, 2, 16, width=16, layers=1, heads=2, vocabulary=200, pretrain_steps=3, pretrain_pairs=40,
                     rank=2, batch=4, micro_batch=4, new_tokens=4, score_batch=8, synthetic=True),
    "small": Settings("", 12, 11_000, 400, 150, 20, 10, 2000, rank=16, lr=8.0, betas=(0.9, 0.995), ess=5e6, joint_ess=5e6,
                      hess_init=0.01, clip_radius=0.1, warmup=15, adamw_lr=0.01, adamw_joint=4),
    "paper": Settings("google/gemma-2b-it", 200, 1_000_000, 100_000, 12_000, 20, 20, 10_000, rank=8, targets=("q_proj", "v_proj"),
                      micro_batch=8, joint_ess=2e7, new_tokens=256, score_batch=32, lowercase=False),
}  # fmt: skip
KINDS = ("ivon", "adamw")
PRIORS = (10.0, 0.1)  # of squared gradients, relative to each tensor; the first is figure 10's
FIG7 = (("joint", "joint finetuning"), ("simple", "simple averaging"), ("ivon_hessian", "IVON-HESS"))
FIG10 = (
    ("joint", "joint finetuning"),
    ("ivon_hessian", "IVON-HESS"),
    ("squared_gradients", "squared gradients"),
)
ADAMW = (
    ("joint", "joint finetuning"),
    ("simple", "simple averaging"),
    ("squared_gradients", "squared gradients"),
)
KEPT = ("pick", "regret_at_1", "regret_noise", "spearman", "mse", "offset")  # of the scores by log-likelihood

Method = Callable[[Tensor], Modes]


def main() -> None:
    """All of it; what is done already is not done again."""
    started, o = time.perf_counter(), options("fig7_fig10_translation", __doc__)
    run(o, SCALES[o.scale], started)


def run(o: Options, s: Settings, started: float) -> None:
    """The studies of figure 7, of figure 10, and of AdamW, at settings ``s``."""
    if not (s.model or s.synthetic):
        data("multi30k")
    o = replace(o, workers=1) if s.synthetic else o  # its work is done before other processes have started
    keep_memory()
    torch.set_num_threads(1)  # a process a core
    bench = Bench(s, o.out, o.device, o.seed)
    (o.out / "runs").mkdir(parents=True, exist_ok=True)
    parts = sentences(s)
    settings = {**asdict(s), "sizes": {task: len(parts[task][1]) for task in TASKS}}
    studies = {kind: Study.open(o, kind, settings) for kind in KINDS}
    store = studies["ivon"].bleu
    if not s.model and not (o.out / "base" / "tokenizer.json").exists():
        store.add_seconds("pretrain", pretrain(bench))
    jobs = [(kind, task) for kind in KINDS for task in TASKS if not bench.file(kind, task).exists()]
    for (kind, task), facts in in_workers("finetune", finetune_task, jobs, bench, o.workers):
        store.add_seconds(f"finetune/{kind}", facts.pop("seconds"))
        store.add_seconds("squared_gradients", facts.pop("squares"))
        store.put(f"{kind} {task}", facts)
    for kind, study in studies.items():
        few = weightings(2, s.joint if kind == "ivon" else s.adamw_joint)
        for name, (method, rank) in methods(bench, kind).items():
            alphas = weightings(2, s.grid) if kind == "ivon" and name in dict((*FIG7, *FIG10)) else few
            for results in (study.bleu, study.likely):
                score = Scorer(bench, likely=results is study.likely)
                sweep(bench.model(rank), method, score, alphas, store=results, name=name, workers=o.workers)
            print(f"{kind}, {name}: {len(alphas)} previews", flush=True)
        study.bleu.declare("joint", {"seed": JOINT_SEED})
        missing = sorted((tuple(few[i].tolist()) for i in study.bleu.missing("joint", few)), key=coarse)
        jobs = [(alpha, kind) for alpha in missing]
        for (alpha, _), (scores, likely, seconds) in in_workers("joint", joint_run, jobs, bench, o.workers):
            study.likely.record("joint", alpha, likely, seconds=0.0)
            study.bleu.record("joint", alpha, scores, seconds=seconds)
    report(o, bench, studies, settings, started)


@dataclass(frozen=True)
class Study:
    """What is known of the runs by one optimizer: scores by BLEU, and by log-likelihood."""

    options: Options
    bleu: Store
    likely: Store

    @classmethod
    def open(cls, o: Options, kind: str, settings: Mapping[str, Any]) -> "Study":
        """Both stores, each in its folder; IVON's BLEU is the study of figure 7."""
        own = replace(o, name="fig7_translation") if kind == "ivon" else replace(
            o, name="fig10_translation_adamw", out=o.out / "adamw"
        )  # fmt: skip
        likely = replace(own, out=own.out / "likelihood")
        return cls(own, open_store(own, TASKS, settings), open_store(likely, TASKS, settings))


def methods(bench: Bench, kind: str) -> dict[str, tuple[Method, int]]:
    """name -> (function from alphas to parameters, the rank of its factors), of the tasks' own runs by this optimizer."""
    r = bench.settings.rank
    posteriors = [bench.posterior(task) for task in TASKS] if kind == "ivon" else []
    means = [q.mode() for q in posteriors] or [
        Flat.of(dict(open_checkpoint(bench.file(kind, t)))) for t in TASKS
    ]
    plain = [Isotropic(mean) for mean in means]
    found: dict[str, tuple[Method, int]] = {"simple": (merging(plain), r)}
    if kind == "ivon":
        found["ivon_hessian"] = merging(posteriors), r
    squares = [dict(open_checkpoint(bench.file(kind, f"{task}-squares"))) for task in TASKS]
    for prior in PRIORS:
        precisions, _ = damped(squares, prior)
        name = "squared_gradients" if prior == PRIORS[0] else f"squared_gradients_prior_{prior:g}"
        found[name] = merging([Diagonal(m, h) for m, h in zip(means, precisions, strict=True)]), r
    found["product"] = partial(updates, means), len(TASKS) * r
    found["simple_warped"] = warped(merging(plain)), r
    if kind == "ivon":
        found["ivon_hessian_warped"] = warped(merging(posteriors)), r
        found["ivon_hessian_by_rank"] = merging([by_rank(q) for q in posteriors]), r
    return found


def coarse(alpha: tuple[float, ...]) -> bool:
    """A spacing of 0.2, and uniform weights, come first: a run that is cut off has seen the whole curve."""
    return alpha[0] != 0.5 and abs(5 * alpha[0] - round(5 * alpha[0])) > 1e-6


def merging(posteriors: list) -> Method:
    """The modes of these posteriors' merges, one posterior a task."""
    return lambda alphas: modes(alphas, posteriors)


def by_rank(q: Diagonal) -> Diagonal:
    """The same means, and one precision for each row of A and each column of B, the mean over its entries.

    A rank's entries have much the same curvature, and IVON's estimates of it a noise of their own each.
    """
    h = {n: v.mean(int(".lora_A." in n), keepdim=True).expand_as(v) for n, v in Flat.of(q.precision).items()}
    return Diagonal(q.mean, {name: values.contiguous() for name, values in h.items()})


def warped(method: Method, p: float = 0.5) -> Method:
    """The method at weights alpha^p, normalised, since a little weight already buys most of a task's score."""
    return lambda alphas: method(alphas**p / (alphas**p).sum(-1, keepdim=True))


def updates(means: Sequence[Flat], alphas: Tensor) -> Modes:
    """sum_t alpha_t B_t A_t exactly, by factors of rank T r: A's beside each other, and alpha_t B_t."""
    found = []
    for alpha in alphas.tolist():
        both = {
            name: torch.cat([m[name] for m in means])
            if ".lora_A." in name
            else torch.cat([a * m[name] for a, m in zip(alpha, means, strict=True)], dim=1)
            for name in means[0]
        }
        found.append(Flat.of(both))
    return Modes(Flat(found[0].layout, torch.stack([flat.vector for flat in found])), {})


def report(
    o: Options, bench: Bench, studies: Mapping[str, Study], settings: Mapping[str, Any], started: float
) -> None:
    """The three studies' numbers and pictures; IVON's is written twice, as figure 7 and as figure 10."""
    ivon, adamw = studies["ivon"], studies["adamw"]
    ivon.bleu.put("base", ivon.bleu.get("base") or base_scores(bench))
    about = {
        "base": ivon.bleu.get("base"),
        "runs": {f"{kind} {task}": ivon.bleu.get(f"{kind} {task}") for kind in KINDS for task in TASKS},
        "alike": {kind: alike(bench, kind) for kind in KINDS},
    }
    facts = {"started": started, "settings": settings, "unit": "BLEU"}
    ten = replace(o, name="fig10_translation", out=o.out / "fig10")
    with open_store(ten, TASKS, settings) as copied:
        copy(ivon.bleu, copied, [name for name, _ in FIG10] + ["squared_gradients_prior_0.1"])
        finish(ten, copied, title="Translation: two Hessians of the same models", columns=FIG10,
               roles={"hessian": "ivon_hessian"}, extra={"likelihood": likelihoods(ivon.likely, FIG10)}, **facts)  # fmt: skip
    finish(adamw.options, adamw.bleu, title="Translation: adapters trained by AdamW", columns=ADAMW,
           roles={"simple": "simple", "hessian": "squared_gradients"}, extra={"likelihood": likelihoods(adamw.likely, ADAMW)}, **facts)  # fmt: skip
    finish(ivon.options, ivon.bleu, title="Translation: de-en and fr-en", columns=FIG7,
           roles={"simple": "simple", "hessian": "ivon_hessian"}, extra={**about, "likelihood": likelihoods(ivon.likely, FIG7)}, **facts)  # fmt: skip
    for own, study, columns in (
        (ten, ivon, FIG10),
        (adamw.options, adamw, ADAMW),
        (ivon.options, ivon, FIG7),
    ):
        scores = {"BLEU": study.bleu, "log-likelihood": study.likely}
        draw(
            own.docs / f"{own.stem}-pairs.png",
            scores,
            columns,
            title="German-English and French-English, LoRA",
        )


def copy(source: Store, target: Store, names: Sequence[str]) -> None:
    """The scores of these methods."""
    for name in names:
        preview = source.preview(name)
        for i in target.missing(name, preview.alphas):
            items = {task: preview.items[t][i] for t, task in enumerate(TASKS)}
            target.record(name, preview.alphas[i], items, seconds=preview.seconds / len(preview))


def likelihoods(store: Store, columns: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """What the previews are worth by log-likelihood a token, where noise is smaller than in BLEU."""
    judged = judge(store, columns, sizes={})
    kept = {name: {key: q[key] for key in KEPT} for name, q in judged["methods"].items()}
    truth = {
        key: judged["truth"][key] for key in ("best_alpha", "best_score", "worst_score", "uniform_score")
    }
    return {"truth": truth, "methods": kept}


def base_scores(bench: Bench) -> dict[str, dict[str, float]]:
    """BLEU and log-likelihood of the base, whose adapters are at their start."""
    model = bench.model()
    with evaluating(model):
        found = {"BLEU": Scorer(bench)(model), "likelihood": Scorer(bench, likely=True)(model)}
    return {name: {task: float(v.mean()) for task, v in each.items()} for name, each in found.items()}


def alike(bench: Bench, kind: str) -> float:
    """The cosine of the two tasks' factors A: near 1 where both are still near their common start."""
    a, b = (
        torch.cat([v.flatten() for name, v in open_checkpoint(bench.file(kind, task)).items() if ".lora_A." in name])
        for task in TASKS
    )  # fmt: skip
    return float(torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=0))


if __name__ == "__main__":
    main()
