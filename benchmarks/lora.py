"""Merged LoRA updates against the exact weighted sum of B A: previa's three ways beside PEFT's `linear`, `svd` and `cat`.

Run: python benchmarks/lora.py
Three rank-4 adapters of a small Llama: with random factors (nothing in common), and trained from one initialisation.
Then the time of a cut to rank 16, for one layer of 2048 x 2048: previa's with its files, PEFT's in memory.
"""

import logging
import tempfile
import time
import warnings
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from previa.errors import InputError
from previa.io.adapter import merge_adapters

TASKS = ("de", "fr", "it")
ALPHA = (0.5, 0.3, 0.2)
RANK, STEPS, LR = 4, 30, 3e-3


def base() -> LlamaForCausalLM:
    torch.manual_seed(0)
    shape = {"hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=128, max_position_embeddings=64, **shape))


def adapter(t: int, trained: bool) -> PeftModel:
    """Task t's adapter: trained from the same first factors as the others on its own sequences, or all factors random."""
    model = base()
    torch.manual_seed(1)
    config = LoraConfig(r=RANK, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    found = get_peft_model(model, config)
    factors = [p for p in found.parameters() if p.requires_grad]
    draw = torch.Generator().manual_seed(10 + t)
    if not trained:
        for p in factors:
            p.data = torch.randn(p.shape, generator=draw) / p.shape[-1] ** 0.5
        return found
    optimizer = torch.optim.AdamW(factors, lr=LR)
    for _ in range(STEPS):
        start = torch.randint(0, 128, (16, 1), generator=draw)
        tokens = (start + torch.arange(24) * (t + 2)) % 128  # task t counts by t + 2
        found(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return found


def deltas(model: PeftModel, name: str) -> dict[str, torch.Tensor]:
    """scaling B A of every layer, float64."""
    found = {}
    for layer, module in model.named_modules():
        if hasattr(module, "lora_A") and name in module.lora_A:
            A, B = module.lora_A[name].weight, module.lora_B[name].weight
            found[layer] = module.scaling[name] * B.detach().double() @ A.detach().double()
    return found


def error(found: dict[str, torch.Tensor], exact: dict[str, torch.Tensor]) -> float:
    """|found - exact| / |exact| over all layers."""
    gap = sum(float((found[name] - exact[name]).square().sum()) for name in exact)
    return (gap / sum(float(part.square().sum()) for part in exact.values())) ** 0.5


def row(trained: bool, work: Path) -> dict[str, str]:
    folders, own = {}, []
    for t, task in enumerate(TASKS):
        model = adapter(t, trained)
        own.append(deltas(model, "default"))
        folders[task] = work / f"{task}-{trained}"
        model.save_pretrained(folders[task])
    exact = {name: sum(a * d[name] for a, d in zip(ALPHA, own, strict=True)) for name in own[0]}
    ways = {
        "previa, product": {"product": True},
        f"previa, product cut to rank {RANK}": {"product": True, "rank": RANK},
        "previa, factors averaged": {},
    }
    found = {}
    for name, options in ways.items():
        out = work / f"{name}-{trained}"
        try:
            merge_adapters(folders, [ALPHA], [out], **options)
        except InputError:
            found[name] = "refused"
            continue
        found[name] = f"{error(deltas(PeftModel.from_pretrained(base(), out), 'default'), exact):.2g}"
    for way in ("cat", "svd", "linear"):
        model = PeftModel.from_pretrained(base(), folders[TASKS[0]], adapter_name=TASKS[0])
        for task in TASKS[1:]:
            model.load_adapter(folders[task], adapter_name=task)
        extra = {"svd_rank": RANK} if way == "svd" else {}
        model.add_weighted_adapter(list(TASKS), list(ALPHA), "merged", combination_type=way, **extra)
        found[f"PEFT, {way}"] = f"{error(deltas(model, 'merged'), exact):.2g}"
    return found


def seconds(work: Path) -> dict[str, float]:
    """Of three rank-16 adapters of one large layer cut to rank 16, the better of two interleaved rounds."""
    layer = torch.nn.Sequential(torch.nn.Linear(2048, 2048))
    config = LoraConfig(r=16, target_modules=["0"], init_lora_weights=False)
    folders = {task: work / f"wide-{task}" for task in TASKS}
    model = get_peft_model(layer, config, adapter_name=TASKS[0])
    for task in TASKS[1:]:
        model.add_adapter(task, config)
    for task in TASKS:
        model.save_pretrained(work / "wide", selected_adapters=[task])
        (work / "wide" / task).rename(folders[task])
    found: dict[str, list[float]] = {"previa": [], "PEFT, svd": []}
    for number in range(2):
        start = time.perf_counter()
        merge_adapters(folders, [ALPHA], [work / f"wide-{number}"], product=True, rank=16)
        found["previa"].append(time.perf_counter() - start)
        start = time.perf_counter()
        model.add_weighted_adapter(list(TASKS), list(ALPHA), f"{number}", combination_type="svd", svd_rank=16)
        found["PEFT, svd"].append(time.perf_counter() - start)
    return {name: min(times) for name, times in found.items()}


def main() -> None:
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as work:
        trained, random = (row(kind, Path(work)) for kind in (True, False))
        times = seconds(Path(work))
    print("| way | adapters of one initialisation | random adapters |\n|---|---|---|")
    for name in trained:
        print(f"| {name} | {trained[name]} | {random[name]} |")
    print(
        "\nrank 16, one layer of 2048 x 2048: " + ", ".join(f"{name} {s:.2f} s" for name, s in times.items())
    )
    print(f"previa takes {times['previa'] / times['PEFT, svd']:.3f}x")


if __name__ == "__main__":
    main()
