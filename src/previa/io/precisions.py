"""The posterior files of all tasks, opened and held against each other and against the checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from previa.core.params import Layout
from previa.errors import InputError
from previa.io.inputs import Inputs
from previa.io.pickled import Stored
from previa.io.posterior_file import PosteriorFile, open_posterior
from previa.io.provenance import check_conventions


def open_precisions(
    precisions: Mapping[str, str | Path], tasks: Mapping[str, Stored]
) -> dict[str, PosteriorFile]:
    """Every task's posterior file. Raises InputError where tasks, conventions or families differ."""
    if set(precisions) != set(tasks):
        odd = sorted(set(precisions) ^ set(tasks))
        raise InputError(
            f"precisions are given for {sorted(precisions)}, but the tasks are {sorted(tasks)}; {odd[0]!r} has no "
            "partner. Give one posterior file for each task."
        )
    opened = {task: open_posterior(precisions[task]) for task in tasks}
    check_conventions({task: each.provenance for task, each in opened.items()})
    first, one = next(iter(opened.items()))
    for task, each in opened.items():
        if each.provenance.family != one.provenance.family:
            raise InputError(
                f"task {task!r}: its posterior is {each.provenance.family}, but that of {first!r} is "
                f"{one.provenance.family}. Make all of one family."
            )
    return opened


def check_precisions(posteriors: Mapping[str, PosteriorFile], inputs: Inputs) -> None:
    """Raise ParamsError where names or shapes of precisions differ from each other or from the checkpoints, but for what is kept."""
    shapes = {
        task: [item for item in each.layout.shapes if item[0] not in inputs.kept]
        for task, each in posteriors.items()
    }
    for task, found in shapes.items():
        where, first = f"precision of task {task!r}", next(iter(shapes))
        _check_layout(Layout(tuple(found)), Layout(tuple(shapes[first])), where, f"those of task {first!r}")
        names = dict(found)
        same = [item for item in inputs.tasks[task].layout.shapes if item[0] in names]
        _check_layout(Layout(tuple(found)), Layout(tuple(same)), where, "those of its checkpoint")


def _check_layout(found: Layout, expected: Layout, where: str, other: str) -> None:
    """Raise ParamsError naming the tensor and both shapes; tensors without data stand for the files'."""
    expected.check({name: torch.empty(shape, device="meta") for name, shape in found.shapes}, where, other)
