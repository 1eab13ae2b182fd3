"""Table 1: mean squared error of previewed scores, the paper's and ours; with it the ranks and regrets, which it does not tell.

Run: python experiments/table1.py [--docs FOLDER] [--stores results.sqlite ...]
"""

from collections.abc import Sequence

from _tables import BESIDE, HEADS, ROLES, Paper, Study, rows, run, shown, triple

NOTES = """The mean squared difference between the mean score of merged models and of joint finetuning, over all weightings (shares squared,
BLEU squared for figure 7). `Hessian / simple` and `mixture / simple` compare across test sets and scales; below 1 is better than
simple averaging. The last columns are not in the paper's table: regret@1 is the best joint score minus the joint score at the preview's
pick, for simple / Hessian / mixture (the paper's from its table 2), in the row's `unit`: points of accuracy, BLEU, or the loss itself. The noise floor is what a regret may be on these test
items when the truth is 0, and Spearman the rank correlation over all weightings. A dash: not there."""


def line(row: Paper | Study) -> Sequence[str]:
    """MSE, ratios, regrets and ranks of one row."""
    paper = isinstance(row, Paper)
    mse = row.mse if paper else [row.of(role, "mse") for role in ROLES]
    ratios = [None if m is None or not mse[0] else m / mse[0] for m in mse[1:]]
    cells = [*(shown(m) for m in mse), *(shown(ratio, 2) for ratio in ratios)]
    if paper:
        return [*cells, triple(row.regret, 1), row.unit, "–", "–"]
    noise = max((n for role in ROLES if (n := row.of(role, "regret_noise")) is not None), default=None)
    return [
        *cells,
        row.regrets(),
        row.unit,
        row.score(noise, 2),
        triple([row.of(role, "spearman") for role in ROLES], 2),
    ]


def notes(found: Sequence[Study]) -> str:
    """The legend, and which of all methods came nearest in each study."""
    best = []
    for study in found:
        errors = {n: q["mse"] for n, q in study.facts["methods"].items() if q.get("mse") is not None}
        if errors:
            least = min(errors, key=lambda n: errors[n])
            best.append(f"{study.name} ({study.size}) {study.label(least)} {errors[least]:.4f}")
    return NOTES + (f"\n\nThe least of all methods tried: {'; '.join(best)}." if best else "")


if __name__ == "__main__":
    head = [*BESIDE, *(f"MSE {HEADS[role]}" if role == "simple" else HEADS[role] for role in ROLES)]
    head += ["Hessian / simple", "mixture / simple", "regret@1", "unit", "noise floor", "Spearman"]
    run("table1", __doc__, "Table 1: error of the previews", head, lambda found: rows(found, line), notes)
