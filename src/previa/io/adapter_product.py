"""Updates of LoRA folders summed exactly, at all weightings at once: the factors of every module beside each other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from previa.core.low_rank import LowRank, low_rank_sum, truncated_sums
from previa.core.merge import ROUNDING
from previa.errors import ParamsError
from previa.io._safetensors import Specs, aligned, as_bytes, header_bytes, written_beside
from previa.io.adapter_folder import FACTORS, Adapter, weights_file
from previa.io.merging import Merging, Sources, prepare
from previa.io.pieces import common, pieces, rounded
from previa.io.weightings import ROUNDING as TEXT
from previa.io.weightings import Anchor, Row

Weights = tuple[Row, ...]  # [A, T]


@final
@dataclass(frozen=True)
class Products:
    """The update of each module: sum_t alpha_t s_t B_t A_t + gamma s_0 B_0 A_0, by its factors, with a scaling of one.

    That is the mode for q_t = N(s_t B_t A_t, I) and, as prior, N(s_0 B_0 A_0, I) at the base adapter, or N(0, I) at the base
    model where there is none (eq. 2, 3, in the space of weights). Ranks add up, or are cut to ``rank``. A module that a
    task does not adapt has a zero update there. dense: what the folders store whole, merged as checkpoints are, or None.
    """

    tasks: Mapping[str, Adapter]
    alphas: Weights
    base: Adapter | None = None
    rank: int | None = None
    dtype: torch.dtype | None = None
    dense: Merging | None = None
    lost: dict[tuple[int, str], tuple[float, float]] = field(default_factory=dict)
    """(row, module) -> squared Frobenius norms of what was cut and of the whole: known when the module has been read"""

    @cached_property
    def modules(self) -> dict[str, list[tuple[Adapter, Row]]]:
        """module -> adapters with an update of it, and their weights [A]."""
        members = list(zip(self.tasks.values(), zip(*self.alphas, strict=True), strict=True))
        found = {
            name: [(adapter, weights) for adapter, weights in members if name in adapter.pairs]
            for name in dict.fromkeys(name for adapter, _ in members for name in adapter.pairs)
        }
        base, gammas = self.base, tuple(1 - math.fsum(row) for row in self.alphas)
        gammas = tuple(gamma if abs(gamma) > ROUNDING else 0.0 for gamma in gammas)
        if base is not None and any(gammas):
            for name in (name for name in base.pairs if not base.is_zero(name)):
                found.setdefault(name, []).append((base, gammas))
        return found

    def ranks(self, row: int) -> dict[str, int]:
        """module -> rank of its factors at this row; modules whose weights are all zero are absent."""
        found = {}
        for module, members in self.modules.items():
            total = sum(adapter.rank(module) for adapter, weights in members if weights[row] != 0)
            if total:
                A, B = members[0][0].shapes(module)
                cut = self.rank is not None and total > self.rank
                found[module] = min(self.rank or total, B[0], math.prod(A[1:])) if cut else total
        return found

    def specs(self, row: int) -> Specs:
        """dtype and shape of each tensor of the merged adapter at ``row``."""
        specs: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
        for module, rank in self.ranks(row).items():
            adapter = self.modules[module][0][0]
            pair, (A, B) = adapter.pairs[module], adapter.shapes(module)
            shapes = {pair.A: (rank, *A[1:]), pair.B: (B[0], rank, *B[2:])}
            for name in pair.names:
                specs[name] = (self.dtype or adapter.tensors.dtype_of(name), shapes.get(name, B[:1]))
        return specs | dict(self.dense.specs if self.dense else {})

    def values(self, name: str) -> Iterator[tuple[int, Tensor]]:
        """(row, consecutive entries) of one tensor, of every row that has it, in float64 and valid until the next."""
        module = self._owner.get(name)
        if module is None:
            yield from self._whole(name)
            return
        adapter = self.modules[module][0][0]
        rows, weights = zip(*self._weights(module), strict=True)
        if name == adapter.pairs[module].bias:
            biases = [a.scaling(module) * a.tensors[name].double() for a, _ in self.modules[module]]
            yield from zip(
                rows, torch.tensor(weights, dtype=torch.float64) @ torch.stack(biases), strict=True
            )
            return
        for row, kept in zip(rows, self._sums(module), strict=True):
            yield row, kept.A if name == adapter.pairs[module].A else kept.B

    @cached_property
    def _owner(self) -> dict[str, str]:
        """name of a factor, or of its bias -> module."""
        return {n: module for module, ms in self.modules.items() for n in ms[0][0].pairs[module].names}

    def _weights(self, module: str) -> list[tuple[int, Row]]:
        """(row, weights of the module's adapters), of the rows where any of them has weight."""
        columns = [weights for _, weights in self.modules[module]]
        return [(row, w) for row, w in enumerate(zip(*columns, strict=True)) if any(w)]

    @cached_property
    def _sums(self) -> Callable[[str], list[LowRank]]:
        """module -> its sums, one a row of _weights; A and B of a module are asked for one after the other."""
        return lru_cache(maxsize=1)(self._summed)

    def _summed(self, module: str) -> list[LowRank]:
        products = [adapter.product(module) for adapter, _ in self.modules[module]]
        rows, weights = zip(*self._weights(module), strict=True)
        if self.rank is None:
            return [low_rank_sum(w, products) for w in weights]
        found = truncated_sums(weights, products, self.rank)
        for row, each in zip(rows, found, strict=True):
            self.lost[row, module] = (each.lost, each.whole)
        return [each.kept for each in found]

    def _whole(self, name: str) -> Iterator[tuple[int, Tensor]]:
        assert self.dense is not None
        for piece in pieces(math.prod(self.dense.specs[name][1]), len(self.alphas)):
            if name in self.dense.parameters:
                for row, value in enumerate(self.dense.members.modes(name, piece)):
                    if not bool(torch.isfinite(value).all()):
                        self.dense.members.blame(name, piece)
                    yield row, value
            else:
                value = common(self.dense.inputs, name, piece)
                yield from ((row, value) for row in range(len(self.alphas)))


def whole_tensors(
    tasks: Mapping[str, Adapter],
    base: Adapter | None,
    alphas: Weights,
    dtype: torch.dtype | None,
    *,
    p: float = 1.0,
    anchors: Sequence[Anchor] = (),
) -> Merging | None:
    """What LoRA folders store whole (heads, biases, embeddings), averaged; None where there is nothing.

    Weights that have no average, negative ones or without a base such as do not sum to 1, leave what is equal in all
    tasks as it is. anchors: by their weights' files. Raises ParamsError where it is not, and as merge_checkpoints.
    """
    first = next(iter(tasks.values()))
    if not first.dense:
        return None
    known = base is not None or all(abs(1 - math.fsum(row)) <= TEXT for row in alphas)
    negative = any(alpha < 0 for row in alphas for alpha in row)
    if negative or not known:
        why = (
            "negative weights have no average"
            if negative
            else (
                "weights that do not sum to 1 have no average without a base, the adapter that training started from"
            )
        )
        _check_equal(tasks, why)
        alphas, base = tuple((1.0, *(0.0 for _ in row[1:])) for row in alphas), None
    keep = [f"*{end}" for end in FACTORS if any(name.endswith(end) for name in first.tensors)]
    paths = {task: weights_file(adapter) for task, adapter in tasks.items()}
    sources = Sources(base and weights_file(base), paths, keep=keep, p=p, anchors=anchors)
    return prepare(sources, alphas, dtype)


def _check_equal(tasks: Mapping[str, Adapter], why: str) -> None:
    """Raise ParamsError unless all tensors that are stored whole are equal in all tasks."""
    first, *others = tasks
    for name in tasks[first].dense:
        for piece in pieces(math.prod(tasks[first].tensors.shape_of(name)), 1):
            value = tasks[first].tensors.slice_of(name, piece.start, piece.stop)
            for task in others:
                if not torch.equal(tasks[task].tensors.slice_of(name, piece.start, piece.stop), value):
                    raise ParamsError(
                        f"task {task!r}: tensor {name!r} is stored whole and differs from that of task {first!r}, and {why}."
                    )


def write_products(products: Products, files: Sequence[Path], metadata: Sequence[Mapping[str, str]]) -> None:
    """Write every row's weights, all files growing together in one pass over the tasks' tensors.

    Values are rounded once. Raises FileError, NotFiniteError where a value does not fit; files appear only when whole.
    """
    specs = [products.specs(row) for row in range(len(files))]
    every = {name: spec for one in reversed(specs) for name, spec in one.items()}
    order = aligned(every)
    with ExitStack() as stack:
        opened = [stack.enter_context(written_beside(file)) for file in files]
        for file, one, strings in zip(opened, specs, metadata, strict=True):
            file.write(
                header_bytes(one, [name for name in order if name in one], {"format": "pt", **strings})
            )
        for name in order:
            for row, value in products.values(name):
                opened[row].write(as_bytes(rounded(value, specs[row][name][0], name)))
