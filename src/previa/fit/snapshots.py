"""A diagonal posterior from checkpoints alone: mean and variance over snapshots, as SWAG takes them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from previa.core.diagonal import Diagonal
from previa.core.params import Flat, Layout, Params, by_name
from previa.errors import InputError, NotFiniteError, ParamsError, PrecisionError


def snapshot_posterior(
    snapshots: Sequence[Params], *, mean: Params | None = None, floor: float = 1.0
) -> Diagonal:
    """N(m, 1/h) with h = 1/max(s^2, floor * mean of s^2 over the tensor), s^2 the variance over K snapshots (SWAG's diagonal).

    snapshots: along one run, or the ends of several runs from one base; read a tensor at a time and only once, so that
    open_checkpoint's may be of any size. s^2 is sum_k (theta_k - average)^2 / (K - 1), [P] in float64.
    mean: m, for example the last snapshot; their average (SWA) where there is none.
    floor: relative to each tensor's own scale, the mean of its s^2, since K snapshots know a variance badly and small ones
    worst: 1 keeps every precision at or below that of the tensor's mean variance, 0.01 lets it be a hundred times that.

    A parameter that is the same in all snapshots was not trained, or had no gradient: it says nothing, and its variance is not
    small but unknown. It gets the smallest precision of its tensor, and a tensor that never moved the smallest of all.
    Take snapshots in float32: in bfloat16 what moves less than the grid's step of 0.4 % does not move at all.

    The precision's scale is that of the training's noise (learning rate, batch size), the same for tasks with one recipe.
    Raises InputError for fewer than two snapshots, no list of them or a floor that is not positive, ParamsError naming snapshot
    and tensor where names or shapes differ, NotFiniteError, PrecisionError where all snapshots are the same, or so near or far
    from each other that the precision is beyond the numbers of its dtype (float64's are kept, all others' are float32).
    """
    if not isinstance(snapshots, Sequence):
        raise InputError(
            f"snapshot_posterior(): expected a list of snapshots; found a {type(snapshots).__name__}. Each is read once for every "
            "tensor: hand in list(...)."
        )
    if len(snapshots) < 2:
        raise InputError(f"snapshot_posterior(): {len(snapshots)} snapshots; a variance needs two at least.")
    if not isinstance(floor, int | float) or not floor > 0:
        raise InputError(f"snapshot_posterior(): floor is {floor!r}; expected a number above zero.")
    for k, snapshot in enumerate(snapshots):
        by_name(snapshot, f"snapshot {k}")
    names = dict.fromkeys(snapshots[0])
    for k, snapshot in enumerate(snapshots):
        _check_names(names, snapshot, k)
    averages: dict[str, Tensor] = {}
    precisions: dict[str, Tensor | None] = {}
    for name in names:
        averages[name], s2 = _moments(snapshots, name)
        precisions[name] = _precision(s2, floor, averages[name].dtype, name) if bool((s2 > 0).any()) else None
    least = min((float(p.min()) for p in precisions.values() if p is not None), default=None)
    if least is None:
        raise PrecisionError(
            f"snapshot_posterior(): all {len(snapshots)} snapshots are the same in every tensor. Give different ones: "
            "checkpoints of several steps, or of several seeds."
        )
    h = {n: torch.full_like(averages[n], least) if p is None else p for n, p in precisions.items()}
    layout = Layout.of(averages)
    m = Flat.of(averages, layout) if mean is None else Flat.of(mean, layout, "mean")
    return Diagonal(m, Flat.of(h, layout, "precision of the snapshots"))


def _precision(s2: Tensor, floor: float, dtype: torch.dtype, name: str) -> Tensor:
    """1/max(s^2, floor * mean s^2); where s^2 is zero the smallest of these."""
    bounded = s2.clamp(min=floor * float(s2.mean()))
    h = torch.where(s2 > 0, bounded, bounded.max()).reciprocal().to(dtype)
    if not bool(((h > 0) & torch.isfinite(h)).all()):
        raise PrecisionError(
            f"snapshot_posterior(), tensor {name!r}: its variances over the snapshots are {float(bounded.min()):.3g} to "
            f"{float(bounded.max()):.3g}, and one over them is beyond the numbers of {dtype}. Hand in float64 snapshots or "
            "another floor, or check that they are of one training."
        )
    return h


def _moments(snapshots: Sequence[Params], name: str) -> tuple[Tensor, Tensor]:
    """(average, variance in float64) of one tensor, by Welford's sums: each snapshot's is read once, one at a time."""
    first = _read(snapshots[0], name, 0)
    average, total = first.double().clone(), torch.zeros_like(first, dtype=torch.float64)
    for k, snapshot in enumerate(snapshots[1:], start=1):
        tensor = _read(snapshot, name, k)
        if tensor.shape != average.shape:
            raise ParamsError(
                f"snapshot {k}: tensor {name!r} has shape {tuple(tensor.shape)}, but snapshot 0 has "
                f"{tuple(average.shape)}. All snapshots must be of one model."
            )
        step = tensor.double() - average
        average += step / (k + 1)
        total += step * (tensor.double() - average)
    kind = torch.float64 if first.dtype == torch.float64 else torch.float32
    return average.to(kind), total / (len(snapshots) - 1)


def _read(snapshot: Params, name: str, k: int) -> Tensor:
    tensor = snapshot[name].detach()
    if not tensor.is_floating_point():
        raise ParamsError(
            f"snapshot {k}: tensor {name!r} is {tensor.dtype}, but only floating-point tensors have a variance. Hand in the "
            "parameters (model.named_parameters()), not integer buffers."
        )
    if not bool(torch.isfinite(tensor).all()):
        raise NotFiniteError(
            f"snapshot {k}: tensor {name!r} holds NaN or infinity. Its training diverged, or the file is damaged."
        )
    return tensor


def _check_names(names: Collection[str], snapshot: Params, k: int) -> None:
    missing = [name for name in names if name not in snapshot]
    extra = [name for name in snapshot if name not in names]
    if missing or extra:
        fault = f"lacks tensor {missing[0]!r}" if missing else f"has tensor {extra[0]!r}"
        raise ParamsError(f"snapshot {k} {fault}, unlike snapshot 0. All snapshots must be of one model.")
