"""Merge checkpoints into one file, a piece of a tensor at a time, so that models larger than memory can be merged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from previa.core.merge import as_alphas
from previa.errors import AlphaError
from previa.io.merging import Sources, prepare, write_merged
from previa.io.shards import Shard
from previa.io.weightings import Anchor


def merge_checkpoints(
    base: str | Path | None,
    tasks: Mapping[str, str | Path],
    alpha: Sequence[float],
    out: str | Path,
    *,
    precisions: Mapping[str, str | Path] | None = None,
    prior_precision: float | None = None,
    dtype: torch.dtype | None = None,
    allow_pickle: bool = False,
    p: float = 1.0,
    anchors: Sequence[Anchor] = (),
) -> None:
    """Write the preview model at ``alpha``: the mode of p0^gamma * prod_t q_t^alpha_t, gamma = 1 - sum(alpha) (eq. 5).

    base: checkpoint of the pretrained model, mean of the prior, or None for a flat prior, where alpha must sum to one.
    tasks: name -> checkpoint (see open_checkpoint). alpha: [T], in the order of tasks. out: one safetensors file; for a folder
    that transformers loads, and for several weightings at once, see previa.io.merge_folders.
    precisions: name -> posterior file of every task, for Hessian-weighted merging (eq. 10); None is simple averaging (eq. 2)
    or, with a base, task arithmetic (eq. 3).
    prior_precision: of N(base, I/prior_precision): 1 without precisions; needed with them where alpha does not sum to one.
    dtype: of floating-point tensors in ``out``; by default the base's, else the first task's. Sums are in float64, so that
    every entry of ``out`` is the exact one rounded once.
    Integers, booleans, and (with precisions) tensors without a precision must be equal in all tasks.
    allow_pickle: read files of torch.save too, with weights_only=True.
    p: the tasks' weights are w ~ alpha^p, normalised to the sum of alpha (``warp``); below 1 they saturate, as the truth does.
    anchors: joint runs, Anchor(alpha, path); what the merge m(w_r) misses at theirs is added: m(w) + sum_r b_r(w) (theta_r - m(w_r))
    (``anchored``). alpha must sum to one then. At an anchor's weighting ``out`` has its entries bit for bit.
    Raises FileError, AlphaError, ParamsError, NotFiniteError, PrecisionError, InputError; ``out`` appears only when whole.
    """
    if tasks and as_alphas(alpha, len(tasks)).dim() != 1:
        raise AlphaError(
            f"merge: alpha has shape {tuple(torch.as_tensor(alpha).shape)}; expected one weight for each of {list(tasks)}."
        )
    sources = Sources(base, tasks, precisions, prior_precision, (), allow_pickle, p, anchors)
    merging = prepare(sources, [alpha], dtype)
    write_merged(merging, [Shard(Path(out).name, merging.specs)], [[Path(out)]])
