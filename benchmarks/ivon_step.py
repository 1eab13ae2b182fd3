"""One optimizer step at 10 million parameters: previa's IVON against torch's AdamW and, where installed, ivon-opt.

Run: python benchmarks/ivon_step.py [--params 10_000_000] [--rounds 15]
ivon-opt is GPL-3.0 and no dependency; to see it beside the others: pip install --no-deps --target DIR ivon-opt, PYTHONPATH=DIR.

Floor, in arrays of 4 bytes a parameter that cross the memory: AdamW reads p, grad, m, v and writes p, m, v: 7. IVON's step reads
m, g, h, grad, theta-m and writes m, g, h: 8; sampling reads m, h and writes m's copy and theta: 4; leaving the context swaps
the two: 4. On top come the normal numbers, one a parameter, from torch's generator: a Mersenne twister on a CPU.
ivon-opt works on whole vectors with fresh temporaries, whose pages glibc hands back after each use: to see it without that cost,
set MALLOC_MMAP_THRESHOLD_=1000000000 MALLOC_TRIM_THRESHOLD_=8000000000. With more threads than idle cores OpenMP's waiting
inflates every row: use OMP_NUM_THREADS=1 on a busy machine.
Gradients are given, so that nothing but the optimizers is timed. Rounds are interleaved; ratios are medians over rounds.
"""

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import torch
from torch import nn

from previa.fit.ivon import IVON

Timings = dict[str, list[tuple[float, float]]]


def parameters(P: int) -> list[nn.Parameter]:
    """Weights and biases of a transformer of width 512: six matrices and eleven vectors a layer, and an embedding."""
    width = 512
    matrices = [(width, width)] * 4 + [(4 * width, width), (width, 4 * width)]
    layer = matrices + [(width,)] * 9 + [(4 * width,)] * 2
    layers = max(1, P // (14 * width * width))
    left = P - layers * sum(torch.Size(shape).numel() for shape in layer)
    shapes = layer * layers + [(max(1, left // width), width)]
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


@contextlib.contextmanager
def timed(name: str, timings: Timings) -> Iterator[None]:
    """Append (CPU seconds, wall seconds) of the block."""
    cpu, wall = time.process_time(), time.perf_counter()
    yield
    timings.setdefault(name, []).append((time.process_time() - cpu, time.perf_counter() - wall))


def bayesian_round(
    name: str,
    sampled: Callable[[], AbstractContextManager[object]],
    step: Callable[[], object],
    params: list[nn.Parameter],
    grads: list[torch.Tensor],
    timings: Timings,
) -> None:
    """Enter the sampling context, hand in gradients, leave, step: each timed."""
    context = sampled()
    with timed(f"{name}: sample (enter)", timings):
        context.__enter__()
    for p, grad in zip(params, grads, strict=True):
        p.grad = grad
    with timed(f"{name}: leave", timings):
        context.__exit__(None, None, None)
    with timed(f"{name}: step", timings):
        step()
    for p in params:
        p.grad = None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--params", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    grads = [0.01 * torch.randn_like(p) for p in parameters(args.params)]
    timings: Timings = {}
    rounds: list[Callable[[], None]] = []

    for name, options in {
        "AdamW": {},
        "AdamW foreach": {"foreach": True},
        "AdamW fused": {"fused": True},
    }.items():
        adam_params = parameters(args.params)
        adam = torch.optim.AdamW(adam_params, **options)
        for p, grad in zip(adam_params, grads, strict=True):
            p.grad = grad

        def adam_round(name: str = name, adam: torch.optim.AdamW = adam) -> None:
            with timed(f"{name}: step", timings):
                adam.step()

        rounds.append(adam_round)

    ours = parameters(args.params)
    ivon = IVON(ours, lr=0.1, ess=50_000.0, hess_init=0.1, weight_decay=1e-4)
    rounds.append(lambda: bayesian_round("previa IVON", ivon.sampled, ivon.step, ours, grads, timings))
    try:
        import ivon as ivon_opt
    except ImportError:
        print("ivon-opt is not installed: left out.")
    else:
        theirs = parameters(args.params)
        public = ivon_opt.IVON(theirs, lr=0.1, ess=50_000.0, hess_init=0.1, weight_decay=1e-4)

        def sampled() -> AbstractContextManager[object]:
            return public.sampled_params(train=True)

        rounds.append(lambda: bayesian_round("ivon-opt", sampled, public.step, theirs, grads, timings))

    for one_round in rounds * 2:  # state is made in the first rounds, buffers are warm after the second
        one_round()
    timings.clear()
    for _ in range(args.rounds):
        for one_round in rounds:
            one_round()
    report(timings, sum(p.numel() for p in ours), len(ours))


def report(timings: Timings, P: int, tensors: int) -> None:
    """Print CPU and wall medians, and median ratios to AdamW's step in its default and fused forms."""
    for name in ("previa IVON", "ivon-opt"):
        parts = [timings[key] for key in timings if key.startswith(name)]
        if parts:
            triples = zip(*parts, strict=True)
            timings[f"{name}: all three"] = [(sum(c for c, _ in t), sum(w for _, w in t)) for t in triples]
    print(
        f"{P / 1e6:.2f} M parameters in {tensors} tensors, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    print(f"{'median over rounds':28}{'CPU s':>9}{'wall s':>9}{'x AdamW':>9}{'x fused':>9}")
    adam, fused = timings["AdamW: step"], timings["AdamW fused: step"]
    for name, rounds in timings.items():
        cpu, wall = (statistics.median(values) for values in zip(*rounds, strict=True))
        ratios = [
            statistics.median(x / y for (x, _), (y, _) in zip(rounds, other, strict=True))
            for other in (adam, fused)
        ]
        print(f"{name:28}{cpu:9.4f}{wall:9.4f}{ratios[0]:9.2f}{ratios[1]:9.2f}")
    if "ivon-opt: step" in timings:
        for part in ("step", "all three"):
            pairs = zip(timings[f"previa IVON: {part}"], timings[f"ivon-opt: {part}"], strict=True)
            print(
                f"previa / ivon-opt, {part}: {statistics.median(x / y for (x, _), (y, _) in pairs):.2f} of the CPU seconds"
            )


if __name__ == "__main__":
    main()
