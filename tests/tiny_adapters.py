"""Tiny models with LoRA folders of three tasks, and PEFT as the oracle: what the tests of merging adapters share."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from previa.io.adapter import MergedAdapter, merge_adapters

TASKS = ("de", "fr", "cs")
ALPHA = (0.5, 0.3, 0.2)
ULP = 1e-7  # one rounding to float32
EXACT = 1e-6  # float32 rounds B and A, and PEFT multiplies in float32
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
SIZE = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "max_position_embeddings": 16}
ENDS = {"bos_token_id": 0, "eos_token_id": 1}


class Images(nn.Module):
    """Convolutions of 3 x 3 and of 1 x 1."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.narrow(self.wide(x).relu()).mean((2, 3))
        return found


def llama() -> nn.Module:
    return LlamaForCausalLM(LlamaConfig(**SIZE, num_hidden_layers=2, num_attention_heads=2, **ENDS))


def bert() -> nn.Module:
    return BertForSequenceClassification(
        BertConfig(**SIZE, num_hidden_layers=1, num_attention_heads=2, num_labels=3)
    )


def gpt2() -> nn.Module:
    return GPT2LMHeadModel(GPT2Config(vocab_size=32, n_embd=16, n_layer=1, n_head=2, n_positions=16, **ENDS))


MODELS: Mapping[str, tuple[Callable[[], nn.Module], dict[str, object]]] = {
    "llama": (llama, {"target_modules": ["q_proj", "v_proj", "down_proj"], "task_type": "CAUSAL_LM"}),
    "bert": (bert, {"target_modules": ["query", "word_embeddings", "dense"], "task_type": "SEQ_CLS"}),
    "gpt2": (gpt2, {"target_modules": ["c_attn", "c_fc"], "task_type": "CAUSAL_LM", "fan_in_fan_out": True}),
    "images": (Images, {"target_modules": ["wide", "narrow"]}),
}
INPUTS = {"images": torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))}
TOKENS = torch.arange(12).reshape(2, 6)


class Study:
    """A base model, the LoRA folder that training starts from, and a folder of each of three tasks."""

    def __init__(self, folder: Path, kind: str = "llama", **settings: object) -> None:
        self.folder, self.kind = folder, kind
        self.settings: dict[str, object] = {"r": 2, "lora_alpha": 6} | MODELS[kind][1] | settings
        torch.manual_seed(0)
        self.model = MODELS[kind][0]().eval()
        self.start = self.begin("start")
        self.tasks = {task: self.trained(task, seed) for seed, task in enumerate(TASKS)}

    def begin(self, name: str, seed: int = 0, **settings: object) -> Path:
        """A folder that PEFT saves before the first step, drawn from ``seed``."""
        torch.manual_seed(seed)
        config = LoraConfig(**(self.settings | settings))  # type: ignore[arg-type]
        get_peft_model(copy.deepcopy(self.model), config).save_pretrained(str(self.folder / name))
        return self.folder / name

    def trained(self, name: str, seed: int, start: Path | None = None, **settings: object) -> Path:
        """A folder as after training: every tensor of ``start`` has moved a little. settings: changed in its file."""
        start, folder, draw = start or self.start, self.folder / name, torch.Generator().manual_seed(seed)
        folder.mkdir()
        tensors = load_file(start / WEIGHTS)
        moved = {n: t + 0.05 * torch.randn(t.shape, generator=draw) for n, t in tensors.items()}
        save_file(moved, folder / WEIGHTS, {"format": "pt"})
        config = json.loads((start / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps(config | settings))
        return folder

    def load(self, folder: Path) -> PeftModel:
        return PeftModel.from_pretrained(copy.deepcopy(self.model), str(folder)).eval()

    def deltas(self, folder: Path) -> dict[str, Tensor]:
        """module -> its update of the weight as PEFT computes it, float64."""
        return {
            name.removeprefix("base_model.model."): layer.get_delta_weight("default").detach().double()
            for name, layer in self.load(folder).named_modules()
            if isinstance(layer, LoraLayer)
        }

    def sum(self, alpha: tuple[float, ...] = ALPHA) -> dict[str, Tensor]:
        """The exact weighted sum of the tasks' updates."""
        each = [self.deltas(path) for path in self.tasks.values()]
        names = dict.fromkeys(name for deltas in each for name in deltas)
        zero = torch.zeros(())
        return {n: sum(a * d.get(n, zero) for a, d in zip(alpha, each, strict=True)) + zero for n in names}

    def outputs(self, model: nn.Module) -> Tensor:
        if self.kind in INPUTS:
            found: Tensor = model(INPUTS[self.kind])
            return found
        logits: Tensor = model(input_ids=TOKENS).logits
        return logits

    def merged(self, alpha: tuple[float, ...] = ALPHA, **more: object) -> MergedAdapter:
        """The record of a merge of all tasks at ``alpha`` into a new folder."""
        out = self.folder / f"merged-{len(list(self.folder.iterdir()))}"
        return merge_adapters(self.tasks, [alpha], [out], **more)[0]  # type: ignore[arg-type]

    def merge(self, alpha: tuple[float, ...] = ALPHA, **more: object) -> Path:
        return Path(self.merged(alpha, **more).out)


def tensors(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / WEIGHTS)


def config(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / CONFIG).read_text())
    return found


def assert_close(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float) -> None:
    """Equal names, and entries that differ by at most ``tolerance`` of the tensor's largest one."""
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        allowed = tolerance * float(tensor.abs().max())
        torch.testing.assert_close(
            found[name].double(),
            tensor.double(),
            rtol=0,
            atol=allowed,
            msg=lambda text, n=name: f"{n}: {text}",
        )
