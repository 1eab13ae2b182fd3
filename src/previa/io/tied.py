"""Tied tensors: a copy that some files hold under a second name, and others leave out."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch

from previa.io.pickled import Stored

PIECE = 2**20  # entries compared at a time


def tied(
    checkpoints: Mapping[str, Stored], kept: Collection[str], covered: Collection[str] | None
) -> dict[str, str]:
    """name -> the tensor that it is tied to: a matrix that is the same, bit for bit, wherever it is stored at all.

    checkpoints: of the tasks and the base. kept: names that are not merged. covered: names with a precision, where only some
    have one. A name is looked at when a checkpoint lacks it, or when it has no precision; what it is tied to every
    checkpoint holds, with a precision. So a head that one task's file holds beside the embeddings, and another's leaves out
    because ``tie_word_embeddings`` is set, is merged as the embeddings are.
    """
    names = dict.fromkeys(
        name for checkpoint in checkpoints.values() for name in checkpoint if name not in kept
    )
    whole = [name for name in names if all(name in checkpoint for checkpoint in checkpoints.values())]
    targets = [name for name in whole if covered is None or name in covered]
    odd = [name for name in names if name not in whole or (covered is not None and name not in covered)]
    found = {}
    for name in odd:
        holders = [checkpoint for checkpoint in checkpoints.values() if name in checkpoint]
        for target in targets:
            if all(_same(holder, name, target) for holder in holders):
                found[name] = target
                break
    return found


def _same(checkpoint: Stored, name: str, target: str) -> bool:
    """Whether two matrices of a checkpoint are equal, and not one number throughout, which says nothing."""
    shape, dtype = checkpoint.shape_of(name), checkpoint.dtype_of(name)
    if len(shape) < 2 or shape != checkpoint.shape_of(target) or dtype != checkpoint.dtype_of(target):
        return False
    constant = True
    size = torch.Size(shape).numel()
    for start in range(0, size, PIECE):
        one, other = (checkpoint.slice_of(each, start, start + PIECE) for each in (name, target))
        if not torch.equal(one, other):
            return False
        constant = constant and bool((one == one[0]).all())
    return not constant
