"""Table 3: the best weighting by each preview and by joint finetuning, the paper's and ours.

Run: python experiments/table3.py [--docs FOLDER] [--stores results.sqlite ...]
"""

from collections.abc import Sequence

from _tables import BESIDE, HEADS, ROLES, Paper, Study, rows, run
from table2 import picking

NOTES = """The weights alpha of the best previewed score, all but the last task's (they sum to 1), and of the best joint finetuning. Where the truth is flat many
weightings are as good as the best, so weights far from it may cost nothing: table 2 has the scores."""


def line(row: Paper | Study) -> Sequence[str]:
    """The weights of each column and of the truth."""
    if isinstance(row, Paper):
        return [weights(alpha) for alpha in (*row.alphas, row.best_alpha)]
    picks = [row.of(role, "pick") for role in ROLES]
    return [
        weights(None if pick is None else pick[:-1]) for pick in (*picks, row.facts["truth"]["best_alpha"])
    ]


def weights(alpha: Sequence[float] | None) -> str:
    """The weights of one cell."""
    return "–" if alpha is None else ", ".join(f"{w:.2f}" for w in alpha)


if __name__ == "__main__":
    head = [*BESIDE, *(HEADS[role] for role in ROLES), "joint finetuning"]
    title = "Table 3: the best weights"
    run("table3", __doc__, title, head, lambda found: rows(picking(found), line), lambda found: NOTES)
