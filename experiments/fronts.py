"""Pareto fronts of every experiment: how much of each preview's front is truly near-optimal, beside what chance would find.

Run: python experiments/fronts.py [--docs FOLDER] [--stores results.sqlite ...]
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from _tables import Study, run, shown

NOTES = """No table of the paper's; its later version is framed by fronts. A weighting is on the previewed front when no other is previewed at least as good in every task and better
in one; these weightings are then judged by their *true* scores. `near-optimal`: the share of them that is within noise of a true best trade-off in every task (by a
paired test on the same items; where no test items are known, the share that is on the true front itself). `hypervolume`: of their true scores, as a share of the true
front's. `by chance`: the mean of the same over sets of as many weightings drawn blindly. `luck`: the share of such sets that do as well; small is good.
Of each study the paper's methods, then the three others of the least luck; all of them are in the study's own JSON, under `pareto`. The best three of many are
lucky in part."""
BESIDES = 3  # methods beyond the paper's, of each study
HEAD = [
    "study",
    "method",
    "on the front",
    "near-optimal",
    "by chance",
    "hypervolume",
    "by chance, volume",
    "luck",
]


def lines(found: Sequence[Study]) -> Iterator[list[str]]:
    """A row for each of the chosen previews of the studies that have fronts."""
    for study in found:
        name = f"{study.name} ({study.size})"
        for method, front in chosen(study):
            near = front["near_share"] is not None
            share, chance = ("near_share", "near_by_chance") if near else ("exact_share", "exact_by_chance")
            counts = f"{front['on_previewed']} of {front['weightings']}"
            numbers = [front[share], front[chance], front["volume_share"], front["volume_by_chance"]]
            yield [
                name,
                study.label(method),
                counts,
                *(shown(number, 2) for number in numbers),
                f"{front['luck']:.2g}",
            ]
            name = ""


def chosen(study: Study) -> list[tuple[str, Mapping[str, Any]]]:
    """The fronts of the paper's methods in their order, then those of the others that chance would find least."""
    fronts = study.facts.get("pareto", {})
    own = [pair for pair in fronts.items() if study.of_the_paper(pair[0])]
    others = [pair for pair in fronts.items() if not study.of_the_paper(pair[0])]
    return own + sorted(others, key=lambda pair: (pair[1]["luck"], -(pair[1]["volume_share"] or 0)))[:BESIDES]


if __name__ == "__main__":
    run("fronts", __doc__, "Pareto fronts", HEAD, lines, lambda found: NOTES)
