"""The merged tensors of LoRA folders, at all weightings at once and a piece at a time: factors averaged, or products summed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Protocol, final

import torch
from torch import Tensor

from previa.core.diagonal import Diagonal
from previa.core.isotropic import Isotropic
from previa.core.low_rank import Truncation, low_rank_sum, truncated_sums
from previa.core.modes import modes
from previa.errors import NotFiniteError, ParamsError, PrecisionError
from previa.io.adapter_folder import Adapter
from previa.io.posterior_file import MEAN, PRECISION, PosteriorFile

PIECE = 2**18  # entries of each task merged at a time: 2 MB in float64, which stay in the processor's cache

Weights = Sequence[Sequence[float]]  # [A, T]


class Rows(Protocol):
    """A merged adapters: which tensors each has, and their values piece by piece."""

    def specs(self, row: int) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """name -> dtype and shape of the merged adapter at weighting ``row``."""
        ...

    def pieces(self, name: str) -> Iterator[list[Tensor]]:
        """Consecutive entries of one tensor, each time a vector for every row that has this name, not yet rounded."""
        ...


@final
@dataclass(frozen=True)
class Averages:
    """Each tensor at the mode of p0^gamma * prod_t q_t^alpha_t: A and B (and what else is stored) averaged on their own.

    posteriors: open posterior files, for Hessian-weighted averages (eq. 10); else q_t = N(theta_t, I) (eq. 2, 3).
    gammas: [A], the weight of the prior N(base, I / prior_precision); zeros without a base.
    """

    tasks: Mapping[str, Adapter]
    alphas: Weights
    gammas: Sequence[float]
    base: Adapter | None = None
    posteriors: Mapping[str, PosteriorFile] = field(default_factory=dict)
    prior_precision: float = 1.0
    dtype: torch.dtype | None = None

    @property
    def model(self) -> Adapter:
        """The base, or the first task: whose dtypes are kept."""
        return self.base or next(iter(self.tasks.values()))

    def specs(self, row: int) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """The same at every row: those of the first task."""
        return {name: self.spec(name) for name in next(iter(self.tasks.values())).tensors}

    def spec(self, name: str) -> tuple[torch.dtype, tuple[int, ...]]:
        """dtype and shape of one tensor."""
        found = self.model.tensors.dtype_of(name)
        wanted = self.dtype if self.dtype is not None and found.is_floating_point else found
        return wanted, self.model.tensors.shape_of(name)

    def pieces(self, name: str) -> Iterator[list[Tensor]]:
        """Modes of the Gaussians of PIECE entries; see Rows. Raises ParamsError where a tensor cannot be averaged."""
        size, why = math.prod(self.model.tensors.shape_of(name)), self._not_averaged(name)
        for start in range(0, size, PIECE):
            piece = slice(start, min(start + PIECE, size))
            if why:
                yield [self._common(name, piece, why)] * len(self.alphas)
                continue
            qs = [self._posterior(task, name, piece) for task in self.tasks]
            prior = self._prior(name, piece, type(qs[0])) if any(self.gammas) else None
            with naming(f"tensor {name!r}"):
                yield list(modes(self.alphas, qs, prior).params.vector)

    def _not_averaged(self, name: str) -> str:
        """Why this tensor must be equal in all tasks, or nothing."""
        found = self.model.tensors.dtype_of(name)
        if not found.is_floating_point:
            return f"is {found} and has no average"
        if self.posteriors and name not in next(iter(self.posteriors.values())).layout.places:
            return "has no precision and so cannot be averaged"
        if any(alpha < 0 for row in self.alphas for alpha in row):
            return "is stored whole, and negative weights have no average"
        if self.base is None and any(self.gammas):
            return "is stored whole, and has no average at weights that do not sum to 1 without a base"
        return ""

    def _posterior(self, task: str, name: str, piece: slice) -> Isotropic | Diagonal:
        with naming(f"task {task!r}"):
            theta = self.tasks[task].tensors.slice_of(name, piece.start, piece.stop)
            if not self.posteriors:
                return Isotropic({name: theta.double()})
            opened = self.posteriors[task]
            if opened.has_mean:
                mean = opened.file.slice_of(MEAN + name, piece.start, piece.stop)
                if not torch.equal(mean.to(theta.dtype), theta):
                    raise ParamsError(
                        f"tensor {name!r} is not the mean that {opened.file.path} holds. Was that posterior made from another "
                        "adapter?"
                    )
                theta = mean  # float32 where the adapter may be rounded
            if opened.precision is not None:
                return Isotropic({name: theta.double()}, opened.precision)
            h = opened.file.slice_of(PRECISION + name, piece.start, piece.stop)
            return Diagonal({name: theta.double()}, {name: h.double()})

    def _prior(self, name: str, piece: slice, family: type[Isotropic | Diagonal]) -> Isotropic | Diagonal:
        assert self.base is not None
        with naming("the base adapter"):
            theta = self.base.tensors.slice_of(name, piece.start, piece.stop)
            return family({name: theta.double()}, self.prior_precision)

    def _common(self, name: str, piece: slice, why: str) -> Tensor:
        first, *others = self.tasks
        value = self.tasks[first].tensors.slice_of(name, piece.start, piece.stop)
        for task in others:
            if not torch.equal(self.tasks[task].tensors.slice_of(name, piece.start, piece.stop), value):
                raise ParamsError(
                    f"task {task!r}: tensor {name!r} {why}, but it differs from that of task {first!r}. Store one of them with "
                    "all tasks, or give what is missing."
                )
        return value


@final
@dataclass(frozen=True)
class Products:
    """The update of each module: sum_t alpha_t s_t B_t A_t + gamma s_0 B_0 A_0, by its factors, with a scaling of one.

    That is the mode for q_t = N(s_t B_t A_t, I) and, as prior, N(s_0 B_0 A_0, I) at the base adapter, or N(0, I) at the base
    model where there is none (eq. 2, 3, in the space of weights). Ranks add up, or are cut to ``rank``. A module that a
    task does not adapt has a zero update there. What is stored whole is averaged: ``dense``.
    """

    dense: Averages
    rank: int | None = None
    lost: dict[tuple[int, str], tuple[float, float]] = field(default_factory=dict)
    """(row, module) -> squared Frobenius norms of what was cut and of the whole: known when the module has been read"""

    @cached_property
    def modules(self) -> dict[str, list[tuple[Adapter, tuple[float, ...]]]]:
        """module -> adapters with an update of it, and their weights [A]."""
        columns = list(zip(*self.dense.alphas, strict=True))
        members = list(zip(self.dense.tasks.values(), columns, strict=True))
        found = {
            name: [(a, column) for a, column in members if name in a.pairs]
            for name in dict.fromkeys(name for a, _ in members for name in a.pairs)
        }
        base, gammas = self.dense.base, tuple(self.dense.gammas)
        for name in found if base is not None and any(gammas) else ():
            if base is not None and name in base.pairs and not _zero(base, name):
                found[name].append((base, gammas))
        return found

    @cached_property
    def _owner(self) -> dict[str, str]:
        """name of a factor or of its bias -> module."""
        return {
            name: module for module, members in self.modules.items() for name in _names(members[0][0], module)
        }

    def ranks(self, row: int) -> dict[str, int]:
        """module -> rank of its factors at this row; modules whose weights are all zero are absent."""
        found = {}
        for module, members in self.modules.items():
            total = sum(a.rank(module) for a, weights in members if weights[row] != 0)
            if total:
                sides = [math.prod(shape) for shape in _outer(members[0][0], module)]
                found[module] = total if self.rank is None or total <= self.rank else min(self.rank, *sides)
        return found

    def specs(self, row: int) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Factors of the row's ranks, biases of B, and what is stored whole."""
        specs = {}
        for module, rank in self.ranks(row).items():
            adapter = self.modules[module][0][0]
            pair, wanted = adapter.pairs[module], self.dense.dtype
            for name in _names(adapter, module):
                shape = adapter.tensors.shape_of(name)
                shape = (
                    (rank, *shape[1:])
                    if name == pair.A
                    else (shape[0], rank, *shape[2:])
                    if name == pair.B
                    else shape
                )
                specs[name] = (wanted or adapter.tensors.dtype_of(name), shape)
        return specs | {name: self.dense.spec(name) for name in next(iter(self.dense.tasks.values())).dense}

    def pieces(self, name: str) -> Iterator[list[Tensor]]:
        """The whole factor, or bias, of each row that has it; see Rows."""
        if name not in self._owner:
            yield from self.dense.pieces(name)
            return
        module = self._owner[name]
        members = self.modules[module]
        pair = members[0][0].pairs[module]
        if name == pair.bias:
            biases = torch.stack([a.scaling(module) * a.tensors[name].double() for a, _ in members])
            yield [torch.tensor(weights).to(biases) @ biases for _, weights in self._weights(module)]
            return
        kept = [truncation.kept for truncation in self._sums(module)]
        yield [(factors.A if name == pair.A else factors.B).flatten() for factors in kept]

    def _weights(self, module: str) -> list[tuple[int, list[float]]]:
        """(row, weights of the module's adapters), of the rows where any of them has weight."""
        columns = [weights for _, weights in self.modules[module]]
        return [(row, list(w)) for row, w in enumerate(zip(*columns, strict=True)) if any(w)]

    @cached_property
    def _sums(self) -> Callable[[str], list[Truncation]]:
        """module -> its summed products, one a row of _weights; A and B of a module are asked for one after the other."""
        return lru_cache(maxsize=1)(self._summed)

    def _summed(self, module: str) -> list[Truncation]:
        products = [adapter.product(module) for adapter, _ in self.modules[module]]
        rows, weights = zip(*self._weights(module), strict=True)
        if self.rank is None:
            return [Truncation(low_rank_sum(w, products), 0.0, math.nan) for w in weights]
        found = truncated_sums(weights, products, self.rank)
        for row, each in zip(rows, found, strict=True):
            self.lost[row, module] = (each.lost, each.whole)
        return found


@contextmanager
def naming(where: str) -> Iterator[None]:
    """Begin the errors of the block with ``where``."""
    try:
        yield
    except (NotFiniteError, ParamsError, PrecisionError) as error:
        raise type(error)(f"{where}: {error}") from error


def _names(adapter: Adapter, module: str) -> list[str]:
    pair = adapter.pairs[module]
    return [pair.A, pair.B, *([pair.bias] if pair.bias else [])]


def _outer(adapter: Adapter, module: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The sides of a module's update: B's rows, and A's columns."""
    pair = adapter.pairs[module]
    return adapter.tensors.shape_of(pair.B)[:1], adapter.tensors.shape_of(pair.A)[1:]


def _zero(adapter: Adapter, module: str) -> bool:
    """Whether the update is zero: so it is where training begins."""
    pair = adapter.pairs[module]
    return not (bool(adapter.tensors[pair.A].any()) and bool(adapter.tensors[pair.B].any()))
