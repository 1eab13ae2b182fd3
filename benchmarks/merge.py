"""Merge 231 weightings of 3 tasks with diagonal precisions: previa's chunked products against two peers, interleaved.

Run: python benchmarks/merge.py [--params 20_000_000] [--rounds 3]

Floor: 231 outputs of 4 P bytes each must be written: at P = 2e7, 18.5 GB, plus 6 inputs of 80 MB read once.
`loop` merges one weighting after another over state dicts of float32 tensors, as users write it today.
`copy` writes the same bytes, one weighting at a time into one model: what loading 231 checkpoints that lie in memory costs.
`previa` yields every weighting in chunks of parameters (previa.mode_parts), each chunk into cache.
`previa in blocks` keeps six whole models at a time (512 MB), as a sweep over a model of this size does.
"""

import argparse
import statistics
import time

import torch

import previa


def state_dicts(P: int, tasks: int) -> tuple[list[dict[str, torch.Tensor]], list[dict[str, torch.Tensor]]]:
    """Means and precisions with the tensor shapes of a small transformer, P parameters in all."""
    generator = torch.Generator().manual_seed(0)
    width = 512
    layers = max(1, P // (12 * width * width))
    shapes = {}
    for layer in range(layers):
        for name, shape in {
            "q": (width, width),
            "k": (width, width),
            "v": (width, width),
            "o": (width, width),
        }.items():
            shapes[f"{layer}.{name}"] = shape
        shapes[f"{layer}.up"], shapes[f"{layer}.down"] = (4 * width, width), (width, 4 * width)
        shapes[f"{layer}.norm"] = (width,)
    shapes["embedding"] = (max(1, (P - sum(torch.Size(s).numel() for s in shapes.values())) // width), width)
    means = [{n: torch.randn(s, generator=generator) for n, s in shapes.items()} for _ in range(tasks)]
    precisions = [
        {n: torch.rand(s, generator=generator) + 0.1 for n, s in shapes.items()} for _ in range(tasks)
    ]
    return means, precisions


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--params", type=int, default=20_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    means, precisions = state_dicts(args.params, 3)
    posteriors = [previa.Diagonal(m, h) for m, h in zip(means, precisions, strict=True)]
    layout = posteriors[0].layout
    alphas = torch.tensor([[i, j, 20 - i - j] for i in range(21) for j in range(21 - i)]) / 20
    target = torch.empty(layout.size)
    source = torch.randn(layout.size)

    def loop() -> None:
        for alpha in alphas.tolist():
            merged = {}
            for name in means[0]:
                h = sum(a * hs[name] for a, hs in zip(alpha, precisions, strict=True))
                hm = sum(a * hs[name] * ms[name] for a, hs, ms in zip(alpha, precisions, means, strict=True))
                merged[name] = hm / h

    def copy() -> None:
        for _ in alphas:
            target.copy_(source)

    def streamed() -> None:
        for _ in previa.mode_parts(alphas, posteriors):
            pass

    def blocks() -> None:
        block = torch.empty(6, layout.size)
        for some in alphas.split(6):
            for entries, values in previa.mode_parts(some, posteriors):
                block[: len(some), entries] = values

    ways = {"loop": loop, "copy": copy, "previa": streamed, "previa in blocks": blocks}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    print(
        f"{len(alphas)} weightings, 3 tasks, {layout.size / 1e6:.1f} M parameters, {torch.get_num_threads()} threads"
    )
    median = {name: statistics.median(values) for name, values in seconds.items()}
    for name, value in median.items():
        print(
            f"{name:16s} {value:7.2f} s   loop/{name} {median['loop'] / value:6.1f}x   {name}/copy {value / median['copy']:5.2f}"
        )


if __name__ == "__main__":
    main()
