"""What the command line prints: progress bars, the table of qualities, paragraphs. The `rich` package is imported late."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

Progress = Callable[[str, int, int], None]
"""progress(what, done, total)"""


def paragraph(text: str) -> None:
    """A paragraph, in lines of the terminal's width where a person reads it."""
    if sys.stdout.isatty():
        text = textwrap.fill(text, min(shutil.get_terminal_size().columns, 100), break_on_hyphens=False)
    click.echo(text)


def quality_table(results: Any) -> None:
    """The quality of every method, best regret first."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from previa.study.sentence import weights

    truth = results.comparison.truth
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
    table.add_column("method", no_wrap=True)
    for name in ("regret@1", "gain on\nuniform", "Spearman", "top\n25 %", "IoU", "MSE", "offset", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, q in sorted(results.comparison.methods.items(), key=lambda pair: pair[1].regret_at_1):
        cells = [q.regret_at_1, q.gain_over_uniform, q.spearman, q.spearman_top25, q.iou_top10]
        shown = ["-" if value is None else f"{value:.3f}" for value in cells]
        seconds = results.summary["methods"][name]["seconds"]
        table.add_row(name, *shown, f"{q.mse:.4f}", f"{q.offset:+.3f}", f"{seconds:.1f}")
    console = Console(width=max(100, Console().width))
    click.echo("How good are the previews, judged by joint finetuning? Best regret first.\n")
    console.print(table)
    click.echo()
    noise = next(iter(results.comparison.methods.values())).regret_noise
    if noise is not None:
        click.echo(f"A regret up to {noise:.3f} cannot be told from 0 with these test items.")
    if results.preference.floors and results.truth is not None:
        good = results.truth.rows(results.truth.ok)
        if not results.preference.keeps(good.scores, good.tasks).any():
            click.echo("No joint run keeps all floors: the best is the one that misses them by least.")
        missed = [name for name, q in results.comparison.methods.items() if q.shortfall_at_pick > 0]
        if missed:
            click.echo(
                f"Picks that truly miss a floor, by what their regret counts, too: {', '.join(missed)}."
            )
    best = weights(results.comparison.tasks, truth.best_alpha)
    uniform = "" if truth.uniform_score is None else f"; uniform weights give {truth.uniform_score:.3f}"
    click.echo(f"Best of {truth.weightings} joint runs: {truth.best_score:.3f} at {best}{uniform}.")


def advice(results: Any) -> None:
    """The recommendation: its verdict, the weightings to choose among with their scores, and why, in words."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from previa.study.simplex import same

    r = results.recommendation
    paragraph(f"Verdict: {r.verdict_sentence}")
    click.echo()
    named = {
        "pick": r, "robust centre": r.centre_scores, "uniform": r.uniform, "size-proportional": r.size_proportional,
    } | ({} if r.knee is None else {"knee of the front": r.knee})  # fmt: skip
    rows: list[tuple[str, Any]] = []
    for name, point in named.items():
        again = next((i for i, (_, other) in enumerate(rows) if same(other.alpha, point.alpha)), None)
        if again is None:
            rows.append((name, point))
        else:
            rows[again] = (f"{rows[again][0]}, {name}", rows[again][1])
    true = any(point.true_score is not None for _, point in rows)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1))
    table.add_column("weighting")
    for name in (*r.tasks, "previewed", *(("joint run",) if true else ())):
        table.add_column(name, justify="right", overflow="fold")
    for name, point in rows:
        scores = [point.score, *((point.true_score,) if true else ())]
        shown = ["-" if score is None else f"{score:.3f}" for score in scores]
        table.add_row(name, *(f"{weight:.3f}" for weight in point.alpha), *shown)
    Console(width=max(80, Console().width)).print(table)
    click.echo()
    paragraph(r.sentence)


@contextmanager
def bars(quiet: bool) -> Iterator[Progress]:
    """progress(what, done, total): bars with the time left, or a line when a piece of work is done."""
    if quiet:
        yield _lines()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:<34}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), refresh_per_second=8) as shown:
        rows: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in rows:
                rows[what] = shown.add_task(_named(what), total=total)
            shown.update(rows[what], completed=done, total=total)

        yield show


def _lines() -> Progress:
    """A line when a piece of work is done; said again, as by a search whose last second has several evaluations, it is not."""
    said = ""

    def tell(what: str, done: int, total: int) -> None:
        nonlocal said
        line = f"{_named(what)}: {done} of {total}"
        if done == total and line != said:
            click.echo(line, err=True)
            said = line

    return tell


def _named(what: str) -> str:
    """A piece of work, in words."""
    from previa.study.settings import METHODS

    known = {"pretrain": "pretrain the base", "finetune": "finetune each task", "joint": "joint runs (truth)"}
    return f"preview, {what}" if what in METHODS or what.startswith("mixture_") else known.get(what, what)
