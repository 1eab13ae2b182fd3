"""Figure 4's parts: own classes only, frozen heads, CLIP's way to both at a tiny size, and the whole at the tiny scale."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parent.parent


@pytest.fixture
def module(monkeypatch):
    """module(name) -> a script of experiments/, imported as they import each other."""
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    return importlib.import_module


class Flatten(torch.nn.Module):
    def forward(self, pixels):
        return pixels.float().flatten(1) / 255


def test_a_picture_is_judged_among_its_own_tasks_classes_only(module):
    vit = module("_vit")
    owner = torch.tensor([0, 0, 1, 1, 1])
    bias = torch.tensor([0.0, 1.0, 50.0, 0.0, 0.0])  # a class of the other task is far ahead
    model = vit.Tagger(Flatten(), torch.zeros(5, 12), bias, owner)
    x, y = torch.zeros(2, 3, 2, 2, dtype=torch.uint8), torch.tensor([1, 2])
    alone = [
        torch.nn.functional.cross_entropy(bias[owner == t], torch.tensor([k])) for t, k in ((0, 1), (1, 0))
    ]
    assert torch.allclose(vit.loss(model, (x, y)), torch.stack(alone), atol=1e-6)
    assert vit.score({"a": (x[:1], y[:1]), "b": (x[1:], y[1:])}, "cpu", model) == {
        "a": torch.ones(1),
        "b": torch.ones(1),
    }


def test_heads_are_neither_trained_nor_merged(module):
    vit = module("_vit")
    s = vit.Settings("vit", 1, 1, 1, 1e-3, 10, 10, 2, width=32, layers=1, synthetic=True)
    model = vit.Tagger(vit.encoder(s, 0), torch.zeros(5, 32), torch.zeros(5), torch.zeros(5))
    names = set(dict(model.named_parameters()))
    assert names
    assert all(name.startswith("encoder.") for name in names)


def test_a_probe_finds_classes_that_features_tell_apart(module):
    x = torch.randint(0, 256, (60, 3, 2, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0, 0, 0] > 127).long()
    W, b = module("_vit").probe(Flatten(), (x, y))
    right = ((x.float().flatten(1) / 255) @ W.T + b).argmax(1) == y
    assert right.float().mean() > 0.9


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A tiny CLIP's folder."""
    from transformers import CLIPConfig, CLIPModel

    common = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**common, "vocab_size": 99, "max_position_embeddings": 12, "eos_token_id": 98, "bos_token_id": 97},
        vision_config={**common, "image_size": 32, "patch_size": 16},
        projection_dim=8,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    return folder


def tokens(texts):
    """Letters as tokens, cut to nine, an end behind them."""
    rows = torch.tensor([[ord(c) % 90 for c in f"{t:9.9}"] + [98] for t in texts])
    return {"input_ids": rows, "attention_mask": torch.ones_like(rows)}


def test_zero_shot_logits_are_those_of_clip_itself(module, clip):
    """With one prompt a class; with several, the row keeps the length of the logit scale."""
    from transformers import CLIPModel

    part, model = module("_vit_clip"), CLIPModel.from_pretrained(clip).eval()
    names = ["a cat", "dogs", "vans"]
    weight, bias = part.zero_shot(model, tokens, names, ["{} here"])
    x = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    own = module("_vit").Tagger(part.image_encoder(str(clip)).eval(), weight, bias, torch.zeros(3))
    with torch.no_grad():
        theirs = model(
            pixel_values=own.encoder.normal(x), **tokens([f"{name} here" for name in names])
        ).logits_per_image
        assert torch.allclose(own(x), theirs, atol=1e-4)
    weight, _ = part.zero_shot(model, tokens, names, ["{} here", "no {}"])
    assert torch.allclose(weight.norm(dim=1), model.logit_scale.exp().expand(3), rtol=1e-5)


def test_squared_gradients_of_clips_image_side_are_the_loops(module, clip):
    from previa import Given, squared_gradients

    vit = module("_vit")
    model = vit.Tagger(
        module("_vit_clip").image_encoder(str(clip)).eval(), torch.eye(8), torch.zeros(8), torch.tensor([0] * 4 + [1] * 4)
    )  # fmt: skip
    x = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([0, 2, 5, 7])
    found = squared_gradients(model, vit.split((x, y), 2), Given(vit.loss)).mean
    loop = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for i in range(4):
        model.zero_grad()
        vit.loss(model, (x[i : i + 1], y[i : i + 1])).sum().backward()
        for name, p in model.named_parameters():
            loop[name] += p.grad**2 / 4
    for name, values in loop.items():
        assert torch.allclose(found[name], values, rtol=1e-3, atol=1e-9), name


def test_pictures_are_cut_to_the_middle_of_any_shape(module):
    middle = module("_vit_clip").middle
    wide = np.zeros((40, 120, 3), dtype=np.uint8)
    wide[:, 35:85] = 200
    assert middle(Image.fromarray(wide), 20).min() >= 190
    assert middle(Image.new("L", (30, 50)), 20).shape == (3, 20, 20)


def test_every_sign_has_a_name_of_its_own(module):
    part = module("_vit_clip")
    assert len(set(part.SIGNS)) == 43
    assert set(part.HUB) == set(part.PROMPTS)
    assert set(part.HUB) == {t for tasks in module("fig4_vit").STUDIES["paper"].values() for t in tasks}


@pytest.mark.slow
def test_the_tiny_scale_needs_no_data(tmp_path):
    made = subprocess.run(
        [sys.executable, str(ROOT / "experiments" / "fig4_vit.py"), "--scale", "tiny", "--workers", "1",
         "--out", str(tmp_path / "out"), "--docs", str(tmp_path / "docs")],
        capture_output=True, text=True, cwd=ROOT, timeout=300,
        env={**os.environ, "PREVIA_DATA": str(tmp_path), "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert made.returncode == 0, made.stdout + made.stderr
    facts = json.loads((tmp_path / "docs" / "fig4_resisc12_gtsrb_eurosat-tiny.json").read_text())
    assert facts["roles"] == {"simple": "simple", "hessian": "squared_gradients"}
    assert facts["truth"]["worst_score"] < 1
    assert all(q["failed"] == 0 for q in facts["methods"].values())
