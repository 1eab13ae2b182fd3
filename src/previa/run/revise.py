"""Tasks were added, dropped, changed or put in another order: a new store, with all of the old one that still holds exactly."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from previa.errors import FileError, StoreError
from previa.run.bench import Bench
from previa.run.changes import Changes, changes_of
from previa.run.fit import jobs_of
from previa.run.kept import Kept, anchors_kept, rows_kept
from previa.run.records import make_folder, write_record
from previa.run.there import base_there
from previa.run.work import opened
from previa.study.file import Study
from previa.study.simplex import show
from previa.study.store import Store
from previa.study.truth import GIVEN, JOINT

STORE = "study.db"
LOG = ("", "-wal", "-shm")  # SQLite's files beside a store


@dataclass(frozen=True)
class Revision:
    """What `revise` keeps and what is left to do. lost: method -> rows that are not kept; runs: (there, wanted) own runs.

    seconds: what is to be done -> about how long it takes (None: nothing is known of it).
    """

    changes: Changes
    rows: tuple[Kept, ...]
    lost: Mapping[str, int]
    runs: tuple[int, int]
    anchors: tuple[tuple[Path, tuple[float, ...]], ...]
    anchors_lost: int
    seconds: Mapping[str, float | None]
    moved: Path | None = None
    """where the old store is now"""


def revise(study: Study, *, dry_run: bool = False) -> Revision:
    """Put the study's old store aside, as study-before-<n>.db, and make a new one with what still holds; nothing is deleted.

    Kept are: the tasks' own runs, whose records name only their own task; true scores ("joint", and "joint_given") at weightings
    without weight on tasks that were dropped or whose training changed, where no task was added and no test data changed, since
    every row needs a score of every task; anchors trained here at weightings without weight on those tasks, which are scored
    again. A joint run takes no example of a task without weight, and its draws depend on the seed and the tasks' names: the
    scores are the very same. Where the order of two weighted tasks changed, the run would take the same examples in each step,
    in another order within a batch (sampling = "loss"), which only rounding and dropout tell; with "sample" it would take
    others, and the row is not kept. Previews are merged and scored again.
    dry_run: only say so. Raises StoreError where there is no store, or it is in use; StudyError where more than tasks changed,
    or nothing did.
    """
    path = study.out / STORE
    if not path.is_file():
        raise StoreError(f"{path}: there is no store to revise. `previa fit` or `previa preview` starts one.")
    make_folder(study.out)
    with tempfile.TemporaryDirectory(prefix=".revise-", dir=study.out) as folder:
        with opened(replace(study, out=Path(folder))) as work, Store.read(path) as old:
            work = replace(work, ingredients=replace(work.ingredients, study=study))
            bench = base_there(work.ingredients)
            found = _plan(work.store, old, bench, study)
            if not dry_run:
                _carry(work.store, old, found)
        if dry_run:
            return found
        number = _number(study.out)
        aside = path.with_name(f"study-before-{number}.db")
        _close(path)
        path.rename(aside)
        try:
            (Path(folder) / STORE).rename(path)
        except OSError as error:
            aside.rename(path)
            raise FileError(f"{path}: cannot be written: {error.strerror}. All is as it was.") from error
    _carry_anchors(found, bench, study, number)
    return replace(found, moved=aside)


def _plan(new: Store, old: Store, bench: Bench | None, study: Study) -> Revision:
    changes = changes_of(old, new, study)
    rows: list[Kept] = []
    lost: dict[str, int] = {}
    for method in (JOINT, GIVEN):
        if method in old.methods():
            kept, gone = rows_kept(method, old, new, bench, study, changes)
            rows += kept
            lost |= {method: gone} if gone else {}
    anchors, anchors_lost = anchors_kept(old.tasks, bench, study)
    jobs = [] if bench is None else jobs_of(bench)
    there = 0 if bench is None else sum(bench.done(job) for job in jobs)
    left = len(jobs) - there
    return Revision(
        changes, tuple(rows), lost, (there, len(jobs)), tuple(anchors), anchors_lost,
        _seconds(old, new, study, left, rows, lost),
    )  # fmt: skip


def _carry(new: Store, old: Store, found: Revision) -> None:
    """Write the rows into the new store, resting on what they rested on."""
    if any(row.method == JOINT for row in found.rows):
        new.declare(JOINT, old.facts(JOINT) or {})
    for row in found.rows:
        new.record(row.method, row.alpha, row.scores, seconds=row.seconds)


def _carry_anchors(found: Revision, bench: Bench | None, study: Study, number: int) -> None:
    """The anchors that hold, under their new weightings; all as they were are put aside."""
    folder = study.out / "anchors"
    if bench is None or not folder.is_dir():
        return
    aside = study.out / f"anchors-before-{number}"
    folder.rename(aside)
    for record, alpha in found.anchors:
        make_folder(folder)
        before = aside / record.name
        name = "-".join(f"{weight:.6g}" for weight in alpha)
        kept = json.loads(before.read_text(encoding="utf-8"))
        _link(before.with_suffix(".safetensors"), folder / f"{name}.safetensors")
        more = {key: value for key, value in kept.items() if key != "facts"}
        write_record(folder / f"{name}.json", bench.joint_facts(alpha), **more)


def _link(at: Path, to: Path) -> None:
    try:
        os.link(at, to)
    except OSError:
        shutil.copy2(at, to)


def _number(folder: Path) -> int:
    taken = [
        path.stem.rpartition("-")[2]
        for path in (*folder.glob("study-before-*.db"), *folder.glob("anchors-before-*"))
    ]
    return 1 + max((int(text) for text in taken if text.isdecimal()), default=0)


def _close(path: Path) -> None:
    """Let SQLite take its log into the file. Raises StoreError where another process has the store open."""
    import sqlite3

    with suppress(sqlite3.Error):
        db = sqlite3.connect(path)
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        db.close()
    for end in LOG[1:]:
        beside = path.with_name(path.name + end)
        if beside.exists() and beside.stat().st_size and end == "-wal":
            raise StoreError(f"{path}: another process has this store open. Wait for it, or end it.")
        try:
            beside.unlink(missing_ok=True)
        except OSError as error:
            raise FileError(f"{beside}: cannot be removed: {error.strerror}.") from error


def _seconds(
    old: Store, new: Store, study: Study, left: int, rows: Sequence[Kept], lost: Mapping[str, int]
) -> dict[str, float | None]:
    """What is to be done -> about how long it takes in one process, by what the same took before."""
    spent = old.seconds()
    T, tasks = len(new.tasks), max(1, len(old.tasks))
    found: dict[str, float | None] = {}
    if left:
        own = [
            spent[name] / tasks
            for name in ("finetune/ivon", "finetune/adamw", "squared_gradients")
            if spent.get(name)
        ]
        found[f"{left} own runs"] = left * float(np.mean(own)) if own else None
    weightings = math.comb(study.preview.steps + T - 1, T - 1)
    methods = [name for name in study.previews() if name in old.methods()]
    each = [float(np.mean(old.preview(name).stats["seconds"])) for name in methods]
    found[f"{weightings} weightings by {len(study.previews())} previews"] = (
        weightings * float(np.mean(each)) * len(study.previews()) if each else None
    )
    if study.truth.steps:
        kept = sum(row.method == JOINT for row in rows)
        wanted = math.comb(study.truth.steps + T - 1, T - 1)
        timed = [float(s) for s in old.preview(JOINT).stats["seconds"]] if JOINT in old.methods() else []
        if left_to_train := max(0, wanted - kept):
            found[f"up to {left_to_train} of {wanted} joint runs of [truth]"] = (
                left_to_train * float(np.mean(timed)) if timed else None
            )
    return found


def said(found: Revision, study: Study) -> list[str]:
    """What changed, what is kept, what is not, and what is left to do: a line each."""
    c, lines = found.changes, []
    parts = {
        "dropped": c.dropped,
        "added": c.added,
        "trained on other data": c.trained,
        "tested otherwise": c.tested,
    }
    changed = "; ".join(f"{what}: {', '.join(names)}" for what, names in parts.items() if names)
    lines.append(
        f"changed: {changed or 'the order of the tasks'}{'; in another order' if c.reordered and changed else ''}"
    )
    there, wanted = found.runs
    lines.append(f"kept: {there} of {wanted} own runs")
    for method, what in ((JOINT, "true scores of joint runs"), (GIVEN, "true scores that were brought")):
        n, gone = sum(row.method == method for row in found.rows), found.lost.get(method, 0)
        if n or gone:
            lines.append(f"kept: {n} of {n + gone} {what}")
    if found.anchors or found.anchors_lost:
        total = len(found.anchors) + found.anchors_lost
        at = ", ".join(show(alpha) for _, alpha in found.anchors)
        lines.append(
            f"kept: {len(found.anchors)} of {total} anchors trained here{f', at {at}; scored again' if at else ''}"
        )
    return lines
