"""Do LoRA folders fit each other: settings, modules, ranks, scalings, and the initialisation that averaging rests on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch

from previa.core.params import Layout
from previa.errors import InputError, ParamsError
from previa.io.adapter_folder import CONFIG, Adapter

TRAINING = {  # what only training reads, and what PEFT notes of itself
    *("lora_dropout", "inference_mode", "peft_version", "runtime_config", "auto_mapping", "megatron_core"),
    *("eva_config", "loftq_config", "corda_config", "lora_ga_config", "velora_config", "qalora_group_size"),
}
MEASURED = {  # what names, shapes and scalings of the tensors say better
    *("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "init_lora_weights"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
}
KNOWN_OR_NOT = {"base_model_name_or_path", "revision", "task_type"}  # null where PEFT was not told
REMEDIES = {
    "base_model_name_or_path": "Adapters of different models have no common sum. If both names mean one model, write one of "
    f"them into both {CONFIG}.",
    "revision": f"If both mean one state of the base model, write one of them into both {CONFIG}.",
    "modules_to_save": "Each task's head must be trained by all of them or by none.",
    "fan_in_fan_out": "One of the base models stores its weights transposed: are they one model?",
}
CHANGES_BASE = (
    "pissa",
    "olora",
    "corda",
    "loftq",
    "lora_ga",
)  # initialisations that also change the base weights

# Cosines between the A's of tasks, over all modules. Measured in docs/adapters.md: independent initialisations lie within
# a few standard deviations of zero, 1/sqrt(entries), whatever was trained; a common one loses its share only to training.
UNLIKELY, LIKELY = 0.1, 0.5


@final
@dataclass(frozen=True)
class Initialisation:
    """Whether the tasks' adapters started from one initialisation: "likely", "unlikely" or "unknown", and by what."""

    verdict: str
    cosine: float | None  # the smallest between two tasks
    pair: tuple[str, str] | None

    @property
    def sentence(self) -> str:
        """For a person."""
        if self.cosine is None or self.pair is None:
            return f"common initialisation: {self.verdict}"
        one, other = self.pair
        return (
            f"common initialisation: {self.verdict} (the initialised factors of {one} and {other} have a cosine of "
            f"{self.cosine:.2f}; 1 is common, 0 is independent)"
        )


def common_initialisation(adapters: Mapping[str, Adapter]) -> Initialisation:
    """Did these adapters, of equal names and shapes, start from one initialisation?

    Training starts from a random A and B = 0 (in embeddings from a random B and A = 0), and moves A little. The verdict is by
    the smallest cosine, over all modules, of two adapters' initialised factors: below 0.1 "unlikely", above 0.5 "likely",
    between them, with one adapter, or where a factor is zero, "unknown".
    """
    first = next(iter(adapters.values()))
    mica = first.config.get("init_lora_weights") == "mica"  # draws B, and starts from A = 0
    names = [pair.B if pair.embedded or mica else pair.A for pair in first.pairs.values()]
    gram = torch.zeros(len(adapters), len(adapters), dtype=torch.float64)
    for name in names:
        rows = torch.stack([adapter.tensors[name].double().flatten() for adapter in adapters.values()])
        gram += rows @ rows.T
    norms = gram.diagonal().sqrt()
    if len(adapters) < 2 or not bool((norms > 0).all()):
        return Initialisation("unknown", None, None)
    cosines = gram / torch.outer(norms, norms)
    cosines.fill_diagonal_(torch.inf)
    low = int(cosines.argmin())
    cosine, tasks = float(cosines.flatten()[low]), list(adapters)
    verdict = "unlikely" if cosine < UNLIKELY else "likely" if cosine > LIKELY else "unknown"
    return Initialisation(verdict, cosine, (tasks[low // len(tasks)], tasks[low % len(tasks)]))


def check_settings(adapters: Mapping[str, Adapter]) -> None:
    """Raise InputError, naming task and setting, where settings that a merged adapter inherits differ."""
    first, one = next(iter(adapters.items()))
    for task, other in adapters.items():
        for key in dict.fromkeys([*one.config, *other.config]):
            if key in TRAINING | MEASURED:
                continue
            found, expected = _plain(other.config.get(key)), _plain(one.config.get(key))
            if key in KNOWN_OR_NOT and None in (found, expected):
                continue
            if found != expected:
                raise InputError(
                    f"{task}: {CONFIG} says {key} = {other.config.get(key)!r}, but that of {first} says "
                    f"{one.config.get(key)!r}. {REMEDIES.get(key, 'All tasks must be trained with one setting.')}"
                )
        mutated = {task: str(a.config.get("init_lora_weights")) for task, a in ((first, one), (task, other))}
        if len(set(mutated.values())) > 1 and any(init.startswith(CHANGES_BASE) for init in mutated.values()):
            raise InputError(
                f"{task}: init_lora_weights is {mutated[task]!r}, but that of {first} is {mutated[first]!r}. Such "
                "initialisations change the base weights, so that the adapters belong to different models. "
                + CONVERT
            )


CONVERT = (
    "Convert them to plain LoRA by PEFT's save_pretrained(path_initial_model_for_weight_conversion=...)."
)


def check_same_factors(adapters: Mapping[str, Adapter]) -> None:
    """Raise ParamsError or InputError unless modules, ranks, scalings and all shapes agree: what averaging A and B needs."""
    first, one = next(iter(adapters.items()))
    for task, other in adapters.items():
        odd = [
            module
            for module in (*one.pairs, *other.pairs)
            if (module in one.pairs) != (module in other.pairs)
        ]
        if odd:
            has, lacks = (first, task) if odd[0] in one.pairs else (task, first)
            raise ParamsError(
                f"{lacks}: no adapter on module {odd[0]!r}, which {has} has{_more(odd)}; "
                f"target_modules: {first} {_shown(one)}, {task} {_shown(other)}. {PRODUCT}"
            )
        for module in one.pairs:
            ranks, scales = (
                [a.rank(module) for a in (other, one)],
                [a.scaling(module) for a in (other, one)],
            )
            if ranks[0] != ranks[1]:
                raise ParamsError(
                    f"{task}: module {module!r} has rank {ranks[0]}, but that of {first} has rank {ranks[1]}. "
                    f"{PRODUCT}"
                )
            if scales[0] != scales[1]:
                raise InputError(
                    f"{task}: the update of module {module!r} is {scales[0]:g} B A, but that of {first} is "
                    f"{scales[1]:g} B A (lora_alpha, r, use_rslora and their patterns). {PRODUCT}"
                )
        _check_shapes(_shapes(other, other.tensors), _shapes(one, one.tensors), task, f"those of {first}")


PRODUCT = "A and B can be averaged only where these agree; merge the products B A instead (product=True, --product)."


def check_products(adapters: Mapping[str, Adapter]) -> None:
    """Raise InputError or ParamsError where products B A cannot be summed, or the sum not be stored as an adapter."""
    first, one = next(iter(adapters.items()))
    for task, other in adapters.items():
        where = task
        init = str(other.config.get("init_lora_weights"))
        if init.startswith(CHANGES_BASE):
            raise InputError(
                f"{where}: init_lora_weights is {init!r}, which changes the base weights by an amount that depends on the rank, "
                f"and a sum of products has another rank. {CONVERT}"
            )
        for key, why in {
            "target_parameters": "the experts' factors lie interleaved in one tensor",
            "ensure_weight_tying": "a tied adapter's factors are used both ways round",
        }.items():
            if other.config.get(key):
                raise InputError(
                    f"{where}: {key} is set; {why}, so that products are not summed. Average A and B instead."
                )
        _check_shapes(_shapes(other, other.dense), _shapes(one, one.dense), where, f"those of {first}")
        for module in (m for m in one.pairs if m in other.pairs):
            outer = [
                (a.tensors.shape_of(a.pairs[module].A)[1:], a.tensors.shape_of(a.pairs[module].B)[:1])
                for a in (other, one)
            ]
            if outer[0] != outer[1] or one.pairs[module].embedded != other.pairs[module].embedded:
                raise ParamsError(
                    f"{where}: the update of module {module!r} is {outer[0][1] + outer[0][0]}, but that of {first} is "
                    f"{outer[1][1] + outer[1][0]}. All tasks must come from one base model; was a token added for one of them?"
                )


Shapes = Mapping[str, tuple[int, ...]]


def _shapes(adapter: Adapter, names: Iterable[str]) -> Shapes:
    return {name: adapter.tensors.shape_of(name) for name in names}


def _check_shapes(found: Shapes, expected: Shapes, where: str, other: str) -> None:
    """Raise ParamsError naming the tensor and both shapes; tensors without data stand for the files'."""
    meta = {name: torch.empty(shape, device="meta") for name, shape in found.items()}
    Layout(tuple(expected.items())).check(meta, where, other)


def _plain(value: Any) -> Any:
    """A setting as it counts: absent, null, false and empty are one; the order of a list is none."""
    if isinstance(value, list):
        return frozenset(map(str, value)) or None
    return value or None


def _more(names: Sequence[str]) -> str:
    return f" (and {len(names) - 1} more such modules)" if len(names) > 1 else ""


def _shown(adapter: Adapter) -> str:
    value = adapter.config.get("target_modules")
    return str(sorted(value) if isinstance(value, list) else value)
