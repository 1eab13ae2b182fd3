"""The study file: which model, which tasks, and how they are trained, previewed and compared, in TOML."""

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from previa.errors import FileError, StudyError
from previa.study import _checks
from previa.study._checks import key, number, one_of, path, reference, whole

METHODS = ("simple", "task_arithmetic", "ivon_hessian", "squared_gradients", "regmean", "mixture")


@dataclass(frozen=True)
class TaskSettings:
    """One [[task]]: data() -> (train, test); with a checkpoint of its own nothing is trained for it."""

    name: str = key(_checks.label)
    data: str = key(reference)
    checkpoint: Path | None = field(default=None, metadata={"check": path})
    posterior: Path | None = field(default=None, metadata={"check": path})
    metric_weight: float = key(number(least=0), 1.0)


@dataclass(frozen=True)
class PretrainSettings:
    """[pretrain]: makes the base once, before any task; without it the base is what model() builds."""

    data: str = key(reference)
    steps: int = key(whole(1), 300)
    batch_size: int = key(whole(1), 32)
    lr: float = key(number(above=0), 0.3)


@dataclass(frozen=True)
class FinetuneSettings:
    """[finetune]: the recipe, by IVON, of each task alone and of the joint runs.

    sampling: "loss" weighs the losses of the tasks by alpha, "sample" draws batches by share.
    """

    steps: int = key(whole(1), 150)
    batch_size: int = key(whole(1), 32)
    lr: float = key(number(above=0), 0.1)
    ess: float = key(number(above=0), 1000.0)
    hess_init: float = key(number(above=0), 0.1)
    weight_decay: float = key(number(least=0), 1e-3)
    betas: tuple[float, float] = key(_checks.pair(number(least=0, below=1)), (0.9, 0.99))
    mc_samples: int = key(whole(1), 1)
    sampling: str = key(one_of("loss", "sample"), "loss")


@dataclass(frozen=True)
class AdamWSettings:
    """[adamw]: the run whose squared gradients are taken, with which labels, and the prior added to them."""

    steps: int = key(whole(1), 150)
    lr: float = key(number(above=0), 1e-3)
    weight_decay: float = key(number(least=0), 0.0)
    prior: float = key(number(above=0), 10.0)
    labels: str = key(one_of("given", "sampled", "expected"), "given")


@dataclass(frozen=True)
class MixtureSettings:
    """[mixture]: its components, seeds x snapshots; its responsibilities, tempered, of the whole "model" or of each "module".

    subsets: lists of steps of [finetune] after which a snapshot is kept. The snapshots of each, of all seeds, are one more
    mixture to preview, named by its number of components: App. B.3 has mixture_10 and mixture_20 beside the whole of 30.
    """

    seeds: int = key(whole(1), 5)
    snapshots: int = key(whole(1), 4)
    subsets: tuple[tuple[int, ...], ...] = key(
        _checks.lists_of(whole(1), "a list of lists of rising steps, such as [[100, 150]]"), ()
    )
    temperature: float = key(number(above=0), 1.0)
    blocks: str = key(_checks.renamed(one_of("model", "module"), {"tensor": "module"}), "model")


@dataclass(frozen=True)
class PreviewSettings:
    """[preview]: the grid's steps, and the methods that preview it."""

    steps: int = key(whole(1), 20)
    methods: tuple[str, ...] = key(_checks.several_of(*METHODS), METHODS)


@dataclass(frozen=True)
class TruthSettings:
    """[truth]: the steps of the grid of joint runs; 0: none."""

    steps: int = key(whole(0), 10)


@dataclass(frozen=True)
class RecommendSettings:
    """[recommend]: the method whose preview the recommendation follows, one of Study.previews()."""

    method: str = key(_checks.label, "mixture")


@dataclass(frozen=True)
class Study:
    """A whole study file, checked. Functions are references "module:name", looked up when they are needed.

    model() -> torch.nn.Module with the base parameters; loss(model, batch) -> per-example losses [B];
    score(model, test) -> a number or per-item scores [N], higher is better; convention: alpha weighs mean or summed losses.
    tasks, in this order, are those of every alpha; folder is the study file's.
    """

    name: str = key(_checks.label)
    model: str = key(reference)
    loss: str | None = key(reference, None)
    score: str | None = key(reference, None)
    convention: str = key(one_of("mean", "sum"), "mean")
    seed: int = key(whole(0), 0)
    out: Path = field(default=Path(), metadata={"check": path})
    folder: Path = field(default=Path(), kw_only=True)
    tasks: tuple[TaskSettings, ...] = field(default=(), kw_only=True)
    pretrain: PretrainSettings | None = field(default=None, kw_only=True)
    finetune: FinetuneSettings = field(default=FinetuneSettings(), kw_only=True)
    adamw: AdamWSettings = field(default=AdamWSettings(), kw_only=True)
    mixture: MixtureSettings = field(default=MixtureSettings(), kw_only=True)
    preview: PreviewSettings = field(default=PreviewSettings(), kw_only=True)
    truth: TruthSettings = field(default=TruthSettings(), kw_only=True)
    recommend: RecommendSettings = field(default=RecommendSettings(), kw_only=True)

    def names(self) -> tuple[str, ...]:
        """The tasks' names, in the file's order: that of the weights in every alpha."""
        return tuple(task.name for task in self.tasks)

    def metric_weights(self) -> dict[str, float]:
        """How much each task counts in the mean score."""
        return {task.name: task.metric_weight for task in self.tasks}

    def snapshot_steps(self) -> tuple[int, ...]:
        """After which steps of [finetune] a component of the mixture is kept: evenly spaced, the last step among them."""
        steps, n = self.finetune.steps, self.mixture.snapshots
        return tuple(round(steps * (i + 1) / n) for i in range(n))

    def mixtures(self) -> dict[str, tuple[int, ...]]:
        """name -> the steps of its snapshots: mixture_<K> for each subset, K its components, and the whole, last."""
        parts = {f"mixture_{self.mixture.seeds * len(steps)}": steps for steps in self.mixture.subsets}
        return parts | {"mixture": self.snapshot_steps()}

    def previews(self) -> tuple[str, ...]:
        """The names of all previews: the methods of [preview], the mixture with its subsets before it."""
        each = (self.mixtures() if name == "mixture" else (name,) for name in self.preview.methods)
        return tuple(name for names in each for name in names)

    def facts(self) -> dict[str, Any]:
        """What all results rest on, for a store's fingerprint.

        Not name, out and metric weights, and nothing of [preview], [truth] and [recommend]; nor [adamw] and [mixture], on
        which single methods rest that say so themselves (Store.declare).
        """
        whole_study = asdict(self)
        facts = {k: whole_study[k] for k in ("model", "loss", "score", "convention", "seed")}
        facts |= {k: whole_study[k] for k in ("pretrain", "finetune")}
        return facts | {"task": [self._facts_of(task) for task in self.tasks]}

    def _facts_of(self, task: TaskSettings) -> dict[str, str | None]:
        facts: dict[str, str | None] = {"name": task.name, "data": task.data}
        for name, at in (("checkpoint", task.checkpoint), ("posterior", task.posterior)):
            if at is not None and at.is_relative_to(self.folder):  # so that a study's folder can be moved
                at = at.relative_to(self.folder)
            facts[name] = None if at is None else at.as_posix()
        return facts


_SECTIONS = {
    "finetune": FinetuneSettings,
    "adamw": AdamWSettings,
    "mixture": MixtureSettings,
    "preview": PreviewSettings,
    "truth": TruthSettings,
    "recommend": RecommendSettings,
}


def read_study(file: str | Path) -> Study:
    """The study of a TOML file; relative paths in it are from its folder.

    Raises FileError when it cannot be read, StudyError naming the file, the section and the key that is wrong.
    """
    file = Path(file)
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise FileError(f"{file}: this study file cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise StudyError(f"{file}: this is no text file in UTF-8, so it is no study file.") from error
    except tomllib.TOMLDecodeError as error:
        raise StudyError(f"{file}: this is not valid TOML: {error}.") from error
    return study_from_dict(table, folder=file.parent, where=str(file))


def study_from_dict(table: Mapping[str, Any], *, folder: str | Path = ".", where: str = "study") -> Study:
    """The study of such a table as a study file holds; where: its name in errors. Raises StudyError."""
    folder = Path(folder).resolve()
    _checks.known(table, ("study", "pretrain", "task", *_SECTIONS), what="section", where=where)
    if "study" not in table:
        raise StudyError(f"{where}: the section [study] is missing. It should hold at least name and model.")
    parts: dict[str, Any] = {
        name: _checks.section(cls, table[name], where=f"{where}, [{name}]")
        for name, cls in {"pretrain": PretrainSettings, **_SECTIONS}.items()
        if name in table
    }
    study = _checks.section(Study, table["study"], where=f"{where}, [study]", **parts)
    out = folder / (study.out if "out" in table["study"] else f"{study.name}-out")
    study = replace(study, folder=folder, out=out, tasks=_tasks(table.get("task", []), folder, where))
    if not any(task.metric_weight for task in study.tasks):
        raise StudyError(
            f"{where}, [[task]]: metric_weight is 0 for every task. One at least should be positive."
        )
    if study.mixture.snapshots > study.finetune.steps:
        raise StudyError(
            f"{where}, [mixture]: snapshots should be at most the steps of [finetune], {study.finetune.steps}. "
            f"Found {study.mixture.snapshots}."
        )
    _check_subsets(study, f"{where}, [mixture]")
    if study.recommend.method not in study.previews():
        if "method" in table.get("recommend", {}):
            raise StudyError(
                f"{where}, [recommend]: method should be one of those of [preview]: "
                f"{', '.join(study.previews())}. Found {study.recommend.method!r}."
            )
        study = replace(study, recommend=RecommendSettings(study.previews()[-1]))
    return study


def _check_subsets(study: Study, where: str) -> None:
    if study.mixture.subsets and "mixture" not in study.preview.methods:
        raise StudyError(
            f"{where}: subsets are previewed as mixtures, but methods of [preview] has no 'mixture'. Add it there, or leave "
            "subsets out."
        )
    kept = study.snapshot_steps()
    sizes = {len(kept)}
    for steps in study.mixture.subsets:
        for step in steps:
            if step not in kept:
                raise StudyError(
                    f"{where}: subsets holds step {step}, after which no snapshot is kept. With these steps of [finetune] "
                    f"and snapshots they are kept after {', '.join(map(str, kept))}."
                )
        if len(steps) in sizes:
            raise StudyError(
                f"{where}: subsets should be of different sizes, by which they are named, and smaller than all "
                f"{len(kept)} snapshots. Found {len(steps)} snapshots, {list(steps)}."
            )
        sizes.add(len(steps))


def _tasks(tables: object, folder: Path, where: str) -> tuple[TaskSettings, ...]:
    if not isinstance(tables, list):
        raise StudyError(f"{where}: every task should be a section of its own, [[task]] in double brackets.")
    tasks: dict[str, TaskSettings] = {}
    for i, table in enumerate(tables, start=1):
        task = _checks.section(TaskSettings, table, where=f"{where}, [[task]] number {i}")
        if task.name in tasks:
            raise StudyError(f"{where}, [[task]] number {i}: two tasks are named {task.name!r}. Rename one.")
        if task.posterior and not task.checkpoint:
            raise StudyError(
                f"{where}, [[task]] {task.name!r}: a posterior needs its checkpoint. Add checkpoint = ..."
            )
        paths = {k: folder / p for k in ("checkpoint", "posterior") if (p := getattr(task, k)) is not None}
        tasks[task.name] = replace(task, **paths)
    if len(tasks) < 2:
        raise StudyError(f"{where}: a study weighs at least two tasks, each a [[task]]. Found {len(tasks)}.")
    return tuple(tasks.values())
