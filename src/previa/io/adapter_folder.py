"""A PEFT LoRA folder: its settings, its tensors by module, and the scaling s of each module's update s B A."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from torch import Tensor

from previa.core.low_rank import LowRank
from previa.core.params import Params
from previa.errors import FileError, InputError
from previa.io.checkpoint import Checkpoint, open_checkpoint

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."  # what PEFT puts before a module's own name
FACTOR = re.compile(r"(?P<module>.+)\.(?:lora_(?P<linear>[AB])\.weight|lora_embedding_(?P<embedded>[AB]))")
BIAS = ".lora_B.bias"
FACTORS = (".lora_A.weight", ".lora_B.weight", BIAS, ".lora_embedding_A", ".lora_embedding_B")
VARIANTS = {
    "use_dora": "DoRA rescales every row of the whole weight, m (W + s B A) / |W + s B A|, so that updates do not add up",
    "kasa_config": "KaSA changes the base weights and has a diagonal between its factors",
    "use_bdlora": "BD-LoRA's factors are blocks, which PEFT lays out in a way of its own",
    "use_qalora": "QALoRA applies A to pooled inputs",
    "arrow_config": "Arrow chooses among adapters for each token",
    "monteclora_config": "MonteCLoRA draws its factors at random",
}


@final
@dataclass(frozen=True)
class Pair:
    """Names of the tensors of one module's update s B A, and of the bias of B where it has one."""

    A: str
    B: str
    bias: str | None
    embedded: bool  # of an embedding, whose B is drawn and whose A starts at zero

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        return (self.A, self.B) if self.bias is None else (self.A, self.B, self.bias)


@final
@dataclass(frozen=True)
class Adapter:
    """An open LoRA folder, nothing of it read but settings and names.

    pairs: module -> its factors. dense: names of all other tensors (heads, biases, saved embeddings, trained tokens).
    """

    path: Path
    config: Mapping[str, Any]
    tensors: Checkpoint
    pairs: Mapping[str, Pair]
    dense: tuple[str, ...]

    def rank(self, module: str) -> int:
        """r, the rows of A."""
        return self.tensors.shape_of(self.pairs[module].A)[0]

    def shapes(self, module: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Those of A and B."""
        return self.tensors.shape_of(self.pairs[module].A), self.tensors.shape_of(self.pairs[module].B)

    def is_zero(self, module: str) -> bool:
        """Whether the update is zero: so it is where training begins."""
        pair = self.pairs[module]
        return not all(bool(self.tensors[name].any()) for name in (pair.A, pair.B))

    def scaling(self, module: str) -> float:
        """s = lora_alpha / r, or lora_alpha / sqrt(r) with use_rslora, by the patterns' first match, as PEFT does."""
        r = self._setting(module, "rank_pattern", "r")
        alpha = self._setting(module, "alpha_pattern", "lora_alpha")
        return alpha / (math.sqrt(r) if self.config.get("use_rslora") else r)

    def product(self, module: str) -> LowRank:
        """The update s B A of a module as factors [m, r] and [r, n], float64; kernels of convolutions lie in n.

        Raises InputError for a convolution in groups, which is no such product.
        """
        A, B = (self.tensors[name].double() for name in (self.pairs[module].A, self.pairs[module].B))
        if B.shape[1] != A.shape[0] or any(size != 1 for size in B.shape[2:]):
            raise InputError(
                f"{self.path}: module {module!r} has factors of shapes {tuple(B.shape)} and {tuple(A.shape)}, whose update is "
                "no product B A: a convolution in groups. Average A and B (without product)."
            )
        return LowRank(self.scaling(module) * B.flatten(1), A.flatten(1))

    def _setting(self, module: str, pattern: str, default: str) -> float:
        keys, module = self.config.get(pattern) or {}, settings_key(module)
        try:
            found = next((key for key in keys if re.match(rf"(.*\.)?({key})$", module)), module)
        except re.error as error:
            raise FileError(f"{self.path / CONFIG}: {pattern} is no regular expression ({error}).") from None
        value = keys.get(found, self.config.get(default, 8))  # 8 is PEFT's default
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise FileError(
                f"{self.path / CONFIG}: {default} of module {module!r} is {value!r}; expected a number above zero."
            )
        return value


def open_adapter(path: str | Path) -> Adapter:
    """The LoRA folder at ``path``, as PeftModel.save_pretrained writes it.

    Raises FileError where the folder, its settings or its weights are missing, damaged, a pickle or do not fit each other;
    InputError for other kinds of adapter, and for variants of LoRA whose updates do not add up.
    """
    path = Path(path)
    config = _config(path)
    kind = config.get("peft_type")
    if kind != "LORA":
        raise InputError(
            f"{path / CONFIG}: peft_type is {kind!r}; expected 'LORA', whose updates are s B A. {UNLOAD}"
        )
    for key, why in VARIANTS.items():
        if config.get(key):
            raise InputError(f"{path / CONFIG}: {key} is set; {why}. {UNLOAD}")
    tensors = _weights(path)
    pairs = _pairs(path, tensors)
    taken = {name for pair in pairs.values() for name in pair.names}
    dense = tuple(name for name in tensors if name not in taken)
    odd = [name for name in dense if ".lora_" in name]
    if odd:
        raise InputError(
            f"{path}: tensor {odd[0]!r} belongs to a variant of LoRA that previa does not know. {UNLOAD}"
        )
    adapter = Adapter(path, config, tensors, pairs, dense)
    for module in pairs if not config.get("target_parameters") else ():
        r = adapter._setting(module, "rank_pattern", "r")
        if r != adapter.rank(module):
            raise FileError(
                f"{path}: {CONFIG} says r = {r:g} for module {module!r}, but its A has {adapter.rank(module)} rows. Settings and "
                "weights come from different runs: copy the folder again."
            )
    return adapter


def settings_key(module: str) -> str:
    """The name by which settings know a module: of a part that PEFT wrapped inside another, that one's."""
    return module.split(".base_layer")[0]


UNLOAD = "Put each task's adapter into its model (PeftModel.merge_and_unload), save these models, and merge the checkpoints."


def weights_file(adapter: Adapter) -> Path:
    """The file of its tensors."""
    return adapter.path / WEIGHTS


def saved_names(params: Params, adapter: str = "default") -> dict[str, Tensor]:
    """``params`` of a live PeftModel under the names that save_pretrained gives them, without the adapter's name.

    For posteriors of the model's named_parameters: a posterior file must have the names of adapter_model.safetensors.
    """
    return {
        re.sub(
            rf"\.{re.escape(adapter)}(?=\.|$)", "", name.replace(f".modules_to_save.{adapter}.", ".")
        ): tensor
        for name, tensor in params.items()
    }


def _config(folder: Path) -> dict[str, Any]:
    file = folder / CONFIG
    try:
        config = json.loads(file.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise FileError(
            f"{folder}: there is no {CONFIG}; expected a folder that PeftModel.save_pretrained wrote. Check the path."
        ) from None
    except OSError as error:
        raise FileError(f"{file}: cannot be read ({error.strerror}). Check its permissions.") from error
    except ValueError as error:
        raise FileError(f"{file}: not JSON ({error}). Copy or save the adapter again.") from error
    if not isinstance(config, dict):
        raise FileError(
            f"{file}: holds {type(config).__name__}; expected the settings of an adapter. Copy it again."
        )
    return config


def _weights(folder: Path) -> Checkpoint:
    if not (folder / WEIGHTS).exists() and (folder / "adapter_model.bin").exists():
        raise FileError(
            f"{folder}: its weights are a pickle (adapter_model.bin), which can run code when it is read; expected {WEIGHTS}. "
            f'If you trust it, convert it once: previa.io.save_checkpoint("{WEIGHTS}", torch.load("adapter_model.bin", '
            'map_location="cpu", weights_only=True)).'
        )
    return open_checkpoint(folder / WEIGHTS, finite=True)


def _pairs(folder: Path, tensors: Checkpoint) -> dict[str, Pair]:
    """module -> its factors, in the file's order."""
    factors: dict[str, dict[str, str]] = {}
    embedded = set()
    for name in tensors:
        match = FACTOR.fullmatch(name)
        if match:
            factors.setdefault(match["module"], {})[match["linear"] or match["embedded"]] = name
            if match["embedded"]:
                embedded.add(match["module"])
    for module, found in factors.items():
        if len(found) < 2:
            raise FileError(
                f"{folder}: module {module!r} has only {found.popitem()[1]!r}; expected A and B. Copy it again."
            )
    if not factors:
        raise FileError(
            f"{folder}: {WEIGHTS} holds no factors lora_A and lora_B. Is it the folder that training wrote?"
        )
    return {
        module.removeprefix(PREFIX): Pair(
            found["A"], found["B"], module + BIAS if module + BIAS in tensors else None, module in embedded
        )
        for module, found in factors.items()
    }
