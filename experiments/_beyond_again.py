"""The truth of a study whose joint runs are kept, and the same by other seeds: how far joint runs that no preview could tell apart lie."""

from dataclasses import replace
from pathlib import Path

from _beyond import Ingredients, Table, Train, held, trained

from previa.study.preview import Preview
from previa.study.simplex import Array, find
from previa.study.store import Store

REFINED = (
    (0.8, 0.2, 0.0),
    (0.2, 0.0, 0.8),
    (0.0, 0.6, 0.4),
    (0.4, 0.4, 0.2),
    (0.2, 0.2, 0.6),
    (1 / 3, 1 / 3, 1 / 3),
)
"""Where previews of three tasks are refined: a few of each kind, since every one is a training"""


def refined(alphas: Array) -> list[tuple[float, ...]] | None:
    """Those of REFINED that are among these weightings; None, which is all of them, where none is."""
    return [alpha for alpha in REFINED if find(alphas, alpha) is not None] or None


def twice(i: Ingredients, folder: Path, train: Train, k: int) -> Preview:
    """Scores of joint runs number k at the study's weightings, [A]; the runs are kept in ``folder``, the scores in the study's."""
    folder.mkdir(parents=True, exist_ok=True)
    runs = trained(
        replace(i, train=train, folder=folder),
        f"joint{k}",
        [tuple(a) for a in i.truth.alphas.tolist()],
        None,
        1.0,
    )
    i.folder.mkdir(parents=True, exist_ok=True)
    facts = {"seed": i.seed, **i.settings}
    with Store.open(i.folder / "joint.sqlite", tasks=i.tasks, convention="mean", fingerprint=facts) as store:
        return Table(i, store).seen(f"joint{k}", held(runs))
