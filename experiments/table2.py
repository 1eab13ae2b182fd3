"""Table 2: the best score each preview promises, what joint finetuning gives at those weights, and the best of joint finetuning.

Run: python experiments/table2.py [--docs FOLDER] [--stores results.sqlite ...]
"""

from collections.abc import Sequence

from _tables import BESIDE, HEADS, ROLES, Paper, Study, rows, run

NOTES = """Each cell: the best previewed score → the score of joint finetuning at the weights that it picks, mean over tasks, in percent (BLEU for
figure 7). `best` is the best of joint finetuning over the grid, `uniform` joint finetuning at equal weights. The last column, ours alone: the regret
of the weighting that previa recommends (the mixture's pick where there is one) with its unit, and whether the test items can tell it from 0. Only studies with picks
of their own are listed."""


def line(row: Paper | Study) -> Sequence[str]:
    """Previewed and true score of each column, best, uniform, verdict."""
    if isinstance(row, Paper):
        cells = ["–" if pair is None else f"{pair[0]:.1f} → {pair[1]:.1f}" for pair in row.score]
        return [*cells, f"{row.best:.1f}", "–", "–"]
    cells = []
    for role in ROLES:
        seen, true = row.of(role, "previewed_best"), row.of(role, "true_score_at_pick")
        cells.append("–" if seen is None else f"{row.score(seen)} → {row.score(true)}")
    truth = row.facts["truth"]
    return [*cells, row.score(truth["best_score"]), row.score(truth["uniform_score"]), verdict(row)]


def verdict(row: Study) -> str:
    """Whether the recommended pick is as good as the best, as far as the test items tell."""
    chosen = row.facts["recommended"]
    name = row.label(chosen["method"])
    regret, noise = row.score(chosen["regret_at_1"], 2), chosen["regret_noise"]
    if noise is None:
        return f"{name}: {regret} {row.unit}"
    sign, word = ("≤", "within noise") if chosen["within_noise"] else (">", "above noise")
    return f"{name}: {regret} {sign} {row.score(noise, 2)} {row.unit}, {word}"


def notes(found: Sequence[Study]) -> str:
    """The legend, and which recommendations can be told from the best."""
    above = [
        f"{s.name} ({s.size})" for s in picking(found) if s.facts["recommended"]["within_noise"] is False
    ]
    return NOTES + (f"\n\nRegrets above the noise floor: {', '.join(above)}." if above else "")


def picking(found: Sequence[Study]) -> list[Study]:
    """The studies that have picks."""
    return [s for s in found if "recommended" in s.facts]


if __name__ == "__main__":
    head = [*BESIDE, *(HEADS[role] for role in ROLES), "best", "uniform", "recommended: regret"]
    title = "Table 2: the best weighting by preview"
    run("table2", __doc__, title, head, lambda found: rows(picking(found), line), notes)
