"""Exact squared gradients beside a plain training pass and beside the loop over single examples.

    OMP_NUM_THREADS=1 python benchmarks/squared_gradients.py [--rounds 5]

Counted first. N examples, T tokens each, P parameters in matrices: a plain pass does 2PNT multiply-adds forward and for
the input gradients, and PNT for the parameter gradients. The hooks need the same products, only split by example, plus
one multiply-add for each of the N*P squares: 12 bytes each, in cache. So the floor is the plain pass (ratio 1.0), and
the traffic adds 1/(3T) of its arithmetic: at T = 64, 4 layers of width 256, about 0.6 TFLOP and 19 GB of cached traffic,
some 7 % of the time. Without a token axis (the MLP), (g^2)^T (a^2) is one product for all examples: ratio 1.0 again.
The loop instead writes and rereads P gradients an example, 16*P bytes, from memory: at P = 269,000 it cannot go below
4 MB an example, where the batched pass needs 0.8 MFLOP.

Rounds are interleaved in one process; numbers are medians of CPU seconds (time.process_time) over the same examples. The
loop runs on the first examples only, and its time is scaled. Errors are the largest of a tensor's entries over its largest
entry: in float32, where a ReLU whose input is zero up to rounding may open in a batch and not alone (some 1e-4 then), and
in float64, where it fails above 1e-6 (the result is stored in float32).
"""

from __future__ import annotations

import argparse
import copy
import itertools
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from previa.fit.batches import Examples
from previa.fit.labels import Given
from previa.fit.loop import one_by_one
from previa.fit.squared_gradients import squared_gradients

Batch = tuple[Tensor, Tensor]


class Layer(nn.Module):
    """An encoder layer of plain linear maps, normalised before each block."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        B, T, D = x.shape
        q, k, v = self.qkv(self.norm_1(x)).view(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        x = x + self.out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, T, D))
        return x + self.down(functional.gelu(self.up(self.norm_2(x))))


class Encoder(nn.Module):
    """4 layers, width 256, 4 heads, inner width 1024, with a small vocabulary and the mean over tokens."""

    def __init__(self, vocabulary: int = 1000, width: int = 256) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(64, width)
        self.layers = nn.Sequential(*(Layer(width, 4, 4 * width) for _ in range(4)))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.tokens(x) + self.positions(torch.arange(x.shape[1], device=x.device))
        return self.head(self.layers(x).mean(1))


class Block(nn.Module):
    """A residual block of ResNet-20; the shortcut is cut and padded, without parameters."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.stride = after // before
        self.conv_1 = nn.Conv2d(before, after, 3, self.stride, 1, bias=False)
        self.conv_2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.norm_1, self.norm_2 = nn.BatchNorm2d(after), nn.BatchNorm2d(after)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm_2(self.conv_2(functional.relu(self.norm_1(self.conv_1(x)))))
        extra = y.shape[1] - x.shape[1]
        x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, extra))
        return functional.relu(x + y)


def mlp() -> nn.Module:
    """784-256-256-10."""
    return nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))


def resnet20() -> nn.Module:
    """ResNet-20 for 32x32 images."""
    widths = [16, 16, 16, 16, 32, 32, 32, 64, 64, 64]
    blocks = [Block(a, b) for a, b in itertools.pairwise(widths)]
    stem = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """One cross-entropy an example."""
    return functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def disagreement(model: nn.Module, batches: list[Batch]) -> float:
    """The largest error of hooks against the loop, relative to each tensor's largest entry."""
    params = dict(model.named_parameters())
    dtype = next(iter(params.values())).dtype
    batches = [(x.to(dtype) if x.is_floating_point() else x, y) for x, y in batches]
    found = squared_gradients(model, batches, Given(loss))
    sums = {name: torch.zeros_like(parameter) for name, parameter in params.items()}
    for batch in batches:
        one_by_one(model, Examples(batch), Given(loss), sums)
    assert set(found.ways.values()) == {"hook"}, found.note
    return max(float((found.sum[name] - total).abs().max() / total.max()) for name, total in sums.items())


def measure(name: str, model: nn.Module, batches: list[Batch], loop_examples: int, rounds: int) -> float:
    """Print one line of ratios; return the largest relative error to the loop, in float64."""
    model.eval()
    labels = Given(loss)
    examples = sum(len(y) for _, y in batches)
    first = [(x[:loop_examples], y[:loop_examples]) for x, y in batches[:1]]
    scale = examples / len(first[0][1])
    params = list(model.parameters())
    sums = {n: torch.zeros_like(p) for n, p in model.named_parameters()}

    def plain() -> None:
        for batch in batches:
            torch.autograd.grad(loss(model, batch).mean(), params)

    def loop() -> None:
        for tensor in sums.values():
            tensor.zero_()
        one_by_one(model, Examples(first[0]), labels, sums)

    narrow, wide = disagreement(model, first), disagreement(copy.deepcopy(model).double(), first)
    times: dict[str, list[float]] = {"plain": [], "hooks": [], "loop": []}
    for _ in range(rounds):
        times["plain"].append(seconds(plain))
        times["hooks"].append(seconds(lambda: squared_gradients(model, batches, labels)))
        times["loop"].append(seconds(loop) * scale)
    to_plain = statistics.median(h / p for h, p in zip(times["hooks"], times["plain"], strict=True))
    to_loop = statistics.median(slow / h for h, slow in zip(times["hooks"], times["loop"], strict=True))
    plain_s, hooks_s, loop_s = (statistics.median(times[way]) for way in ("plain", "hooks", "loop"))
    print(
        f"{name:<10} {examples:>8} {plain_s:>9.3f} {hooks_s:>9.3f} {loop_s:>9.3f} {to_plain:>12.2f} {to_loop:>12.1f} {narrow:>10.1e} {wide:>10.1e}"
    )
    return wide


def main() -> None:
    """Measure the three models."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.manual_seed(0)
    y = torch.randint(10, (2048,))
    tokens, pixels, images = (
        torch.randint(1000, (512, 64)),
        torch.randn(2048, 784),
        torch.randn(256, 3, 32, 32),
    )
    print(
        "CPU seconds             N     plain     hooks      loop  hooks/plain   loop/hooks    float32    float64"
    )
    errors = [
        measure(
            "encoder", Encoder(), list(zip(tokens.split(32), y[:512].split(32), strict=True)), 32, rounds
        ),
        measure("MLP", mlp(), list(zip(pixels.split(256), y.split(256), strict=True)), 256, rounds),
        measure(
            "ResNet-20", resnet20(), list(zip(images.split(32), y[:256].split(32), strict=True)), 32, rounds
        ),
    ]
    assert max(errors) < 1e-6, "hooks and loop disagree"


if __name__ == "__main__":
    main()
