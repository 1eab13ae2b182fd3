"""Figures 7 and 10: the language model, its LoRA runs, and its scores, for worker processes."""

import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _translation_text import TASKS, Row, Settings, collate, sentences, tokenised, train_tokenizer
from _workers import here
from torch import Tensor
from torch.nn import Module
from torch.nn.functional import cross_entropy

from previa import (  # fmt: skip
    AdamWRecipe,
    Diagonal,
    Flat,
    Given,
    IvonRecipe,
    Provenance,
    Recipe,
    load_posterior,
    save_checkpoint,
    save_posterior,
    squared_gradients,
)
from previa.run.accelerate_loop import Trained, accelerator_of, finetune_accelerated
from previa.run.accelerate_step import Loop
from previa.run.generation import bleu_items
from previa.run.joint_data import Mixture
from previa.run.live import trainable
from previa.run.tokens import IGNORED

JOINT_SEED = 999  # unlike any task run's, whose order and noise the truth should not share


@dataclass(frozen=True)
class Bench:
    """What a process needs to train and to score; models and runs are in ``out``."""

    settings: Settings
    out: Path
    device: str
    seed: int

    @property
    def base(self) -> str | Path:
        """Where the model that is adapted comes from."""
        return self.settings.model or self.out / "base"

    def model(self, rank: int | None = None) -> Module:
        """The base with LoRA factors at their start, A drawn from the seed, B zero; all else is frozen."""
        s = self.settings
        with quiet():
            from peft import LoraConfig, get_peft_model
            from transformers import AutoModelForCausalLM

            dtype = torch.float32 if self.device == "cpu" else torch.bfloat16
            found = AutoModelForCausalLM.from_pretrained(self.base, dtype=dtype)
            rank = rank or s.rank
            config = LoraConfig(
                r=rank, lora_alpha=2 * rank, target_modules=list(s.targets), task_type="CAUSAL_LM"
            )
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                return get_peft_model(found, config).to(self.device)

    def file(self, kind: str, name: str) -> Path:
        """Where a run by this optimizer, its parameters or posterior, or what was measured there, is."""
        return self.out / "runs" / f"{kind}-{name}.safetensors"

    def posterior(self, task: str) -> Diagonal:
        """IVON's, of a task's own run."""
        found, _ = load_posterior(self.file("ivon", task))
        assert isinstance(found, Diagonal)
        return found


@contextmanager
def quiet() -> Iterator[None]:
    """Without progress bars of transformers, and warnings from within it and peft."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@cache
def tokenizer(bench: Bench) -> Any:
    """The model's own."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(bench.base)


@cache
def rows(bench: Bench, task: str) -> tuple[list[Row], list[Row]]:
    """(training, test) of a task."""
    _, train, test = sentences(bench.settings)[task]
    reader = tokenizer(bench)
    return tuple(tokenised(bench.settings, reader, task, pairs) for pairs in (train, test))


def loss(model: Module, batch: dict[str, Tensor]) -> Tensor:
    """-log p(translation | prompt) of each example, a token; logits of what every prompt covers are left out."""
    T, supervised = batch["labels"].shape[1], batch["labels"] != IGNORED
    first = int(supervised.int().argmax(1).min())
    logits = model(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False, logits_to_keep=T - first + 1
    ).logits.float()  # fmt: skip
    each = cross_entropy(
        logits[:, :-1].transpose(1, 2), batch["labels"][:, first:], reduction="none", ignore_index=IGNORED
    )
    return each.sum(1) / supervised.sum(1)


def pretrain(bench: Bench) -> float:
    """The base: a short training from English to both languages, and a little of the tasks; its folder, and its seconds."""
    from transformers import LlamaConfig, LlamaForCausalLM

    s, started = bench.settings, time.perf_counter()
    reader = train_tokenizer(s)
    config = LlamaConfig(
        vocab_size=len(reader), hidden_size=s.width, intermediate_size=3 * s.width, num_hidden_layers=s.layers,
        num_attention_heads=s.heads, max_position_embeddings=128, tie_word_embeddings=True, pad_token_id=reader.pad_token_id,
        bos_token_id=reader.bos_token_id, eos_token_id=reader.eos_token_id, initializer_range=s.width**-0.5 / 2,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(bench.seed)
        model = LlamaForCausalLM(config)
    parts, shares = {}, []
    for task, (seen, own, _) in sentences(s).items():
        turned = "-".join(reversed(task.split("-")))
        parts[task] = tokenised(s, reader, task, seen)
        parts[turned] = tokenised(s, reader, turned, [(target, source) for source, target in seen + own])
        shares += [s.pretrain_share, 0.5 - s.pretrain_share]
    recipe = Recipe(
        optimizer=AdamWRecipe(lr=s.pretrain_lr, betas=(0.9, 0.98), weight_decay=0.01), steps=s.pretrain_steps,
        batch_size=s.pretrain_batch, sampling="sample",
    )  # fmt: skip
    finetune_accelerated(
        model, Mixture(parts, shares, recipe, seed=bench.seed), loss=loss,
        collate=partial(collate, reader.pad_token_id), loop=Loop(micro_batch=s.pretrain_batch, warmup=min(100, s.pretrain_steps)),
        accelerator=accelerator_of(cpu=bench.device == "cpu"), progress=told,
    )  # fmt: skip
    model.to("cpu").save_pretrained(bench.out / "base")
    reader.save_pretrained(bench.out / "base")
    return time.perf_counter() - started


def train(bench: Bench, alpha: Sequence[float], kind: str, seed: int) -> tuple[Module, Trained]:
    """Finetuning of the LoRA factors at alpha, its tasks' share of each batch (mean losses): the model, and what it took."""
    s = bench.settings
    alone = max(alpha) == 1
    optimizer = AdamWRecipe(lr=s.adamw_lr) if kind == "adamw" else IvonRecipe(
        lr=s.lr, betas=s.betas, ess=s.ess if alone else s.joint_ess, hess_init=s.hess_init, weight_decay=s.delta,
        clip_radius=s.clip_radius,
    )  # fmt: skip
    recipe = Recipe(optimizer=optimizer, steps=s.steps, batch_size=s.batch, sampling="sample")
    parts = {task: rows(bench, task)[0] for task in TASKS}
    model = bench.model()
    found = finetune_accelerated(
        model, Mixture(parts, alpha, recipe, seed=seed), loss=loss, collate=partial(collate, tokenizer(bench).pad_token_id),
        loop=Loop(micro_batch=s.micro_batch, clip_norm=1.0, warmup=s.warmup), accelerator=accelerator_of(cpu=bench.device == "cpu"),
    )  # fmt: skip
    return model, found


def finetune_task(item: tuple[str, str]) -> dict[str, float]:
    """In a worker: a task's own run by IVON or AdamW, and squared gradients at its end; what they took."""
    (kind, task), bench = item, here()
    s = bench.settings
    model, found = train(bench, [float(task == t) for t in TASKS], kind, bench.seed)
    facts = {"seconds": found.seconds, "loss": float(found.losses[-50:].mean())}
    model.eval()
    started, part = time.perf_counter(), rows(bench, task)[0]
    fisher = batches(bench, part[: s.fisher], s.micro_batch)
    h = squared_gradients(model, fisher, Given(loss)).mean
    save_checkpoint(bench.file(kind, f"{task}-squares"), Flat(h.layout, h.vector.cpu()))
    facts["squares"] = time.perf_counter() - started
    if kind == "adamw":
        save_checkpoint(bench.file(kind, task), own_params(model))
        return facts
    q = found.optimizer.posterior(model)
    about = Provenance(
        family="diagonal", source="ivon", reduction="mean", examples=len(part), ess=s.ess, beta2=s.betas[1], delta=s.delta,
        steps=s.steps, hess_init=s.hess_init, batch_size=s.batch,
    )  # fmt: skip
    save_posterior(
        bench.file("ivon", task), Diagonal(*(Flat(v.layout, v.vector.cpu()) for v in (q.mean, q.precision))), about
    )  # fmt: skip
    h = q.precision.vector.double().cpu() / s.ess
    low, middle, high = torch.quantile(
        h.float()[:: max(1, len(h) // 1_000_000)], torch.tensor([0.05, 0.5, 0.95])
    ).tolist()
    return {**facts, "memory": float(found.memory or 0), "h_low": low, "h_median": middle, "h_high": high}


def own_params(model: Module) -> Flat:
    """A copy of the trainable parameters."""
    found = Flat.of({name: p.detach().float().cpu() for name, p in trainable(model).items()})
    return Flat(found.layout, found.vector.clone())


def joint_run(item: tuple[tuple[float, ...], str]) -> tuple[dict[str, Any], dict[str, Any], float]:
    """In a worker: a joint run's BLEU and log-likelihoods, sentence by sentence; its seconds. Its parameters are kept."""
    (alpha, kind), bench = item, here()
    model, found = train(bench, alpha, kind, bench.seed + JOINT_SEED)
    save_checkpoint(bench.file(kind, f"joint-{alpha[0]:.2f}"), own_params(model))
    model.eval()
    with torch.no_grad():
        return score(bench, model), likelihood(bench, model), found.seconds


def batches(bench: Bench, part: list[Row], size: int) -> Iterator[dict[str, Tensor]]:
    """Rows in their order, so many at a time, on the device."""
    pad = tokenizer(bench).pad_token_id
    for start in range(0, len(part), size):
        made = collate(pad, part[start : start + size])
        yield {name: values.to(bench.device) for name, values in made.items()}


@dataclass(frozen=True)
class Scorer:
    """Each task's BLEU, or with ``likely`` the mean log-likelihood a token, one number a test sentence."""

    bench: Bench
    likely: bool = False

    def __call__(self, model: Module) -> dict[str, np.ndarray]:
        """Of the model as it is."""
        return likelihood(self.bench, model) if self.likely else score(self.bench, model)


def likelihood(bench: Bench, model: Module) -> dict[str, np.ndarray]:
    """log p(reference | source) of each test sentence, a token."""
    found = {}
    for task in TASKS:
        part = rows(bench, task)[1]
        order = sorted(range(len(part)), key=lambda i: len(part[i]["input_ids"]))
        each = [
            -loss(model, batch)
            for batch in batches(bench, [part[i] for i in order], bench.settings.score_batch)
        ]
        found[task] = torch.cat(each).double().cpu().numpy()[np.argsort(order)]
    return found


def score(bench: Bench, model: Module) -> dict[str, np.ndarray]:
    """Shares of the test sentences in BLEU: their mean is the BLEU of all."""
    found, as_it_is = {}, not bench.settings.lowercase
    for task in TASKS:
        texts = translations(bench, model, task), [target for _, target in sentences(bench.settings)[task][2]]
        each = [[text if as_it_is else text.lower() for text in lines] for lines in texts]
        found[task] = bleu_items(*each).numpy()
    return found


def translations(bench: Bench, model: Module, task: str) -> list[str]:
    """Greedy translations of the test sentences, in their order; sentences of like length go together."""
    s, reader, part = bench.settings, tokenizer(bench), rows(bench, task)[1]
    prompts = [
        [n for n, label in zip(row["input_ids"], row["labels"], strict=True) if label == IGNORED]
        for row in part
    ]
    order = sorted(range(len(part)), key=lambda i: len(prompts[i]))
    found: dict[int, str] = {}
    for start in range(0, len(order), s.score_batch):
        chosen = order[start : start + s.score_batch]
        longest = max(len(prompts[i]) for i in chosen)
        filled = [[reader.pad_token_id] * (longest - len(prompts[i])) + prompts[i] for i in chosen]
        ids = torch.tensor(filled, device=bench.device)
        mask = torch.tensor(
            [[0] * (longest - len(prompts[i])) + [1] * len(prompts[i]) for i in chosen], device=bench.device
        )
        made = model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=s.new_tokens, do_sample=False, num_beams=1,
            pad_token_id=reader.pad_token_id, eos_token_id=reader.eos_token_id,
        )  # fmt: skip
        texts = reader.batch_decode(made[:, longest:], skip_special_tokens=True)
        found |= dict(zip(chosen, (text.strip() for text in texts), strict=True))
    return [found[i] for i in range(len(part))]


def told(what: str, done: int, total: int) -> None:
    """Progress, in some ten lines."""
    if done == total or done % max(1, total // 10) == 0:
        print(f"{what}: {done} of {total}", flush=True)
