"""Merging LoRA folders: PEFT itself is the oracle, for the update of every module and for the model's outputs."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
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

from previa.io.adapter import merge_adapters

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # of peft and transformers

TASKS = ("de", "fr", "cs")
ALPHA = (0.5, 0.3, 0.2)
ULP = 1e-7  # one rounding to float32
EXACT = 1e-6  # float32 rounds B and A to 6e-8 of each entry, and PEFT multiplies in float32


def llama() -> nn.Module:
    size = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "max_position_embeddings": 16}
    return LlamaForCausalLM(
        LlamaConfig(**size, num_hidden_layers=2, num_attention_heads=2, bos_token_id=0, eos_token_id=1)
    )


def bert() -> nn.Module:
    size = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "max_position_embeddings": 16}
    return BertForSequenceClassification(
        BertConfig(**size, num_hidden_layers=1, num_attention_heads=2, num_labels=3)
    )


def gpt2() -> nn.Module:
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=32, n_embd=16, n_layer=1, n_head=2, n_positions=16, bos_token_id=0, eos_token_id=1
        )
    )


MODELS: Mapping[str, tuple[Callable[[], nn.Module], dict[str, object]]] = {
    "llama": (llama, {"target_modules": ["q_proj", "v_proj", "down_proj"], "task_type": "CAUSAL_LM"}),
    "bert": (bert, {"target_modules": ["query", "word_embeddings", "dense"], "task_type": "SEQ_CLS"}),
    "gpt2": (gpt2, {"target_modules": ["c_attn", "c_fc"], "task_type": "CAUSAL_LM", "fan_in_fan_out": True}),
}


class Study:
    """A base model and LoRA folders of three tasks that started from one initialisation."""

    def __init__(self, folder: Path, kind: str = "llama", **settings: object) -> None:
        self.folder = folder
        self.make, self.settings = MODELS[kind][0], {"r": 2, "lora_alpha": 6} | MODELS[kind][1] | settings
        torch.manual_seed(0)
        self.model = self.make().eval()
        self.tasks = {task: self.adapter(task, seed) for seed, task in enumerate(TASKS)}

    def adapter(self, name: str, seed: int, init: int = 0, **settings: object) -> Path:
        """A folder as after training: all that is trained has moved a little from where seed ``init`` began."""
        torch.manual_seed(init)
        peft = get_peft_model(copy.deepcopy(self.model), LoraConfig(**(self.settings | settings)))  # type: ignore[arg-type]
        draw = torch.Generator().manual_seed(100 + seed)
        with torch.no_grad():
            for parameter in peft.parameters():
                if parameter.requires_grad:
                    parameter += 0.05 * torch.randn(parameter.shape, generator=draw)
        peft.save_pretrained(str(self.folder / name))
        return self.folder / name

    def load(self, folder: Path) -> PeftModel:
        return PeftModel.from_pretrained(copy.deepcopy(self.model), str(folder)).eval()

    def deltas(self, folder: Path) -> dict[str, Tensor]:
        """module -> its update of the weight as PEFT computes it, float64."""
        found = self.load(folder).named_modules()
        return {
            name: layer.get_delta_weight("default").detach().double()
            for name, layer in found
            if isinstance(layer, LoraLayer)
        }

    def merge(self, alpha: tuple[float, ...] = ALPHA, **more: object) -> Path:
        out = self.folder / f"merged{len(list(self.folder.iterdir()))}"
        merge_adapters(self.tasks, [alpha], [out], **more)  # type: ignore[arg-type]
        return out

    def sum(self, alpha: tuple[float, ...] = ALPHA) -> dict[str, Tensor]:
        """The exact weighted sum of the tasks' updates."""
        each = [self.deltas(self.tasks[task]) for task in TASKS]
        return {
            name: sum(a * delta.get(name, 0.0) for a, delta in zip(alpha, each, strict=True))
            for name in {name for delta in each for name in delta}
        }


def assert_close(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float = EXACT) -> None:
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        largest = float(tensor.abs().max())
        torch.testing.assert_close(found[name].double(), tensor.double(), rtol=0, atol=tolerance * largest)


@pytest.mark.parametrize("kind", MODELS)
def test_the_product_is_the_exact_weighted_sum_of_updates(kind: str, tmp_path: Path) -> None:
    study = Study(tmp_path, kind)
    assert_close(study.deltas(study.merge(product=True)), study.sum())


@pytest.mark.parametrize("kind", MODELS)
def test_the_loaded_model_computes_with_the_summed_updates(kind: str, tmp_path: Path) -> None:
    study = Study(tmp_path, kind)
    out = study.merge(product=True)
    expected = study.load(out)
    plain = copy.deepcopy(study.model)
    names = dict(plain.named_modules())
    for name, delta in study.sum().items():
        names[name.removeprefix("base_model.model.")].weight.data += delta.float()
    for name, tensor in load_file(out / "adapter_model.safetensors").items():
        if "lora" not in name:
            plain.get_parameter(name.removeprefix("base_model.model.")).data.copy_(tensor)
    tokens = torch.arange(12).reshape(2, 6)
    torch.testing.assert_close(
        expected(input_ids=tokens).logits, plain(input_ids=tokens).logits, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("kind", MODELS)
def test_the_average_is_the_average_of_every_tensor(kind: str, tmp_path: Path) -> None:
    study = Study(tmp_path, kind)
    out = study.merge()
    each = [load_file(study.tasks[task] / "adapter_model.safetensors") for task in TASKS]
    expected = {name: sum(a * t[name].double() for a, t in zip(ALPHA, each, strict=True)) for name in each[0]}
    found = load_file(out / "adapter_model.safetensors")
    assert_close(found, expected, ULP)
    assert study.load(out).peft_config["default"].r == 2
