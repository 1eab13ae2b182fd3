"""The page of the study beyond the paper: means over seeds, its tables and figure, and which targets are reached."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from previa.show.quality_cost import quality_cost

NUMBERS = (
    "cost", "training", "regret_at_1", "regret_noise", "spearman", "spearman_top25", "iou_top10", "mse", "offset", "p",
    "regret_at_1_expected", "spearman_expected", "mse_expected",
)  # fmt: skip
BRIEF = (
    "cost",
    "training",
    "p",
    "mse",
    "spearman",
    "spearman_expected",
    "spearman_top25",
    "iou_top10",
    "regret_at_1",
)
SEEDED = ("spearman", "mse", "regret_at_1", "p")  # each seed's numbers that are kept
PAPER = r"simple|task_arithmetic|squared_gradients|ivon_hessian|von|mixture_\d+"
TITLES = {
    "digits": "Digits, small network",
    "mnist_imbalanced": "MNIST, imbalanced tasks",
    "mnist_balanced": "MNIST, balanced tasks",
    "cifar": "CIFAR-10, ResNet-20",
    "sentiment": "Sentiment, MiniLM, accuracy",
    "sentiment_likelihood": "Sentiment, MiniLM, log-likelihood",
    "vit": "Pictures, ViT, accuracy",
    "vit_likelihood": "Pictures, ViT, log-likelihood",
    "translation": "Translation, LoRA by IVON, log-likelihood",
    "translation_adamw": "Translation, LoRA by AdamW, log-likelihood",
}
CENTRES = (  # of what _beyond_centre.py tried, the one that is shown: the first that a study has
    "centre, low rank, 2 re-centrings, blend",
    "centre, full, 1 re-centrings, blend",
    "centre, kronecker, 1 re-centrings, blend",
)
LABELS = {  # method -> what it is called; n is the number of anchors; in the order of the table
    "uniform": "equal weights, no preview",
    "simple": "simple averaging",
    "task_arithmetic": "task arithmetic",
    "squared_gradients": "squared gradients",
    "ivon_hessian": "IVON's Hessian",
    "von": "full Gaussian (VON)",
    "regmean": "RegMean",
    "mixture_10": "mixture of 10",
    "mixture_20": "mixture of 20",
    "mixture_30": "mixture of 30",
    "simple_p0.5": "simple, warped, p = 0.5",
    "simple_p0.25": "simple, warped, p = 0.25",
    "warped": "warped, family and p by loss",
    "in_plane": "least loss in the plane",
    "centre": "one look from the centre, blended",
    "refined": "refined, a tenth of a run each",
    "scores_short_1": "scores of 1 short run, Scheffe",
    "simple_anchored_short_1": "simple, anchored at 1 short run, p by loss",
    "anchored_short_1": "anchored at 1 short run, family and p by loss",
    "scores_full_1": "scores of 1 run, Scheffe",
    "simple_anchored_full_1": "simple, anchored at 1 run, p by loss",
    "anchored_full_1": "anchored at 1 run, family and p by loss",
    "scores_gp_short_n": "scores of n short runs, GP",
    "scores_short_n": "scores of n short runs, Scheffe",
    "simple_anchored_short_n_p0.25": "simple, anchored at n short runs, p = 0.25",
    "simple_anchored_short_n": "simple, anchored at n short runs, p by loss",
    "anchored_short_n": "anchored at n short runs, family and p by loss",
    "in_plane_short_n": "least loss in their plane",
    "scores_gp_full_n": "scores of n runs, GP",
    "scores_full_n": "scores of n runs, Scheffe",
    "simple_anchored_full_n_p0.25": "simple, anchored at n runs, p = 0.25",
    "simple_anchored_full_n": "simple, anchored at n runs, p by loss",
    "anchored_full_n": "anchored at n runs, family and p by loss",
    "in_plane_full_n": "least loss in their plane",
    "joint_again": "*joint runs of another seed*",
    "joint": "*the truth*",
}
FIGURE = {  # method -> (its name in the figure, where a last number joins a series; its label)
    "simple": ("simple", "simple"),
    "squared_gradients": ("squared_gradients", "squared gradients"),
    "ivon_hessian": ("ivon_hessian", "IVON"),
    "von": ("von", "VON"),
    "regmean": ("regmean", "RegMean"),
    "mixture_20": ("mixture_20", "20 mixed"),
    "mixture_30": ("mixture_30", "30 mixed"),
    "warped": ("warped", "warped"),
    "centre": ("centre", "centre"),
    "refined": ("refined", "refined"),
    "simple_anchored_short_n": ("short_anchored_4", "n short anchors"),
    "simple_anchored_full_1": ("anchored_1", "1 anchor"),
    "simple_anchored_full_n": ("anchored_4", "n anchors"),
    "scores_full_1": ("scores_1", "its scores"),
    "scores_full_n": ("scores_4", "their scores"),
    "scores_gp_full_n": ("scores_gp", "their scores, GP"),
    "joint_again": ("joint_again", ""),
    "joint": ("joint", ""),
}


def summary(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """study -> {seeds, methods: name -> means over seeds and each seed's main numbers, the targets, facts of each seed}."""
    studies: dict[str, Any] = {}
    for name in dict.fromkeys(one["study"] for one in found):
        own = [one for one in found if one["study"] == name]
        methods: dict[str, Any] = {}
        for method in dict.fromkeys(row["method"] for one in own for row in one["rows"]):
            rows = [row for one in own for row in one["rows"] if row["method"] == method]
            methods[method] = {
                k: v for k in NUMBERS if (v := _mean([row.get(k) for row in rows])) is not None
            }
            families = [row["family"] for row in rows]
            if not re.search(r"_p[\d.]+$", method):
                methods[method] |= {"family": families} if any(families) else {}
                methods[method]["seeds"] = {k: [row.get(k) for row in rows] for k in SEEDED}
            else:  # evidence for a default: no need of every number
                methods[method] = {k: v for k, v in methods[method].items() if k in BRIEF}
        studies[name] = {
            "seeds": [one["seed"] for one in own],
            "seconds": [one["seconds"] for one in own],
            "targets": targets(methods),
            "methods": methods,
            "facts": [one["facts"] for one in own],
        }
    return {"studies": studies}


def with_centres(found: Sequence[dict[str, Any]], path: Path) -> list[dict[str, Any]]:
    """The same with a row "centre" each, where _beyond_centre.py has written one of that study and seed to ``path``."""
    known = json.loads(path.read_text())["rows"] if path.exists() else []
    made = []
    for one in found:
        own = {r["method"]: r for r in known if (r["study"], r["seed"]) == (one["study"], one["seed"])}
        name = next((m for m in CENTRES if m in own), None)
        simple = next(row for row in one["rows"] if row["method"] == "simple")
        rows = [row for row in one["rows"] if row["method"] != "centre"]
        if name is not None:
            row = own[name]
            same = {k: simple[k] for k in ("study", "seed", "regret_noise")}
            rows.append({
                **same, "method": "centre", "label": "centre", "family": None, "p": row["p"],
                "cost": simple["cost"] + row["joint_runs"], "training": simple["training"], "mse": row["mse"],
                "spearman": row["spearman"], "spearman_top25": row["top25"], "regret_at_1": row["regret"],
            })  # fmt: skip
        made.append({**one, "rows": rows})
    return made


def targets(methods: Mapping[str, Any]) -> dict[str, Any]:
    """What the project set out to reach, and what was: families and powers by the loss, never by the truth."""
    base, n = methods["simple"]["mse"], _anchors(methods)
    found: dict[str, Any] = {"regret_noise": methods["simple"]["regret_noise"]}
    for kind in ("full", "short"):
        four = methods[f"anchored_{kind}_{n}"]
        rival = [m for name, m in methods.items() if re.match(rf"scores_(gp_)?{kind}_{n}", name)]
        found[kind] = {
            "mse_of_simple": four["mse"] / base,
            "spearman": four["spearman"],
            "regret": four["regret_at_1"],
            "scores_spearman": methods[f"scores_{kind}_{n}"]["spearman"],
            "scores_regret": methods[f"scores_{kind}_{n}"]["regret_at_1"],
            "scores_best_spearman": max(one["spearman"] for one in rival),
        }
    found["ceiling"] = methods.get("joint_again", {}).get("spearman")
    free = {m: methods[m]["mse"] / base for m in ("warped", "in_plane", "centre") if m in methods}
    paper = {m: q["mse"] / base for m, q in methods.items() if re.fullmatch(PAPER, m)}
    best = min(paper, key=lambda m: paper[m])
    return {**found, "free": free, "papers_best": best, "papers_best_mse_of_simple": paper[best]}


def reached(studies: Mapping[str, Any]) -> Iterator[str]:
    """The lines of the table of targets."""
    yield "| study | anchors | MSE of simple's, at most 0.1 | Spearman, at least 0.9 | of another seed's joint runs | regret@1 | its noise | Spearman of the scores | their regret |"
    yield "|---|" + "---|" * 8
    for name, study in studies.items():
        t, n = study["targets"], _anchors(study["methods"])
        for kind, word in (("full", "runs"), ("short", "short runs")):
            q = t[kind]
            cells = [TITLES.get(name, name), f"{n} {word}" if n > 1 else f"1 {word[:-1]}", _show(q["mse_of_simple"], 4), _show(q["spearman"], 3),
                     _show(t["ceiling"], 3), _show(q["regret"], 4), _show(t["regret_noise"], 4), _show(q["scores_spearman"], 3),
                     _show(q["scores_regret"], 4)]  # fmt: skip
            yield "| " + " | ".join(cells) + " |"
    yield "\n| study | without joint runs: MSE of simple's | the paper's best | its MSE of simple's |"
    yield "|---|---|---|---|"
    for name, study in studies.items():
        t = study["targets"]
        free = ", ".join(f"{m.replace('_', ' ')} {v:.3f}" for m, v in t["free"].items())
        yield f"| {TITLES.get(name, name)} | {free} | {LABELS.get(t['papers_best'], t['papers_best'])} | {t['papers_best_mse_of_simple']:.3f} |"


def write(docs: Path, stem: str, facts: Mapping[str, Any], found: Sequence[Mapping[str, Any]]) -> None:
    """The tables between the marks of NAME.md, which is made when missing, and the figure NAME.png."""
    page = docs / f"{stem}.md"
    text = (
        page.read_text()
        if page.exists()
        else "# Beyond the paper: quality against cost\n\n<!-- targets -->\n<!-- /targets -->\n\n<!-- tables -->\n<!-- /tables -->\n"
    )
    lines = {
        "targets": reached(facts["studies"]),
        "tables": (line for name, study in facts["studies"].items() for line in table(name, study)),
    }
    for mark, found_lines in lines.items():
        before, _, rest = text.partition(f"<!-- {mark} -->\n")
        _, _, after = rest.partition(f"<!-- /{mark} -->")
        text = f"{before}<!-- {mark} -->\n" + "\n".join(found_lines) + f"\n<!-- /{mark} -->{after}"
    page.write_text(text)
    rows = [row for one in found for row in drawn(one["study"], one["rows"])]
    quality_cost(rows, docs / f"{stem}.png", title="Beyond the paper")


def table(name: str, study: Mapping[str, Any]) -> Iterator[str]:
    """One study's lines of Markdown."""
    methods, n = study["methods"], _anchors(study["methods"])
    base, expected = methods["simple"]["mse"], "spearman_expected" in methods["simple"]
    yield f"### {TITLES.get(name, name)}\n"
    more = " with the mean of 3 seeds |" if expected else ""
    yield f"| preview | cost | of it training | regret@1 | Spearman |{more} top 25 % | IoU | MSE | of simple's | p |"
    yield "|---|" + "---|" * (10 if expected else 9)
    for method, label in LABELS.items():
        row = methods.get(re.sub(r"_n(?=_|$)", f"_{n}", method))
        if row is None or (n == 1 and re.search(r"_1(?=_|$)", method)):
            continue
        cells = [
            label.replace(" n ", f" {n} ").replace("1 runs", "1 run").replace("1 short runs", "1 short run"),
            _show(row["cost"], 1),
            _show(row["training"], 1),
        ]
        cells += [_show(row.get("regret_at_1"), 4), _show(row.get("spearman"), 3)]
        cells += [_show(row.get("spearman_expected"), 3)] * expected
        cells += [
            _show(row.get("spearman_top25"), 2),
            _show(row.get("iou_top10"), 2),
            _show(row.get("mse"), 5),
        ]
        cells += [_show(row["mse"] / base, 3) if row.get("mse") is not None else ""]
        powers = row["seeds"]["p"] if "seeds" in row else [row["p"]]
        cells += [", ".join(f"{p:g}" for p in powers if p is not None)]
        yield "| " + " | ".join(cells) + " |"
    t = study["targets"]
    best = [f["best"] for f in study["facts"]]
    yield (
        f"\nMeans over seeds {', '.join(map(str, study['seeds']))}. Regrets up to {t['regret_noise']:.4f} cannot be told from 0; the "
        f"best joint run has {mean(best):.3f}, the worst {mean(f['worst'] for f in study['facts']):.3f}.\n"
    )  # fmt: skip


def drawn(study: str, rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows of the figure, under its names."""
    there = {row["method"]: row for row in rows}
    n = _anchors(there)
    at = {re.sub(r"_n$", f"_{n}", method): found for method, found in FIGURE.items()}
    for row in rows:
        if row["method"] in at and not (row["method"] == "mixture_20" and "mixture_30" in there):
            method, label = at[row["method"]]
            yield {**row, "study": TITLES.get(study, study), "method": method, "label": label.replace("n ", f"{n} ", 1) if label.startswith("n ") else label}  # fmt: skip


def _anchors(methods: Mapping[str, Any]) -> int:
    """The number of anchors of the whole design."""
    return max(int(found[1]) for m in methods if (found := re.fullmatch(r"anchored_full_(\d+)", m)))


def _show(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _mean(values: Sequence[float | None]) -> float | None:
    there = [v for v in values if v is not None]
    return mean(there) if there else None
