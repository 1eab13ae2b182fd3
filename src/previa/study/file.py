"""The study file: which model, which tasks, and how they are trained, previewed and compared, in TOML."""

import tomllib
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from previa.errors import AlphaError, FileError, StudyError
from previa.study import _checks, simplex
from previa.study._checks import key, one_of, path, reference, text, whole
from previa.study._together import ROWS, check_kind, check_previews, check_subsets
from previa.study.settings import (
    ANCHORED,
    CENTRE,
    METHODS,
    SHARPENED,
    WARPED,
    AdamWSettings,
    AnchorSettings,
    FinetuneSettings,
    MixtureSettings,
    PretrainSettings,
    PreviewSettings,
    RecommendSettings,
    TaskSettings,
    TransformersSettings,
    TruthSettings,
)


@dataclass(frozen=True)
class Study:
    """A whole study file, checked. Functions are references "module:name", looked up when they are needed.

    model() -> torch.nn.Module with the base parameters; loss(model, batch) -> per-example losses [B];
    score(model, test) -> a number or per-item scores [N], higher is better; convention: alpha weighs mean or summed losses.
    With [transformers] model is a folder, score a name or a function, and the loss is that of the task type.
    tasks, in this order, are those of every alpha; folder is the study file's.
    """

    name: str = key(_checks.label)
    model: str = key(text)
    loss: str | None = key(reference, None)
    score: str | None = key(text, None)
    convention: str = key(one_of("mean", "sum"), "mean")
    seed: int = key(whole(0), 0)
    out: Path = field(default=Path(), metadata={"check": path})
    folder: Path = field(default=Path(), kw_only=True)
    tasks: tuple[TaskSettings, ...] = field(default=(), kw_only=True)
    anchors: tuple[AnchorSettings, ...] = field(default=(), kw_only=True)
    transformers: TransformersSettings | None = field(default=None, kw_only=True)
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

    def families(self) -> tuple[str, ...]:
        """The families among the methods of [preview]: what is merged."""
        return tuple(name for name in self.preview.methods if name in METHODS)

    def sharpened(self) -> tuple[str, ...]:
        """The previews on top of families, in the order of SHARPENED."""
        return tuple(name for name in SHARPENED if name in self.preview.methods)

    def previews(self) -> tuple[str, ...]:
        """The names of all previews: the families of [preview], the mixture with its subsets before it; the sharpened last.

        Anchored ones are there only while there are anchors.
        """
        each = (self.mixtures() if name == "mixture" else (name,) for name in self.families())
        centre = [CENTRE] * (CENTRE in self.preview.methods)
        return (*(name for names in each for name in names), *centre, *self.sharpened())

    def followed(self, there: Collection[str]) -> str:
        """The preview to recommend by: [recommend]'s, else the best at its cost of those that are there, else the last."""
        wanted = (self.recommend.method, ANCHORED, WARPED, "mixture", *reversed(self.previews()))
        return next((name for name in wanted if name in there), self.recommend.method)

    def facts(self) -> dict[str, Any]:
        """What all results rest on, for a store's fingerprint.

        Not name, out and metric weights, and nothing of [preview], [truth] and [recommend]; nor [adamw], [mixture] and the
        anchors, on which single methods rest that say so themselves (Store.declare).
        """
        whole_study = asdict(self)
        facts = {k: whole_study[k] for k in ("model", "loss", "score", "convention", "seed")}
        facts |= {k: whole_study[k] for k in ("pretrain", "finetune")}
        if self.transformers is not None:
            free = ("device",)
            own = {k: v for k, v in whole_study["transformers"].items() if k not in free}
            facts["transformers"] = own | {k: self._short(own[k]) for k in ("adapter", "tokenizer")}
        return facts | {"task": [self._facts_of(task) for task in self.tasks]}

    def _facts_of(self, task: TaskSettings) -> dict[str, Any]:
        facts: dict[str, Any] = {"name": task.name, "data": task.data}
        facts |= {"checkpoint": self._short(task.checkpoint), "posterior": self._short(task.posterior)}
        if self.transformers is not None:
            facts |= {k: v for k in ROWS if (v := getattr(task, k)) is not None}
        return facts

    def _short(self, at: Path | None) -> str | None:
        """A path as it is from the study's folder, so that this can be moved."""
        if at is not None and at.is_relative_to(self.folder):
            at = at.relative_to(self.folder)
        return None if at is None else at.as_posix()


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
    _checks.known(
        table,
        ("study", "transformers", "pretrain", "task", "anchor", *_SECTIONS),
        what="section",
        where=where,
    )
    if "study" not in table:
        raise StudyError(f"{where}: the section [study] is missing. It should hold at least name and model.")
    parts: dict[str, Any] = {
        name: _checks.section(cls, table[name], where=f"{where}, [{name}]")
        for name, cls in {
            "transformers": TransformersSettings,
            "pretrain": PretrainSettings,
            **_SECTIONS,
        }.items()
        if name in table
    }
    if "transformers" in parts:
        parts = _of_folders(parts, table, folder)
    study = _checks.section(Study, table["study"], where=f"{where}, [study]", **parts)
    out = folder / (study.out if "out" in table["study"] else f"{study.name}-out")
    tasks = _tasks(table.get("task", []), folder, where)
    anchors = _anchors(table.get("anchor", []), len(tasks), folder, where)
    study = replace(study, folder=folder, out=out, tasks=tasks, anchors=anchors)
    check_kind(study, where)
    if not any(task.metric_weight for task in study.tasks):
        raise StudyError(
            f"{where}, [[task]]: metric_weight is 0 for every task. One at least should be positive."
        )
    trains = any(task.checkpoint is None for task in study.tasks)
    if trains and study.mixture.snapshots > study.finetune.steps:
        raise StudyError(
            f"{where}, [mixture]: snapshots should be at most the steps of [finetune], {study.finetune.steps}. "
            f"Found {study.mixture.snapshots}."
        )
    check_subsets(study, f"{where}, [mixture]")
    check_previews(study, f"{where}, [preview]")
    if study.recommend.method not in study.previews():
        if "method" in table.get("recommend", {}):
            raise StudyError(
                f"{where}, [recommend]: method should be one of those of [preview]: "
                f"{', '.join(study.previews())}. Found {study.recommend.method!r}."
            )
        study = replace(study, recommend=RecommendSettings(study.followed(study.previews())))
    return study


OF_FOLDERS: Mapping[str, Mapping[str, Any]] = {
    "preview": {"methods": ("simple", "squared_gradients", WARPED, ANCHORED)},
    "truth": {"steps": 0, "optimizer": "adamw"},
    "adamw": {"lr": 5e-5, "prior": 0.1},
}
"""Defaults that a study of transformers has instead: only what needs no training, and AdamW as the Trainer has it."""


def _of_folders(parts: dict[str, Any], table: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The sections of a study of transformers: paths are from its folder, and defaults are its own."""
    settings = parts["transformers"]
    paths = {k: folder / p for k in ("adapter", "tokenizer") if (p := getattr(settings, k)) is not None}
    parts = {**parts, "transformers": replace(settings, **paths)}
    for name, usual in OF_FOLDERS.items():
        given = table.get(name, {})
        own = {key: value for key, value in usual.items() if key not in given}
        parts[name] = replace(parts.get(name, _SECTIONS[name]()), **own)
    return parts


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


def _anchors(tables: object, T: int, folder: Path, where: str) -> tuple[AnchorSettings, ...]:
    if not isinstance(tables, list):
        raise StudyError(
            f"{where}: every anchor should be a section of its own, [[anchor]] in double brackets."
        )
    anchors: list[AnchorSettings] = []
    for i, table in enumerate(tables, start=1):
        here = f"{where}, [[anchor]] number {i}"
        anchor = _checks.section(AnchorSettings, table, where=here)
        try:
            alpha = simplex.check_alphas(anchor.alpha, T, where=here)
        except AlphaError as error:
            raise StudyError(str(error)) from error
        if alpha.max() == 1:
            raise StudyError(
                f"{here}: {simplex.show(alpha)} is a corner, where a task's own run is. Give it as checkpoint of that [[task]]."
            )
        if any(simplex.same(alpha, other.alpha) for other in anchors):
            raise StudyError(f"{here}: two anchors are trained at {simplex.show(alpha)}. Keep one.")
        anchors.append(replace(anchor, checkpoint=folder / anchor.checkpoint))
    return tuple(anchors)
