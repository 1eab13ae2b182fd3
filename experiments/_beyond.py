"""Quality against cost of every kind of preview: what one study hands in, and the rows of its table (issue: beyond the paper)."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import Module

from previa import Flat, Modes, Run, anchored, compare, open_checkpoint, save_checkpoint, sweep, warp, warped
from previa.core.warp import Method
from previa.run.live import Recalibrate
from previa.run.powers import POWERS, choose_power
from previa.run.run_scores import interpolated
from previa.run.scoring import Scorer
from previa.study import quality
from previa.study.preview import Preview
from previa.study.simplex import find, grid, key, probes, uniform
from previa.study.store import Store
from previa.study.surrogate import gaussian_process

START = 0.5  # power of the previews that short runs start from: nothing is chosen yet
SHORT = 1 / 3  # of a joint run's steps
TOUCH = 0.1  # of a joint run's steps, at every weighting of a refined preview
PLANE = 16  # steps of the grid whose losses the in-plane preview is found by
EXPECTED = ("regret_at_1", "spearman", "mse")  # of a row, judged by the mean over seeds of the truth
Row = dict[str, Any]


class Train(Protocol):
    """A joint run at alpha, ``share`` of its steps long, from the base or from ``start``; of another seed than the truth's."""

    def __call__(self, alpha: tuple[float, ...], *, start: Flat | None, share: float) -> Flat: ...


@dataclass(frozen=True)
class Costs:
    """What everything costs, in forward passes of one example: a training example counts 3, one of squared gradients 3."""

    run: Callable[[Sequence[float]], float]
    """of a joint run at a weighting; the unit of the table is the one at equal weights"""
    sources: Mapping[str, float]
    """of all tasks' own runs, passes over data ..., by name"""
    needs: Mapping[str, tuple[str, ...]]
    """family or other method -> the sources that it needs"""
    score: float
    """of scoring all tasks at one weighting, recalibration included"""
    losses: float
    """of measuring all tasks' training losses at one weighting"""

    def of(self, *methods: str) -> float:
        """Of all that these methods need, each once."""
        return sum(self.sources[s] for s in {s for name in methods for s in self.needs[name]})


@dataclass(frozen=True)
class Ingredients:
    """One study at one seed."""

    study: str
    seed: int
    tasks: tuple[str, ...]
    truth: Preview
    model: Module
    families: Mapping[str, Method]
    """name -> alphas [A, T] to parameters, unwarped; "simple" among them: these are warped and anchored"""
    others: Mapping[str, Method]
    """what is shown as it is, such as mixtures"""
    score: Scorer
    losses: Scorer
    """model -> each task's mean training loss"""
    train: Train
    costs: Costs
    folder: Path
    """where trained runs and scores are kept"""
    recalibrate: Recalibrate | None = None
    again: Preview | None = None
    """the truth of another seed, of the same base, at some weightings"""
    expected: Preview | None = None
    """the mean of the truths of several seeds, where there are some: what a preview should foretell"""
    known: Mapping[str, Preview] = field(default_factory=dict)
    """previews by other methods that are there already"""
    more: Mapping[str, tuple[Method, float]] = field(default_factory=dict)
    """name -> (method, cost in forward passes beside the map's evaluation)"""
    refined: Sequence[tuple[float, ...]] | None = None
    """where previews are refined; None: at every weighting of the truth"""
    choice: Sequence[str] = ()
    """the families among which the loss chooses; none: all. They should be of the same runs by the recipe of the joint ones: the
    loss of another optimizer's runs says which fits better, not which previews better"""
    shown: Sequence[float] = POWERS
    """powers that are shown for themselves, as evidence for a default"""
    thorough: bool = True
    """anchored previews of all families at all powers shown (else simple at the last), and previews in the plane of the losses"""
    labels: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    """what the kept scores rest on, beside the truth"""


def design(T: int) -> list[tuple[float, ...]]:
    """The middles of every two tasks and, last, equal weights."""
    pairs = [tuple(0.5 * (t in pair) for t in range(T)) for pair in combinations(range(T), 2)]
    return [*pairs, tuple(uniform(T).tolist())] if T > 2 else pairs


@dataclass(frozen=True)
class Table:
    """A study's rows as they are made, and the store of its scores."""

    i: Ingredients
    store: Store
    rows: list[Row] = field(default_factory=list)

    @property
    def choice(self) -> tuple[str, ...]:
        """The families among which the loss chooses."""
        return tuple(self.i.choice or self.i.families)

    @property
    def unit(self) -> float:
        """Forward passes of one joint run."""
        return self.i.costs.run(uniform(len(self.i.tasks)))

    @property
    def map(self) -> float:
        """Of scoring the whole map."""
        return self.i.costs.score * len(self.i.truth)

    def seen(self, name: str, method: Method, alphas: Any = None) -> Preview:
        """Scores of a method's previews, kept under its name."""
        i = self.i
        at = np.array(i.truth.alphas if alphas is None else alphas)  # a copy: torch wants to write
        return sweep(
            i.model, method, i.score, at,
            store=self.store, name=name, tasks=i.tasks, recalibrate=i.recalibrate,
        )  # fmt: skip

    def measured(self, name: str, method: Method, alphas: NDArray[np.float64]) -> NDArray[np.float64]:
        """Training losses [A, T] of a method's previews, kept under its name; infinite where there is none."""
        if (known := self.store.get(f"losses {name}")) is None:
            i = self.i
            found = sweep(i.model, method, i.losses, alphas, tasks=i.tasks, recalibrate=i.recalibrate)
            known = [[_number(v) for v in row] for row in found.scores]
            self.store.put(f"losses {name}", known)
        return np.array([[np.inf if v is None else v for v in row] for row in known])

    def chosen(self, name: str, methods: Mapping[str, Callable[[float], Method]]) -> dict[str, Any]:
        """{"method", "p", "powers" of each, "losses"} by the least joint training loss at a few weightings."""
        if (known := self.store.get(f"chosen {name}")) is None:
            i = self.i
            found = choose_power(
                i.model, methods, i.losses, probes(len(i.tasks)), tasks=i.tasks, recalibrate=i.recalibrate
            )
            losses = {m: {f"{p:g}": _number(v) for p, v in own.items()} for m, own in found.losses.items()}
            known = {"powers": dict(found.powers), "losses": losses}
            self.store.put(f"chosen {name}", known)
        least = {m: known["losses"][m][f"{known['powers'][m]:g}"] for m in self.choice}
        best = min(self.choice, key=lambda m: np.inf if least[m] is None else least[m])
        return {**known, "method": best, "p": known["powers"][best]}

    def choosing(self, methods: int) -> float:
        """Forward passes of choosing among so many methods' powers."""
        return methods * len(POWERS) * len(probes(len(self.i.tasks))) * self.i.costs.losses

    def add(self, method: str, preview: Preview | None, training: float, other: float, **more: Any) -> None:
        """A row; training and other: forward passes spent on runs, and on looking."""
        i = self.i
        row = {"study": i.study, "seed": i.seed, "method": method, "label": i.labels.get(method, method)}
        row |= {"family": None, "p": None}
        row |= {"cost": (training + other) / self.unit, "training": training / self.unit, **more}
        if preview is not None:
            row |= judged(i.truth, preview)
            if i.expected is not None:
                row |= {f"{k}_expected": v for k, v in judged(i.expected, preview).items() if k in EXPECTED}
        self.rows.append(row)


def judged(truth: Preview, preview: Preview) -> dict[str, float | None]:
    """What ``compare`` says of a preview, of which a table of many rows needs only this."""
    shared = [row for row, alpha in enumerate(truth.alphas) if find(preview.alphas, alpha) is not None]
    s, p, alphas = (
        truth.mean[shared],
        preview.at(truth.alphas[shared]).mean,
        np.array(truth.alphas[shared]),
    )
    good = np.isfinite(s) & np.isfinite(p)
    s, p, alphas = s[good], p[good], alphas[good]
    order, best = quality.ranking(p, alphas), quality.ranking(s, alphas)
    first = quality.top(best, 0.25)
    return {
        "regret_at_1": max(0.0, float(s[best[0]] - s[order[0]])),
        "spearman": quality.spearman(p, s),
        "spearman_top25": quality.spearman(p[first], s[first]),
        "iou_top10": quality.iou(quality.top(order, 0.1), quality.top(best, 0.1)),
        "mse": float(((p - s) ** 2).mean()),
        "offset": float((p - s).mean()),
    }


def noise(truth: Preview) -> float | None:
    """A regret up to this cannot be told from 0."""
    even = uniform(len(truth.tasks))
    found = compare(truth, {"it": truth}, uniform=even, size_proportional=even).methods["it"]
    return found.regret_noise


def rows(i: Ingredients) -> tuple[list[Row], dict[str, Any]]:
    """All methods of one study at one seed, and the facts beside them (powers and their losses, what refining adds).

    What is kept in the folder is not trained or scored again.
    """
    i.folder.mkdir(parents=True, exist_ok=True)
    facts = {"settings": dict(i.settings), "seed": i.seed, "truth": float(np.nansum(i.truth.scores))}
    store = Store.open(i.folder / "beyond.sqlite", tasks=i.tasks, convention="mean", fingerprint=facts)
    with closing(store):
        t = Table(i, store)
        known = _known(t)
        chosen = {"warped": _warped(t)}
        for kind, share in (("full", 1.0), ("short", SHORT)):
            runs = anchors(i, kind, share)
            for some in (runs[-1:], runs) if len(runs) > 1 else (runs,):
                name = f"anchored_{kind}_{len(some)}"
                chosen[name] = _anchored(t, name, some, share)
        if i.thorough:
            _in_plane(t, chosen["warped"])
        for name, (method, cost) in i.more.items():
            t.add(name, t.seen(name, method), cost, t.map)
        refined = _refined(t, chosen["warped"])
        floor = noise(i.truth)
        for row in t.rows:
            row["regret_noise"] = floor
        return t.rows, {"chosen": chosen, "refined": refined, **known}


def _known(t: Table) -> dict[str, Any]:
    """The truth, another seed's, equal weights, and every method as the paper has it."""
    i, costs = t.i, t.i.costs
    runs = sum(costs.run(alpha) for alpha in i.truth.alphas)
    t.add("joint", i.truth, runs, t.map)
    if i.again is not None:
        t.add("joint_again", i.again, sum(costs.run(a) for a in i.again.alphas), costs.score * len(i.again))
    at = find(i.truth.alphas, uniform(len(i.tasks)))
    best = float(np.nanmax(i.truth.mean))
    t.add("uniform", None, 0.0, 0.0, regret_at_1=best - float(i.truth.mean[at]), spearman=None, mse=None)  # fmt: skip
    for name, method in {**i.families, **i.others}.items():
        family = name if name in i.families else None
        t.add(name, t.seen(f"{name}, p = 1", method), costs.of(name), t.map, family=family, p=1.0)
    for name, preview in i.known.items():
        t.add(name, preview, costs.of(name), t.map, p=1.0)
    return {"best": best, "worst": float(np.nanmin(i.truth.mean)), "weightings": len(i.truth)}


def _warped(t: Table) -> dict[str, Any]:
    """Each family at the powers shown, at its own by the loss, and the family and power of the least loss."""
    i, costs = t.i, t.i.costs
    choice = t.chosen("warped", {name: partial(warped, m) for name, m in i.families.items()})
    for name, m in i.families.items():
        for p in i.shown:
            t.add(f"{name}_p{p:g}", t.seen(f"{name}, p = {p:g}", warped(m, p)), costs.of(name), t.map, family=name, p=p)  # fmt: skip
        p = choice["powers"][name]
        seen = t.seen(f"{name}, p = {p:g}", warped(m, p))
        t.add(f"{name}_warped", seen, costs.of(name), t.map + t.choosing(1), family=name, p=p)
        if name == choice["method"]:
            other = t.map + t.choosing(len(t.choice))
            t.add("warped", seen, costs.of(*t.choice), other, family=name, p=p)
    return choice


def _anchored(t: Table, name: str, runs: list[Run], share: float) -> dict[str, Any]:
    """The same through joint runs; and the scores of the same runs interpolated."""
    i, costs = t.i, t.i.costs
    trained = sum(share * costs.run(run.alpha) for run in runs)
    methods = {f: partial(anchored, m, runs) for f, m in i.families.items()}
    methods = {f: (lambda p, of=of: of(p=p)) for f, of in methods.items()}
    choice = t.chosen(name, methods)
    for f, of in methods.items():
        training = costs.of(f) + trained
        for p in i.shown if i.thorough else i.shown[-1:] if f == "simple" and len(runs) > 1 else ():
            t.add(f"{f}_{name}_p{p:g}", t.seen(f"{name} {f}, p = {p:g}", of(p)), training, t.map, family=f, p=p)  # fmt: skip
        p = choice["powers"][f]
        seen = t.seen(f"{name} {f}, p = {p:g}", of(p))
        t.add(f"{f}_{name}", seen, training, t.map + t.choosing(1), family=f, p=p)
        if f == choice["method"]:
            other = t.map + t.choosing(len(t.choice))
            t.add(name, seen, costs.of(*t.choice) + trained, other, family=f, p=p)
    at = np.array([run.alpha for run in runs])
    alphas = np.array(i.truth.alphas)
    T, known = len(i.tasks), t.seen(f"{name}, runs", held(runs), at).scores
    corners = t.seen("tasks' own runs", i.families["simple"], np.eye(T)).scores
    training, other = costs.of("simple") + trained, costs.score * (T + len(runs))
    kind = name.removeprefix("anchored_")
    for p in (1.0, 0.5, 0.25):
        found = interpolated(corners, at, known, alphas, p=p)
        t.add(f"scores_{kind}_p{p:g}", _of(i, found), training, other, p=p)
    p = choice["p"]
    t.add(f"scores_{kind}", _of(i, interpolated(corners, at, known, alphas, p=p)), training, other, p=p)
    process = gaussian_process(np.vstack([np.eye(T), at]), np.vstack([corners, known]))
    t.add(f"scores_gp_{kind}", _of(i, process.predict(alphas)[0]), training, other)
    return {**choice, "run_scores": known.mean(1).tolist()}


def _in_plane(t: Table, choice: Mapping[str, Any]) -> None:
    """theta(w) for the w of a grid with the least sum_t alpha_t l_t(theta(w)), w = grid^START: l is measured once a w."""
    i, costs = t.i, t.i.costs
    W = warp(grid(len(i.tasks), PLANE), START).numpy()
    runs = {kind: anchors(i, kind, share) for kind, share in (("full", 1.0), ("short", SHORT))}
    f = choice["method"]
    surfaces = {"in_plane": (i.families[f], 0.0)}
    for kind, share in (("full", 1.0), ("short", SHORT)):
        trained = sum(share * costs.run(run.alpha) for run in runs[kind])
        name = f"in_plane_{kind}_{len(runs[kind])}"
        surfaces[name] = anchored(i.families["simple"], runs[kind]), trained
    for name, (surface, trained) in surfaces.items():
        own = f if name == "in_plane" else "simple"
        losses = t.measured(f"{name} {own}", surface, W)
        L = np.where(i.truth.alphas[:, None] > 0, i.truth.alphas[:, None] * losses, 0.0).sum(-1)  # [A, W]
        picks = L.argmin(1)
        distinct = sorted(set(picks.tolist()))
        scores = t.seen(f"{name} {own}", surface, W[distinct]).scores
        found = scores[[distinct.index(w) for w in picks.tolist()]]
        other = len(W) * costs.losses + len(distinct) * costs.score
        t.add(name, _of(i, found), costs.of(own) + trained, other, family=own)


def _refined(t: Table, choice: Mapping[str, Any]) -> dict[str, Any]:
    """A few steps of joint training from the warped preview, at every weighting or at some; and what they add there."""
    i, costs, f = t.i, t.i.costs, choice["method"]
    method = warped(i.families[f], choice["p"])
    at = [tuple(a) for a in (i.truth.alphas.tolist() if i.refined is None else i.refined)]
    name = f"refined {f} p{choice['p']:g}"
    seen = t.seen(name, held(trained(i, name.replace(" ", "-"), at, method, TOUCH)), np.array(at))
    before, true = t.seen(f"{f}, p = {choice['p']:g}", method).at(at), i.truth.at(at)
    if i.refined is None:
        training = costs.of(*t.choice) + sum(TOUCH * costs.run(a) for a in at)
        t.add("refined", seen, training, t.map + t.choosing(len(t.choice)), family=f, p=choice["p"])
    mse = {n: float(((p.mean - true.mean) ** 2).mean()) for n, p in (("before", before), ("after", seen))}
    return {"share": TOUCH, "weightings": len(at), **mse}


def anchors(i: Ingredients, kind: str, share: float) -> list[Run]:
    """Joint runs at the design's weightings, whole ones from the base or short ones from warped previews."""
    start = None if kind == "full" else warped(i.families["simple"], START)
    return trained(i, kind, design(len(i.tasks)), start, share)


def trained(
    i: Ingredients, kind: str, at: Sequence[tuple[float, ...]], start: Method | None, share: float
) -> list[Run]:
    """Joint runs at these weightings, from the base or from a method's previews there; kept as files."""
    found = []
    for alpha in at:
        path = i.folder / "runs" / f"{kind}-{key(alpha).replace(',', '-')}.safetensors"
        if not path.exists():
            begin = None if start is None else start(torch.tensor([alpha], dtype=torch.float64)).params.row(0)
            path.parent.mkdir(exist_ok=True)
            save_checkpoint(path, i.train(alpha, start=begin, share=share))
        found.append(Run(alpha, dict(open_checkpoint(path))))
    return found


def held(runs: Sequence[Run]) -> Method:
    """A method that knows these runs' weightings and no others."""
    at, flats = (
        torch.tensor([run.alpha for run in runs], dtype=torch.float64),
        [Flat.of(r.params) for r in runs],
    )

    def known(alphas: Tensor) -> Modes:
        gaps = (torch.as_tensor(alphas, dtype=torch.float64)[:, None] - at).abs().amax(-1)
        assert float(gaps.amin(1).max()) < 1e-6, "held: no run at this weighting"
        return Modes(
            Flat(flats[0].layout, torch.stack([flats[r].vector for r in gaps.argmin(1).tolist()])), {}
        )

    return known


def _of(i: Ingredients, scores: Any) -> Preview:
    return Preview(i.tasks, i.truth.alphas, scores)


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
