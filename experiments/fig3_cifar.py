"""Figure 3: a ResNet-20 pretrained on a part of CIFAR-10 is finetuned on three tasks of the rest (paper, sec. 4.1, B.3).

Tasks: airplane, car, ship, truck; cat, dog; deer, dog, frog, horse. Every run is by IVON from the pretrained posterior; previews are
simple averaging, IVON-HESS, and mixtures of 10, 20 and 30 models (MULTIIVON-HESS); the truth is joint finetuning.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace

import numpy as np
import torch
from _cifar import (
    JOINT_SEED,
    TASKS,
    Bench,
    Settings,
    finetune_task,
    joint_run,
    judge,
    keep_memory,
    pretrain,
    read_diagonal,
    read_factors,
    square_gradients,
)  # fmt: skip
from _shared import Options, finish, open_store, options, weightings
from _workers import in_workers
from torch import Tensor

from previa import Diagonal, Isotropic, Mixture, Modes, StudentT, damped, modes, open_checkpoint, sweep
from previa.core.kronecker import Kronecker, kronecker_damping, regmean
from previa.fit.snapshots import snapshot_posterior
from previa.run.live import evaluating
from previa.study import simplex
from previa.study.quality import ranking
from previa.study.simplex import uniform
from previa.study.store import Store

STEPS = (25, 50, 75, 100, 125, 150)
SCALES = {
    "tiny": Settings(8, 2, 1, 100, 400, 4, 2, 1, 1, (1, 2, 3), 3, 1, 2, 2, 20, 5, tune_samples=1, joint_samples=1, tiny=True),
    "small": Settings(8, 16, 3, 15_000, 35_000, 150, 40, 8, 1, STEPS, 250, 1, 5, 10, 500, 500,
                      beta2=0.9995, tune_lr=0.02, tune_beta2=0.99, tune_samples=2, joint_samples=1),
    "paper": Settings(32, 16, 3, 25_000, 25_000, 1000, 100, 1000, 5, STEPS, 250, 20, 5, 10, 2500, 500),
}  # fmt: skip
MODES = ("given", "sampled", "expected")  # labels of squared gradients
REPEATS = 4  # of joint runs with other seeds, at the best weighting, at uniform weights and where the paper's methods point
TINY = (
    "student_t",
    "mixture_6_blocks",
    "squared_gradients",
    "kronecker",
)  # of the methods beyond the paper, those that tiny tries
TEMPERATURES = (100.0, 1000.0, 10_000.0)

Method = Callable[[Tensor], Modes]
Runs = Mapping[str, Mapping[tuple[int, int], Diagonal]]
"""task -> (seed, step) -> IVON's posterior"""


def main() -> None:
    """All of it; what is done already is not done again."""
    started, o = time.perf_counter(), options("fig3_cifar", __doc__)
    run(o, SCALES[o.scale], started)


def run(o: Options, s: Settings, started: float) -> None:
    """The study at settings ``s``."""
    o = replace(o, workers=1) if s.tiny else o  # its work is done before other processes have started
    keep_memory()
    torch.set_num_threads(1)  # a process a core, with one thread each, is the fastest for small models
    bench = Bench(s, o.out, o.device, o.seed)
    sizes = {task: len(bench.parts()[task][0]) for task in TASKS}
    settings = {**asdict(s), "sizes": sizes}
    store = open_store(o, tuple(TASKS), settings)
    (o.out / "runs").mkdir(exist_ok=True)
    if not (o.out / "base.safetensors").exists():
        store.add_seconds("pretrain", pretrain(bench, o.workers, told))
    jobs = [(t, k) for t in TASKS for k in range(s.seeds) if not bench.file(t, k, s.steps[-1]).exists()]
    for _, (seconds, memory) in in_workers("finetune", finetune_task, jobs, bench, o.workers):
        store.add_seconds("finetune/ivon", seconds)
        store.put("memory", memory)
    runs = {
        t: {(k, step): bench.posterior(t, k, step) for k in range(s.seeds) for step in s.steps} for t in TASKS
    }
    alphas = weightings(len(TASKS), s.grid)
    preview(o, bench, store, of_the_paper(s, runs), alphas)
    store.declare("joint", {"seed": JOINT_SEED})
    missing = sorted((tuple(alphas[row].tolist()) for row in store.missing("joint", alphas)), key=coarse)
    jobs = [(alpha, 0) for alpha in missing]
    for (alpha, _), (scores, running, seconds) in in_workers("joint", joint_run, jobs, bench, o.workers):
        store.record("joint_from_running", alpha, running, seconds=0.0)
        store.record("joint", alpha, scores, seconds=seconds)
    jobs = [(t, mode) for t in TASKS for mode in (*MODES, "kronecker") if not bench.squares(t, mode).exists()]
    for _ in in_workers("squared gradients", square_gradients, jobs, bench, o.workers):
        pass
    preview(o, bench, store, beyond(bench, runs), alphas)
    jobs = [
        (alpha, k)
        for alpha in watched(store)
        for k in repeats(s)
        if key(alpha, k) not in store.get("repeats", {})
    ]
    for (alpha, k), (scores, _, seconds) in in_workers("joint again", joint_run, jobs, bench, o.workers):
        store.put(
            "repeats",
            {**store.get("repeats", {}), key(alpha, k): float(np.mean([v.mean() for v in scores.values()]))},
        )
        store.add_seconds("joint again", seconds)
    columns = [("joint", "joint finetuning"), ("simple", "simple averaging"), ("ivon_hessian", "IVON-HESS")]
    columns += [(name, f"mixture of {name[8:]}") for name in mixtures(s)]
    roles = {"simple": "simple", "hessian": "ivon_hessian", "mixture": list(mixtures(s))[-1]}
    finish(
        o, store, started=started, title="ResNet-20, CIFAR-10", columns=columns, settings=settings, roles=roles,
        extra=extra(bench, store, runs),
    )  # fmt: skip


def preview(
    o: Options, bench: Bench, store: Store, methods: Mapping[str, Method], alphas: np.ndarray
) -> None:
    """Scores of every method at every weighting, with BatchNorm recalibrated for each."""
    score, recalibrate = judge(bench)
    for name, method in methods.items():
        sweep(
            bench.model(), method, score, alphas,
            store=store, name=name, recalibrate=recalibrate, workers=o.workers, progress=told,
        )  # fmt: skip


def mixtures(s: Settings) -> dict[str, tuple[int, ...]]:
    """The steps whose models are mixed: {100, 150}, {75, 100, 125, 150} and all six, each of every seed."""
    return {f"mixture_{len(kept) * s.seeds}": kept for kept in (s.steps[-3::2], s.steps[-4:], s.steps)}


def of_the_paper(s: Settings, runs: Runs) -> dict[str, Method]:
    """Simple averaging and IVON-HESS (eq. 2, 10) of the first seed's last models; mixtures by EM (Algorithm 1)."""
    last = [own[0, s.steps[-1]] for own in runs.values()]
    found = {"simple": merging([Isotropic(q.mode()) for q in last]), "ivon_hessian": merging(last)}
    for name, kept in mixtures(s).items():
        mixed = [Mixture([q for (_, step), q in own.items() if step in kept]) for own in runs.values()]
        found[name] = merging(mixed, iterations=s.iterations)
    return found


def beyond(bench: Bench, runs: Runs) -> dict[str, Method]:
    """Not in the paper, on the same ensembles: all but the pooled ones and mixtures merge the same three models."""
    s, paper = bench.settings, of_the_paper(bench.settings, runs)
    last = [own[0, s.steps[-1]] for own in runs.values()]
    every = [list(own.values()) for own in runs.values()]
    blocks, K = last[0].layout.blocks(), len(every[0])
    found = {
        "simple_warped": warped(paper["simple"], 0.5),
        "hessian_warped": warped(paper["ivon_hessian"], 0.5),
        "student_t": merging([StudentT(q.mode(), q.precision, 1.0) for q in last], iterations=s.iterations),
        f"mixture_{K}_blocks": merging([Mixture(members) for members in every], blocks, s.iterations),
        f"simple_{K}_pooled": pooled([[Isotropic(q.mode()) for q in members] for members in every]),
        f"hessian_{K}_pooled": pooled(every),
    }
    for k in range(1, s.seeds):  # how much of a number is its seed's?
        other = [own[k, s.steps[-1]] for own in runs.values()]
        found[f"simple_seed{k}"] = merging([Isotropic(q.mode()) for q in other])
        found[f"ivon_hessian_seed{k}"] = merging(other)
    for tau in TEMPERATURES:
        mixed = [Mixture(members, temperature=tau) for members in every]
        found[f"mixture_{K}_tempered_{tau:g}"] = merging(mixed, iterations=s.iterations)
    ends, L = [[own[k, s.steps[-1]] for k in range(s.seeds)] for own in runs.values()], s.seeds
    found[f"mixture_{L}"] = merging([Mixture(qs) for qs in ends], iterations=s.iterations)
    found[f"mixture_{L}_blocks"] = merging([Mixture(qs) for qs in ends], blocks, s.iterations)
    found[f"hessian_{L}_pooled"] = pooled(ends)
    for tau in TEMPERATURES:
        mixed = [Mixture(qs, temperature=tau) for qs in ends]
        found[f"mixture_{L}_tempered_{tau:g}"] = merging(mixed, iterations=s.iterations)
    for mode, prior in (*((mode, 10.0) for mode in MODES), ("expected", 0.1)):
        precisions, _ = damped([dict(open_checkpoint(bench.squares(t, mode))) for t in TASKS], prior)
        name = "squared_gradients" if mode == "given" else f"squared_gradients_{mode}"
        name += "" if prior == 10 else f"_prior_{prior:g}"
        found[name] = merging([Diagonal(q.mode(), h) for q, h in zip(last, precisions, strict=True)])
    factors = [read_factors(bench.squares(t, "kronecker")) for t in TASKS]
    rest, _ = damped([dict(open_checkpoint(bench.squares(t, "expected"))) for t in TASKS], 1.0)
    prior = kronecker_damping(factors, 1.0)
    found["kronecker"] = merging(
        [Kronecker(q.mode(), fs, h, prior) for q, fs, h in zip(last, factors, rest, strict=True)]
    )
    inputs = [{name: A for name, (A, _) in fs.items()} for fs in factors]
    prior = kronecker_damping([{name: (A, None) for name, A in own.items()} for own in inputs], 0.01)
    found["regmean"] = merging(
        [regmean(q.mode(), own, damping=prior) for q, own in zip(last, inputs, strict=True)]
    )
    means = [[q.mode() for q in members] for members in every]
    found["snapshots"] = merging(
        [snapshot_posterior(own, mean=q.mode()) for own, q in zip(means, last, strict=True)]
    )
    return {name: found[name] for name in TINY} if s.tiny else found


def merging(posteriors: list, blocks: tuple | None = None, iterations: int = 500) -> Method:
    """The modes of these posteriors' merges, one posterior a task."""
    return lambda alphas: modes(alphas, posteriors, blocks=blocks, max_iterations=iterations)


def pooled(every: list[list]) -> Method:
    """Each task's models merged with equal weights, without EM: what a mixture adds is beyond this."""
    K, members = len(every[0]), [q for own in every for q in own]
    return lambda alphas: modes(alphas.repeat_interleave(K, 1) / K, members)


def warped(method: Method, p: float) -> Method:
    """The method at weights alpha^p, normalised, since a little weight already buys most of a task's score."""
    return lambda alphas: method(alphas**p / (alphas**p).sum(-1, keepdim=True))


def coarse(alpha: tuple[float, ...]) -> int:
    """Uniform weights and a grid of spacing 0.2 come first: a run that is cut off has seen the whole triangle."""
    return int(max(alpha) - min(alpha) > 1e-6 and any(abs(5 * a - round(5 * a)) > 1e-6 for a in alpha))


def watched(store: Store) -> list[tuple[float, ...]]:
    """The truth's best weighting, uniform weights, and the picks of the paper's methods."""
    names = ("joint", "simple", "ivon_hessian", *mixtures_in(store))
    found = [tuple(p.alphas[ranking(p.mean, p.alphas)[0]].tolist()) for p in map(store.preview, names)]
    return list(dict.fromkeys([*found, tuple(uniform(len(TASKS)).tolist())]))


def mixtures_in(store: Store) -> list[str]:
    """The paper's mixtures among the store's methods."""
    return [m for m in store.methods() if m.removeprefix("mixture_").isdigit()]


def repeats(s: Settings) -> range:
    """The numbers of a watched weighting's further joint runs."""
    return range(1, (1 if s.tiny else REPEATS) + 1)


def again(store: Store, s: Settings) -> list[dict[str, object]]:
    """At the watched weightings: the truth's score, and mean and deviation of those of other seeds."""
    truth, found = store.preview("joint"), []
    for alpha in watched(store):
        others = [store.get("repeats")[key(alpha, k)] for k in repeats(s)]
        score = float(truth.mean[truth.index(alpha)])
        found.append(
            {
                "alpha": alpha,
                "truth": score,
                "again": others,
                "mean": float(np.mean(others)),
                "sd": float(np.std(others, ddof=1)) if len(others) > 1 else None,
            }
        )
    return found


def key(alpha: tuple[float, ...], k: int) -> str:
    """The name of one repetition."""
    return f"{simplex.key(alpha)} seed {k}"


def extra(bench: Bench, store: Store, runs: Runs) -> dict[str, object]:
    """What explains the numbers: the base's scores, IVON's memory, responsibilities, and BatchNorm's statistics."""
    s, (score, recalibrate), model = bench.settings, judge(bench), bench.model()
    base = read_diagonal(bench.out / "base.safetensors")
    for name, parameter in model.named_parameters():
        parameter.data.copy_(base.mode()[name])
    recalibrate(model)
    with evaluating(model):
        scores = {task: float(values.mean()) for task, values in score(model).items()}
    heads = [own[0, s.steps[-1]].precision["head.bias"] / s.tune_ess for own in runs.values()]
    joint, running = store.preview("joint"), store.preview("joint_from_running")
    stats = {m: store.preview(m).stats for m in store.methods() if m.startswith(("mixture", "student"))}
    return {
        "pretrained": scores,
        "memory": store.get("memory"),
        "head_bias_h": {task: h.tolist() for task, h in zip(TASKS, heads, strict=True)},
        "effective_k": {m: float(np.mean(v["effective_k"])) for m, v in stats.items()},
        "converged": {m: float(np.mean(v["converged"])) for m, v in stats.items()},
        "joint_again": again(store, s),
        "joint_with_running_statistics": {
            "mean": float(running.mean.mean()), "mean_recalibrated": float(joint.mean.mean()),
            "best": float(running.mean.max()), "mse": float(((running.mean - joint.mean) ** 2).mean()),
        },
    }  # fmt: skip


def told(what: str, done: int, total: int) -> None:
    """Progress, in some ten lines."""
    if done == total or done % max(1, total // 10) == 0:
        print(f"{what}: {done} of {total}", flush=True)


if __name__ == "__main__":
    main()
