"""Commands on stored results: what to use, how good previews are, the report. Nothing is evaluated again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from previa.cli._options import FLOOR, RELATIVE, RESULTS, WEIGHT, WORST, preference_of
from previa.terminal import advice, paragraph, quality_table

MOST = 20  # rows of a front that are printed, the pick and the knee beside them


def preferred(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a preference, which a command gets as ``wish``."""
    from functools import wraps

    @wraps(command)
    def with_wish(
        *, metric_weight: Sequence[str], floor: Sequence[str], worst: bool, relative: bool, **options: Any
    ) -> Any:
        wish = {"preference": preference_of(metric_weight, floor, worst), "relative": relative}
        return command(wish=wish, **options)

    return WEIGHT(FLOOR(WORST(RELATIVE(with_wish))))


@click.command(short_help="Which weighting to use, and how sure that is.")
@RESULTS
@click.option("--method", help="The preview to follow; the study's own choice otherwise.")
@preferred
@click.option("--pareto", is_flag=True, help="List the Pareto front of the task scores, with its knee.")
@click.option("--json", "as_json", is_flag=True, help="The whole recommendation as JSON.")
def recommend(results: Path, method: str | None, wish: dict[str, Any], pareto: bool, as_json: bool) -> None:
    """Which weighting to use, how wide the near-best region is, and whether uniform weights would do as well.

    \b
    Examples:
      previa recommend study.toml --metric-weight safety=3
      previa recommend study.toml --floor 'safety>=0.95' --floor chat=0.6
      previa recommend study.toml --worst --relative
      previa recommend study.toml --pareto
    """
    with _results(results, wish, method) as (_, found):
        pass
    front = _front(found) if pareto else None
    if as_json:
        more = {"preview": found.merged} | ({} if front is None else {"pareto": front})
        click.echo(_json(found.recommendation, more))
        return
    if counted := _counted(found.preference, found.recommendation.measure):
        paragraph(f"What counts: {counted}.")
    advice(found)
    if front is not None:
        click.echo("\n" + _front_table(found, front))


@click.command(short_help="How good each preview is, where joint runs tell.")
@RESULTS
@preferred
@click.option("--json", "as_json", is_flag=True, help="The whole comparison as JSON.")
def compare(results: Path, wish: dict[str, Any], as_json: bool) -> None:
    """How good each preview is, where joint runs tell: regret first, mean squared error last.

    \b
    Examples:
      previa compare study.toml
      previa compare study.toml --worst --floor 'safety>=0.9'
    """
    from previa.errors import StudyError

    with _results(results, wish) as (_, found):
        pass
    if found.comparison is None:
        raise StudyError(
            f"{results}: fewer than three weightings have a joint run and a preview, so nothing can be compared. "
            "`previa run` trains them at the weightings of [truth]."
        )
    click.echo(_json(found.comparison)) if as_json else quality_table(found)


@click.command(short_help="Write report, summary, table and figures again.")
@RESULTS
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder for the report; beside the results otherwise."
)
@preferred
def report(results: Path, out: Path | None, wish: dict[str, Any]) -> None:
    """Write report.html, summary.json, preview.csv and the figures again from stored results.

    \b
    Examples:
      previa report demo-out/study.db
      previa report study.toml --floor 'safety>=0.95' --out with-floor
    """
    from previa.show.outputs import publish

    with _results(results, wish) as (store, found):
        made = publish(store, found, out or store.path.parent)
    click.echo("\n".join(str(path) for path in made))


@contextmanager
def _results(path: Path, wish: dict[str, Any], method: str | None = None) -> Iterator[tuple[Any, Any]]:
    """The store of a study file, in a folder of results, or the store file itself; and what follows from it.

    A study file's metric weights and method count as it stands now, the options given before them.
    """
    from dataclasses import replace

    from previa.show.outputs import Results
    from previa.study.file import read_study
    from previa.study.store import Store

    preference = wish["preference"]
    file = _study_file(path)
    study = None if file is None else read_study(file)
    if study is not None:
        path = study.out
    with Store.read(path / "study.db" if path.is_dir() or study is not None else path) as store:
        if study is not None:
            _check_tasks(study, store, file)
            preference = replace(preference, weights={**study.metric_weights(), **preference.weights})
            own = study.recommend.method
            if method is None and own in store.methods() and store.preview(own).ok.any():
                method = own
        yield store, Results.of(store, method=method, preference=preference, relative=wish["relative"])


def _study_file(path: Path) -> Path | None:
    """The study file that is meant: this one, or that of a folder without results of its own."""
    if path.suffix == ".toml" and not path.is_dir():
        return path
    file = path / "study.toml"
    return file if file.is_file() and not (path / "study.db").exists() else None


def _check_tasks(study: Any, store: Any, file: Any) -> None:
    """Raise StudyError where the file's tasks are not those that the results are of, as far as the file tells."""
    import json

    from previa.errors import StudyError
    from previa.study._facts import differences, to_json

    had, has = store.tasks, study.names()
    gone, new = ([n for n in one if n not in other] for one, other in ((had, has), (has, had)))
    said = [
        f"{what} {', '.join(map(repr, names))}"
        for what, names in (("dropped", gone), ("added", new))
        if names
    ]
    if not said and had != has:
        said = [f"their order was {', '.join(map(repr, had))} and is {', '.join(map(repr, has))}"]
    was = {task["name"]: task for task in store.fingerprint.get("task", ())}
    for task in json.loads(to_json(study.facts()["task"], "the tasks")):
        if task["name"] in was:
            said += differences(was[task["name"]], task, f"task {task['name']!r}")
    if said:
        raise StudyError(
            f"{file}: its tasks are no longer those that the results in {store.path} are of: {'; '.join(said)}. "
            f"`previa revise {file}` keeps what still holds; or put the tasks back."
        )


def _counted(preference: Any, measure: str) -> str:
    """What counts as good, in words; nothing of a plain mean."""
    if preference.plain and measure == "mean score":
        return ""
    weighted = {task: w for task, w in preference.weights.items() if w != 1}
    parts = [measure, *(f"{task} counts {w:g}" for task, w in weighted.items())]
    return ", ".join([*parts, *(f"{task} >= {floor:g}" for task, floor in preference.floors.items())])


def _front(found: Any) -> list[dict[str, Any]]:
    """The Pareto front of the followed preview, best value first; task scores as they are compared."""
    import numpy as np

    from previa.study.knee import front_of, knee_of

    preview, preference = found.previews[found.method], found.preference
    bend, pick = knee_of(preview), preview.index(found.recommendation.alpha)
    value = preference.value(preview.scores, preview.tasks)
    keeps = preference.keeps(preview.scores, preview.tasks)
    seen = preference.seen(preview.scores, preview.tasks)
    rows = np.flatnonzero(front_of(preview))
    return [
        {
            "alpha": [float(w) for w in preview.alphas[a]],
            "scores": {task: float(s) for task, s in zip(preview.tasks, seen[a], strict=True)},
            "value": float(value[a]),
            "knee": bool(a == bend),
            "pick": bool(a == pick),
            "keeps_floors": bool(keeps[a]),
        }
        for a in rows[np.argsort(-value[rows], kind="stable")]
    ]


def _front_table(found: Any, front: Sequence[dict[str, Any]]) -> str:
    tasks = found.recommendation.tasks
    rows = [[*(f"w {task}" for task in tasks), *tasks, "value", ""]]
    shown = [row for i, row in enumerate(front) if i < MOST or row["knee"] or row["pick"]]
    for row in shown:
        marks = [
            name for name, holds in (("pick", row["pick"]), ("knee", row["knee"]), ("misses a floor", not row["keeps_floors"]))
            if holds
        ]  # fmt: skip
        weights = [f"{w:.3f}" for w in row["alpha"]]
        scores = [f"{row['scores'][task]:.3f}" for task in tasks]
        rows.append([*weights, *scores, f"{row['value']:.3f}", ", ".join(marks)])
    wide = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join([*(cell.rjust(n) for cell, n in zip(row[:-1], wide, strict=False)), row[-1]]).rstrip()
        for row in rows
    ]
    head = (
        f"The {len(front)} weighting{'s' * (len(front) != 1)} that no other one beats in every task, as previewed by "
        f"{found.method}, best value first:"
    )
    left = len(front) - len(shown)
    tail = [f"... and {left} more, in the report, or with --json."] if left else []
    return "\n".join([head, "", *lines, *tail])


def _json(found: Any, more: dict[str, Any] | None = None) -> str:
    import json

    return json.dumps({**found.to_dict(), **(more or {})}, indent=1, allow_nan=False)
