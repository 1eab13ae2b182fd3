"""Beyond the paper: the quality of every kind of preview against its cost, on every study that exists.

    python experiments/beyond.py                        digits, both MNIST, CIFAR, three seeds each
    python experiments/beyond.py digits cifar           these studies

Previews: the paper's, at warped weights, anchored at 1 or 4 joint runs, refined, in the plane of the losses; beside them the scores of
the same runs interpolated. Cost: everything is counted in examples processed and told in joint runs. The page and the figure show
every study that the work folder has; what is there is not done again. CIFAR starts from the runs of fig3_cifar.py.
"""

import importlib
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import _beyond
import _beyond_page
from _results import write_json
from _shared import Options, machine, options

STUDIES = {  # name -> the module whose ``ingredients(name, options)`` makes it
    "digits": "_beyond_digits",
    "mnist_imbalanced": "_beyond_mnist",
    "mnist_balanced": "_beyond_mnist",
    "cifar": "_beyond_cifar",
    "sentiment": "_beyond_sentiment",
    "sentiment_likelihood": "_beyond_sentiment",
    "vit": "_beyond_vit",
    "vit_likelihood": "_beyond_vit",
    "translation": "_beyond_translation",
    "translation_adamw": "_beyond_translation",
}
DEFAULT = ("digits", "mnist_imbalanced", "mnist_balanced", "cifar")


def main() -> None:
    """The studies that are asked for, and the page of all that are there."""
    asked = [word for word in sys.argv[1:] if word in STUDIES]
    rest = [word for word in sys.argv[1:] if word not in STUDIES]
    o = options("beyond", __doc__, rest, seeds={"tiny": 1, "small": 3, "paper": 3})
    for name in asked or DEFAULT:
        for seed in range(o.seed, o.seed + o.seeds):
            study(o, name, seed)
    found = [json.loads(path.read_text()) for path in sorted(o.out.glob("*/*/rows.json"))]
    order = list(STUDIES)
    found.sort(
        key=lambda one: (order.index(one["study"]) if one["study"] in order else len(order), one["seed"])
    )
    found = _beyond_page.with_centres(found, o.docs / "beyond_centre.json")
    facts = {"command": o.command, "scale": o.scale, "machine": machine(o), **_beyond_page.summary(found)}
    write_json(o.docs / f"{o.stem}.json", facts)
    _beyond_page.write(o.docs, o.stem, facts, found)


def study(o: Options, name: str, seed: int) -> None:
    """One study at one seed: its rows, into the work folder."""
    began = time.perf_counter()
    own = replace(o, seed=seed, out=o.out / name / str(seed))
    made = importlib.import_module(STUDIES[name]).ingredients(name, own)
    rows, facts = _beyond.rows(made)
    seconds = round(time.perf_counter() - began)
    kept = {"study": name, "seed": seed, "seconds": seconds, "rows": rows, "facts": facts}
    write(own.out / "rows.json", kept)
    print(f"{name}, seed {seed}: {len(rows)} rows in {seconds} s", flush=True)


def write(path: Path, facts: dict) -> None:
    """The facts with numbers of six digits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, facts)


if __name__ == "__main__":
    main()
