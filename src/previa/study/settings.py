"""The sections of a study file as frozen dataclasses: every key, its check and its default."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from previa.study import _checks
from previa.study._checks import key, number, one_of, path, reference, text, whole

METHODS = ("simple", "task_arithmetic", "ivon_hessian", "squared_gradients", "regmean", "mixture")
"""The families of posteriors that are merged."""
WARPED, ANCHORED = "warped", "anchored"
SHARPENED = (
    *(f"{family}_{WARPED}" for family in METHODS), WARPED, *(f"{family}_{ANCHORED}" for family in METHODS), ANCHORED
)  # fmt: skip
"""Previews on top of families, in the order in which they come: FAMILY_warped of one family, warped of the best one."""
CENTRE = "centre"

TASK_TYPES = ("sequence-classification", "causal-lm", "seq2seq", "image-classification")


@dataclass(frozen=True)
class TaskSettings:
    """One [[task]]: data() -> (train, test); with a checkpoint of its own nothing is trained for it.

    In a study of transformers train and test may name rows instead: files, folders of datasets, hub names, module:function;
    columns: role -> column; config and the splits are those of a data set that has several;
    score: instead of the study's.
    """

    name: str = key(_checks.label)
    data: str | None = key(reference, None)
    checkpoint: Path | None = field(default=None, metadata={"check": path})
    posterior: Path | None = field(default=None, metadata={"check": path})
    metric_weight: float = key(number(least=0), 1.0)
    train: str | None = key(text, None)
    test: str | None = key(text, None)
    columns: Mapping[str, str] | None = key(_checks.words, None)
    config: str | None = key(text, None)
    train_split: str = key(text, "train")
    test_split: str = key(text, "test")
    score: str | None = key(text, None)


def _weights(value: object) -> tuple[float, ...]:
    if not isinstance(value, list | tuple):
        raise _checks.WrongValueError("a list of weights, one a task, such as [0.5, 0.5, 0]")
    return tuple(number(least=0)(weight) for weight in value)


@dataclass(frozen=True)
class AnchorSettings:
    """One [[anchor]]: a joint run of one's own, the weighting it was trained at (in the tasks' order) and its checkpoint."""

    checkpoint: Path = field(metadata={"check": path})
    alpha: tuple[float, ...] = key(_weights)


@dataclass(frozen=True)
class TransformersSettings:
    """[transformers]: the study's model is a folder of transformers, or an adapter of PEFT on it, and data are rows.

    heads: beginnings of the names of parameters that are not shared: each task is scored with its checkpoint's. frozen:
    patterns of names that are neither trained nor merged. test_items: a fixed subset, drawn by the seed.
    """

    task_type: str = key(_checks.either(one_of(*TASK_TYPES), reference))
    adapter: Path | None = field(default=None, metadata={"check": path})
    heads: tuple[str, ...] = key(_checks.texts, ())
    frozen: tuple[str, ...] = key(_checks.texts, ())
    tokenizer: Path | None = field(default=None, metadata={"check": path})
    max_length: int | None = key(whole(1), None)
    max_new_tokens: int = key(whole(1), 64)
    test_items: int | None = key(whole(2), None)
    dtype: str = key(one_of("fp32", "bf16"), "fp32")
    device: str = key(text, "cpu")


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
    """[preview]: the grid's steps, and the methods that preview it.

    power: "loss": the power p of warped weights, and the family, are those with the least joint loss; a number is p itself.
    loss_examples: so many training examples of each task that loss is measured on.
    """

    steps: int = key(whole(1), 20)
    methods: tuple[str, ...] = key(
        _checks.several_of(*METHODS, CENTRE, *SHARPENED), (*METHODS, WARPED, ANCHORED)
    )
    power: float | str = key(_checks.either(one_of("loss"), number(above=0)), "loss")
    loss_examples: int = key(whole(1), 256)


@dataclass(frozen=True)
class TruthSettings:
    """[truth]: the steps of the grid of joint runs, 0: none; by IVON as [finetune] says, or by AdamW as [adamw] does."""

    steps: int = key(whole(0), 10)
    optimizer: str = key(one_of("ivon", "adamw"), "ivon")


@dataclass(frozen=True)
class RecommendSettings:
    """[recommend]: the method whose preview the recommendation follows, one of Study.previews(); by default the last of them."""

    method: str = key(_checks.label, ANCHORED)
