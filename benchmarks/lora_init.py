"""Rank-4 adapters of a real small Llama: are common initialisations told from independent ones, and which sum previews better?

Run: python benchmarks/lora_init.py [--steps 500] [--quick]
Data: stories260K (a Llama of 260,000 parameters) and Multi30k's English and French, in $PREVIA_DATA or ../shared/data.

1. Adapters of both languages from one initialisation, and from two: the cosine of their A's, and the error of averaged factors
   against the exact half-and-half sum of updates, |found - exact| / |exact| over all layers.
2. Adapters trained jointly, batches drawn from English with probability alpha, beside what previa makes of the two single
   ones: the loss of each language on text that no run saw, root mean square over both languages and three weightings.
"""

import argparse
import copy
import gzip
import os
import struct
import tempfile
import warnings
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from previa.io.adapter import merge_adapters
from previa.io.adapter_folder import open_adapter
from previa.io.adapter_match import common_initialisation

LENGTH, BATCH, RANK = 64, 4, 4
ALPHAS = (0.25, 0.5, 0.75)
WAYS = {
    "factors averaged": {},
    "product": {"product": True},
    f"product cut to rank {RANK}": {"product": True, "rank": RANK},
}


def data(name: str) -> Path:
    places = [
        Path(os.environ.get("PREVIA_DATA", "")),
        Path(__file__).parent.parent.parent / "shared" / "data",
    ]
    found = next((place / name for place in places if (place / name).exists()), None)
    if found is None:
        raise SystemExit(f"{name} is neither in $PREVIA_DATA nor in ../shared/data. Set PREVIA_DATA.")
    return found


def llama() -> LlamaForCausalLM:
    """stories260K, from the .bin format (version 0) of llama2.c."""
    raw = data("weights/stories260K/stories260K.bin").read_bytes()
    d, hidden, layers, heads, kv_heads, vocabulary, length = struct.unpack("7i", raw[:28])
    vector = torch.frombuffer(bytearray(raw[28:]), dtype=torch.float32)
    kv, place = d // heads * kv_heads, 0

    def take(*shape: int) -> Tensor:
        nonlocal place
        place += torch.Size(shape).numel()
        return vector[place - torch.Size(shape).numel() : place].view(shape)

    def rotary(w: Tensor, n: int) -> Tensor:  # pairs beside each other there, halves here
        return w.view(n, d // heads // 2, 2, d).transpose(1, 2).reshape(w.shape)

    embedding = take(vocabulary, d)
    parts = {
        "input_layernorm": take(layers, d),
        "self_attn.q_proj": take(layers, d, d),
        "self_attn.k_proj": take(layers, kv, d),
        "self_attn.v_proj": take(layers, kv, d),
        "self_attn.o_proj": take(layers, d, d),
        "post_attention_layernorm": take(layers, d),
        "mlp.gate_proj": take(layers, hidden, d),
        "mlp.down_proj": take(layers, d, hidden),
        "mlp.up_proj": take(layers, hidden, d),
    }
    state = {
        "model.embed_tokens.weight": embedding,
        "lm_head.weight": embedding,
        "model.norm.weight": take(d),
    }
    for name, stacked in parts.items():
        for layer, w in enumerate(stacked):
            turned = {"self_attn.q_proj": heads, "self_attn.k_proj": kv_heads}.get(name)
            state[f"model.layers.{layer}.{name}.weight"] = rotary(w, turned) if turned else w
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=d,
            intermediate_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            max_position_embeddings=length,
            rms_norm_eps=1e-5,
            tie_word_embeddings=True,
        )
    )
    model.load_state_dict(state)
    return model.eval()


def tokens(language: str) -> Tensor:
    """Multi30k's sentences in the model's tokens, the longest that fit."""
    raw, place, known = data("weights/stories260K/tok512.bin").read_bytes(), 4, {}
    while place < len(raw):
        _, size = struct.unpack("fi", raw[place : place + 8])
        known[raw[place + 8 : place + 8 + size].decode("utf-8", "replace")] = len(known)
        place += 8 + size
    text, found, at = (
        gzip.decompress(data(f"multi30k/train.{language}.gz").read_bytes()).decode()[:300_000],
        [],
        0,
    )
    while at < len(text):
        size = next((n for n in range(12, 0, -1) if text[at : at + n] in known), 0)
        found += [known[text[at : at + size]]] if size else [byte + 3 for byte in text[at].encode()]
        at += size or 1
    return torch.tensor(found)


class Study:
    def __init__(self, work: Path) -> None:
        self.work, self.base = work, llama()
        self.text = {language: tokens(language) for language in ("en", "fr")}
        self.rest = {language: text[-40 * LENGTH :].view(-1, LENGTH) for language, text in self.text.items()}

    def train(self, share: float, seed: int, lr: float, marks: tuple[int, ...]) -> dict[int, Path]:
        """steps -> folder, of an adapter that starts from ``seed`` and sees English with probability ``share``."""
        torch.manual_seed(seed)
        config = LoraConfig(
            r=RANK, lora_alpha=2 * RANK, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"
        )
        model = get_peft_model(copy.deepcopy(self.base), config)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)
        draw = torch.Generator().manual_seed(int(1000 * share) + 7)
        folders = {}
        for step in range(1, marks[-1] + 1):
            rows = []
            for english in torch.rand(BATCH, generator=draw) < share:
                text = self.text["en" if english else "fr"][: -40 * LENGTH]
                start = int(torch.randint(len(text) - LENGTH, (1,), generator=draw))
                rows.append(text[start : start + LENGTH])
            batch = torch.stack(rows)
            model(input_ids=batch, labels=batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if step in marks:
                folders[step] = self.work / f"{share}-{seed}-{lr}-{step}"
                model.save_pretrained(str(folders[step]))
        return folders

    @torch.no_grad()
    def losses(self, folder: Path) -> Tensor:
        """[2]: of English and French."""
        model = PeftModel.from_pretrained(copy.deepcopy(self.base), str(folder)).eval()
        return torch.tensor([float(model(input_ids=x, labels=x).loss) for x in self.rest.values()])


def average_error(one: Path, other: Path) -> float:
    """Of the halves of both factors, whatever their initialisation."""
    lost = whole = 0.0
    first, second = open_adapter(one), open_adapter(other)
    for module in first.pairs:
        p, q = first.product(module), second.product(module)
        exact = (p.B @ p.A + q.B @ q.A) / 2
        lost += float(((p.B + q.B) @ (p.A + q.A) / 4 - exact).square().sum())
        whole += float(exact.square().sum())
    return (lost / whole) ** 0.5


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="20 steps and one seed: only whether it runs")
    args = parser.parse_args()
    steps, seeds = (20, 1) if args.quick else (args.steps, args.seeds)
    marks = tuple(dict.fromkeys((10, min(100, steps), steps)))
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as work:
        study = Study(Path(work))
        previews: dict[tuple[float, str], list[float]] = {}
        print(
            "| learning rate | steps | one initialisation: cosine of A | two | error of averages: one | two |"
        )
        print("|---|---|---|---|---|---|")
        for lr in (3e-4, 3e-3, 3e-2):
            for seed in range(seeds if lr < 3e-2 else 1):
                en, fr = study.train(1.0, seed, lr, marks), study.train(0.0, seed, lr, marks)
                apart = study.train(0.0, seed + 100, lr, marks) if seed == 0 else {}
                for step in marks if apart else ():
                    cosines, errors = [], []
                    for other in (fr[step], apart[step]):
                        adapters = {"en": open_adapter(en[step]), "fr": open_adapter(other)}
                        cosines.append(f"{common_initialisation(adapters).cosine:.2f}")
                        errors.append(f"{average_error(en[step], other):.2f}")
                    print("|", " | ".join([f"{lr:g}", str(step), *cosines, *errors]), "|", flush=True)
                if lr < 3e-2:
                    truth = [study.losses(study.train(a, seed, lr, marks)[steps]) for a in ALPHAS]
                    for way, options in WAYS.items():
                        outs = [Path(work) / f"{way}-{lr}-{seed}-{a}" for a in ALPHAS]
                        rows = [(a, 1 - a) for a in ALPHAS]
                        merge_adapters({"en": en[steps], "fr": fr[steps]}, rows, outs, **options)
                        gap = torch.stack([study.losses(o) - t for o, t in zip(outs, truth, strict=True)])
                        previews.setdefault((lr, way), []).append(float(gap.square().mean().sqrt()))
                    spread = torch.stack(truth).std(0).mean()
                    previews.setdefault((lr, "(losses of the joint runs: standard deviation)"), []).append(
                        float(spread)
                    )
        print(
            f"\n| learning rate, {steps} steps | preview | error of the losses, nats a token, {seeds} seeds |\n|---|---|---|"
        )
        for (lr, way), found in previews.items():
            print(f"| {lr:g} | {way} | {', '.join(f'{value:.3f}' for value in found)} |")


if __name__ == "__main__":
    main()
