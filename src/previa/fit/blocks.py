"""Pieces of tensors that go through several elementwise operations together, while they are in cache."""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

CACHED = 2**18
"""Entries of a block on a CPU: its six or so arrays (1 MB each in float32) stay in a last-level cache, while the
5 microseconds of overhead an operation are a tenth of its work. A constant, so that noise is the same on every machine."""

LAUNCHED = 2**26
"""Entries of a block elsewhere: few kernel launches, temporaries of at most 256 MB each in float32."""


def blocks(rows: Iterable[Sequence[Tensor]]) -> Iterator[list[list[Tensor]]]:
    """Columns of the table ``rows``, block by block: large contiguous rows are cut, small ones collected.

    The tensors of a row have one shape; all rows have the same number of columns and one device. Yields one list of
    tensors a column, all views of the tensors handed in: what torch._foreach operations take.
    """
    collected: list[Sequence[Tensor]] = []
    size = 0
    for row in rows:
        first = row[0]
        limit = CACHED if first.device.type == "cpu" else LAUNCHED
        if first.numel() > limit and all(tensor.is_contiguous() for tensor in row):
            for pieces in zip(*(torch.split(tensor.view(-1), limit) for tensor in row), strict=True):
                yield [[piece] for piece in pieces]
            continue
        collected.append(row)
        size += first.numel()
        if size >= limit:
            yield [list(column) for column in zip(*collected, strict=True)]
            collected, size = [], 0
    if collected:
        yield [list(column) for column in zip(*collected, strict=True)]
