"""What tables 1 to 3 share: the paper's numbers, ours beside them, and how a table is written as Markdown and JSON.

Ours are read from docs/experiments/*.json, which `finish` writes, and from stores that are handed over.
"""

import argparse
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _results

from previa.show._look import write
from previa.study.store import Store

DOCS = Path(__file__).resolve().parent.parent / "docs" / "experiments"
BESIDE = ("figure", "setting", "from")  # the first columns of `rows`
ROLES = ("simple", "hessian", "mixture")
HEADS = {"simple": "simple", "hessian": "Hessian", "mixture": "mixture"}
UNITS = {"accuracy": "points", "minus loss": "loss"}  # of differences of scores, by the unit of the scores
LABELS = (  # of methods that the study gives no label: what the name begins with, or has in it, and what to call that
    (r"^ivon_hessian", "IVON-HESS"),
    (r"^hessian_(\d+)_pooled", r"IVON-HESS of \1 models, pooled"),
    (r"^hessian", "IVON-HESS"),
    (r"^simple_(\d+)_pooled", r"average of \1 models"),
    (r"^(simple|task_arithmetic)", "simple averaging"),
    (r"^von_few", "full Gaussian, few steps"),
    (r"^von", "full Gaussian by VON"),
    (r"^laplace", "full Hessian at the minimum"),
    (r"^diagonal_laplace", "diagonal Hessian at the minimum"),
    (r"^expansion_at_0", "Hessian at zero"),
    (r"^expansion_at_quarter", "Hessian a quarter of the way"),
    (r"^mixture_(\d+)", r"mixture of \1"),
    (r"^snapshots", "variance over snapshots"),
    (r"^mixture_grid", "mixture fitted on a grid"),
    (r"^mixture_from_prior", "mixture begun at the prior"),
    (r"^squared_gradients", "squared gradients"),
    (r"^student_t", "Student-t"),
    (r"^product", "exact sums of updates"),
    (r"^kronecker", "K-FAC"),
    (r"^regmean", "RegMean"),
    (r"_by_rank", ", by rank"),
    (r"_b2", ", settings of B.2"),
    (r"_long", ", for longer"),
    (r"_blocks", ", responsibilities per module"),
    (r"_tempered_(\d+)|_tau(\d+)", r", temperature \1\2"),
    (r"_warped", ", square roots of the weights"),
    (r"_seed(\d+)", r", seed \1"),
    (r"_(expected|sampled)", r", \1 labels"),
    (r"_prior_", ", prior "),
)
Three = tuple[Any, Any, Any]
DIGITS_ROLES = {"simple": "simple", "hessian": "ivon_hessian", "mixture": "mixture"}


@dataclass(frozen=True)
class Paper:
    """A row of the paper's tables 1, 2 and 3, one entry for each of ROLES; None: not in the paper.

    prefix: how the names of our studies of it begin; score: (previewed, true) in percent or BLEU; alphas: the first weights.
    """

    prefix: str
    figure: str
    setting: str
    mse: Three
    score: Three
    best: float
    alphas: Three
    best_alpha: tuple[float, ...]

    @property
    def unit(self) -> str:
        """Of its scores and regrets."""
        return "BLEU" if "BLEU" in self.setting else "points"

    @property
    def regret(self) -> tuple[float | None, ...]:
        """Best minus true, in the unit of score."""
        return tuple(None if s is None else round(self.best - s[1], 1) for s in self.score)


PAPER = (
    Paper("fig8", "8", "logistic regression, MNIST imbalanced", (0.2067, 0.1528, 0.0463),
          ((76.8, 90.0), (80.3, 89.4), (87.2, 90.4)), 90.4, ((0.34, 0.34), (0.42, 0.36), (0.14, 0.46)), (0.12, 0.46)),
    Paper("fig9", "9", "logistic regression, MNIST balanced", (0.2015, 0.1191, 0.0809),
          ((71.3, 90.7), (78.5, 90.5), (83.2, 90.2)), 90.7, ((0.34, 0.34), (0.40, 0.34), (0.24, 0.34)), (0.28, 0.42)),
    Paper("fig3", "3", "ResNet-20, CIFAR-10", (0.0252, 0.0098, 0.0084),
          ((62.4, 67.4), (62.3, 64.6), (64.5, 67.4)), 68.1, ((0.40, 0.20), (0.30, 0.40), (0.40, 0.20)), (0.60, 0.10)),
    Paper("fig4_resisc", "4", "ViT-B/32; RESISC45, GTSRB, SVHN", (0.0388, 0.0263, None),
          ((86.0, 97.1), (88.3, 97.1), None), 97.3, ((0.35, 0.35), (0.35, 0.35), None), (0.15, 0.70)),
    Paper("fig4_eurosat", "4", "ViT-B/32; EuroSAT, Cars, SUN397", (0.0084, 0.0059, None),
          ((79.2, 83.9), (80.0, 84.0), None), 84.5, ((0.35, 0.40), (0.35, 0.45), None), (0.10, 0.75)),
    Paper("fig6", "6", "RoBERTa; RT, SST-2, Yelp", (0.0314, 0.0281, None),
          ((93.5, 95.2), (93.6, 95.3), None), 95.5, ((0.10, 0.55), (0.15, 0.50), None), (0.15, 0.40)),
    Paper("fig7", "7", "GEMMA-2B; IWSLT2017 de-en, fr-en (BLEU)", (0.5380, 0.4657, None),
          ((25.9, 26.4), (25.9, 26.7), None), 26.7, ((0.05,), (0.40,), None), (0.45,)),
)  # fmt: skip


@dataclass(frozen=True)
class Study:
    """One of our results: who made it, for the table, and its JSON facts."""

    name: str
    scale: str
    facts: Mapping[str, Any]

    @property
    def percent(self) -> bool:
        """Whether its scores are shares, to be shown in percent as the paper's."""
        return str(self.facts.get("unit", "")) == "accuracy"

    @property
    def unit(self) -> str:
        """Of differences of scores as they are shown."""
        unit = str(self.facts.get("unit", "score"))
        return UNITS.get(unit, unit)

    @property
    def size(self) -> str:
        """The scale, and the seed where it is not the usual one."""
        return f"{self.scale}, seed {self.facts['seed']}" if self.facts.get("seed") else self.scale

    def label(self, method: str) -> str:
        """What a reader calls a method: the study's own word, or its name in plain words."""
        own = str(self.facts["methods"][method].get("label", method))
        if own != method:
            return own
        for pattern, words in LABELS:
            own = re.sub(pattern, words, own)
        return own

    def of_the_paper(self, method: str) -> bool:
        """Whether it is one of the paper's: it has one of its columns, or a column of the study's picture."""
        own = self.facts["methods"][method].get("label", method)
        return method in self.facts["roles"].values() or own != method

    def of(self, role: str, key: str) -> Any:
        """One number of the method in this column of the paper, or None."""
        method = self.facts["roles"].get(role)
        return self.facts["methods"].get(method, {}).get(key)

    def score(self, value: float | None, digits: int = 1) -> str:
        """A score or a difference of scores in the paper's unit, percent; of other units two more digits."""
        if value is None or not self.percent:
            return shown(value, digits + 2)
        return shown(100 * value, digits)

    def regrets(self) -> str:
        """The regret of each of the paper's columns."""
        return _slashed([self.score(self.of(role, "regret_at_1"), 2) for role in ROLES])


Line = Callable[[Paper | Study], Sequence[str]]


def studies(docs: Path, stores: Sequence[Path] = ()) -> list[Study]:
    """Every study in a folder of JSON files, then those of the stores; the tables' own files are left out."""
    found = []
    for path in sorted(docs.glob("*.json")):
        facts = json.loads(path.read_text(encoding="utf-8"))
        if "methods" in facts:
            found.append(Study(str(facts["name"]), str(facts["scale"]), facts))
        elif facts.get("mean", {}).keys() >= set(
            DIGITS_ROLES.values()
        ):  # a mean over seeds, without single picks
            n = len(facts["seeds"])
            mean = {"roles": DIGITS_ROLES, "methods": facts["mean"], "unit": "accuracy"}
            title = f"MLP on digits, mean of {n} seeds"
            scale = str(facts.get("scale", "small"))
            found.append(Study(path.stem, scale, {**facts, **mean, "title": title}))
    for path in stores:
        with Store.read(path) as store:
            kept = store.get("finish", {})
            columns = [tuple(pair) for pair in kept.get("columns", [])]
            judged = _results.judge(store, columns, sizes=kept.get("sizes", {}), roles=kept.get("roles"))
            name = str(store.provenance.get("name", path.parent.name))
            about = {
                "title": kept.get("title", name),
                "unit": kept.get("unit", "score"),
                "seed": store.fingerprint.get("seed"),
            }
            found.append(Study(name, str(store.fingerprint.get("scale", "")), {**about, **judged}))
    return found


def rows(found: Sequence[Study], line: Line) -> Iterator[list[str]]:
    """For each row of the paper: its numbers, then ours or "not run here"; then what the paper does not have."""
    width = len(line(PAPER[0]))
    left = list(found)
    for paper in PAPER:
        yield [paper.figure, paper.setting, "paper", *line(paper)]
        ours = [s for s in found if s.name.startswith(paper.prefix)]
        for study in ours:
            left.remove(study)
            yield ["", "", f"here, {study.size}", *line(study)]
        if not ours:
            yield ["", "", "not run here", *[""] * width]
    for study in left:
        title = str(study.facts.get("title", study.name))
        unit = "" if study.percent else f" (unit: {study.facts.get('unit', 'score')})"
        yield ["", title + unit, f"here, {study.size}", *line(study)]


def shown(value: float | None, digits: int = 4) -> str:
    """A number for the table, a dash for what there is none of."""
    return "–" if value is None else f"{value:.{digits}f}"


def triple(values: Sequence[float | None], digits: int) -> str:
    """Three numbers in one cell, in the order of ROLES."""
    return _slashed([shown(value, digits) for value in values])


def _slashed(cells: Sequence[str]) -> str:
    return " / ".join(cells)


def markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A Markdown table with padded columns."""
    widths = [max(len(row[i]) for row in (head, *body)) for i in range(len(head))]
    lines = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |"
        for row in (head, *body)
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


def run(
    name: str, doc: str, title: str, head: Sequence[str], body: Callable[[Sequence[Study]], Iterable[Sequence[str]]],
    notes: Callable[[Sequence[Study]], str],
) -> None:  # fmt: skip
    """The program of one table: read, print, write NAME.md and NAME.json; body: its rows, notes: what is above it."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--docs", type=Path, default=DOCS, help="the folder of the experiments' JSON, and of the table"
    )
    parser.add_argument(
        "--stores", type=Path, nargs="*", default=[], help="results.sqlite of further studies"
    )
    args = parser.parse_args()
    found = studies(args.docs, args.stores)
    lines = [list(row) for row in body(found)]
    table = markdown(head, lines)
    page = f"# {title}\n\n{notes(found)}\n\n{table}\n\nMade by `python experiments/{name}.py` from the JSON files beside it.\n"
    write(args.docs / f"{name}.md", page.encode())
    facts = {
        "table": name,
        "command": f"python experiments/{name}.py",
        "rows": [dict(zip(head, row, strict=True)) for row in lines],
    }
    write(args.docs / f"{name}.json", (json.dumps(facts, indent=1, ensure_ascii=False) + "\n").encode())
    print(f"{title}\n\n{table}\n")
