"""The plain loop on Accelerate: the Trainer's result for one task, IVON step by step as in the Trainer, resumed bit for bit."""

import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import Trainer, TrainerCallback, TrainingArguments, get_scheduler

from previa.core.diagonal import Diagonal
from previa.errors import FileError, InputError, NotFiniteError
from previa.io import save_checkpoint
from previa.run.accelerate_loop import Loop, accelerator_of, finetune_accelerated
from previa.run.ivon_trainer import IvonTrainer
from previa.run.joint_data import Mixture, TrainerRows
from previa.run.optimizers import check_whole, optimizer_of
from previa.run.recipe import AdamWRecipe, IvonRecipe, Recipe
from tiny_transformers import classifier, collate, flat, language_model, losses, sentences, supervised, texts

pytestmark = [
    pytest.mark.filterwarnings("ignore:IVON's Hessian is still"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated"),
]
TASKS = {"a": sentences(20, seed=1), "b": sentences(12, seed=2, tilt=0.2)}
ADAMW = AdamWRecipe(lr=1e-2)
IVON = IvonRecipe(lr=0.05, ess=200.0, hess_init=0.5, betas=(0.9, 0.9), weight_decay=1e-3)
FREE = Loop(micro_batch=4, clip_norm=math.inf, schedule="constant")


def recipe(optimizer=IVON, **options):
    return Recipe(**{"optimizer": optimizer, "steps": 6, "batch_size": 8, **options})


def run(model, mixture, loop=FREE, **options):
    return finetune_accelerated(
        model,
        mixture,
        loss=losses,
        collate=collate,
        loop=loop,
        accelerator=accelerator_of(cpu=True),
        **options,
    )


def arguments(folder, **options):
    defaults = {
        "output_dir": str(folder), "per_device_train_batch_size": 8, "max_steps": 6, "lr_scheduler_type": "constant",
        "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "use_cpu": True, "max_grad_norm": 0.0,
        "train_sampling_strategy": "sequential", "logging_strategy": "no", "dataloader_pin_memory": False,
    }  # fmt: skip
    return TrainingArguments(**{**defaults, **options})


@pytest.mark.parametrize("kind", ["classes", "tokens"])
def test_one_task_by_adamw_is_the_trainers_result(tmp_path, kind):
    """With warm-up, a falling rate, clipping and micro-batches; text rows of one length, where both count tokens alike."""
    make = classifier if kind == "classes" else language_model
    data = {"a": TASKS["a"] if kind == "classes" else texts(20, seed=3, length=7)}
    how, tokens = recipe(ADAMW, sampling="sample"), None if kind == "classes" else supervised
    one, two = make(), make()
    run(
        one,
        Mixture(data, (1,), how, tokens=tokens),
        Loop(micro_batch=4, clip_norm=0.5, schedule="linear", warmup=2),
    )
    Trainer(
        model=two, train_dataset=TrainerRows(data, (1,), how), data_collator=collate,
        args=arguments(tmp_path, max_grad_norm=0.5, lr_scheduler_type="linear", warmup_steps=2, learning_rate=1e-2),
    ).train()  # fmt: skip
    # Adam divides by sqrt(v): where a gradient is all rounding, steps of up to lr differ in sign
    torch.testing.assert_close(flat(one), flat(two), rtol=1e-3, atol=1e-4)


class Path(TrainerCallback):
    def __init__(self):
        self.at = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.at.append(flat(model))


@pytest.mark.parametrize("kind", ["classes", "tokens"])
def test_ivon_walks_the_trainers_path_step_by_step(tmp_path, kind):
    """A weighted mixture of two tasks, drawn by shares: in the loop, and as the Trainer's data."""
    make = classifier if kind == "classes" else language_model
    data = (
        TASKS if kind == "classes" else {"a": texts(20, seed=3, length=7), "b": texts(12, seed=4, length=7)}
    )
    how, tokens = recipe(sampling="sample"), None if kind == "classes" else supervised
    one, two, path, callback = make(), make(), [], Path()
    trained = run(
        one, Mixture(data, (0.3, 0.7), how, seed=42, tokens=tokens), Loop(micro_batch=3, clip_norm=0.5, schedule="linear"),
        watch=lambda step, model, optimizer: path.append(flat(model)),
    )  # fmt: skip
    trainer = IvonTrainer(
        model=two, train_dataset=TrainerRows(data, (0.3, 0.7), how, seed=42, averages_tokens=tokens),
        data_collator=collate, ivon=IVON, callbacks=[callback],
        args=arguments(tmp_path, max_grad_norm=0.5, lr_scheduler_type="linear", per_device_train_batch_size=2,
                       gradient_accumulation_steps=4),
    )  # fmt: skip
    trainer.train()
    assert len(path) == len(callback.at) == 6
    for mine, other in zip(path, callback.at, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)  # float32 sums in another order
    assert not torch.allclose(path[0], path[5], atol=1e-3)
    torch.testing.assert_close(
        trained.optimizer.posterior(one).natural()[0], trainer.optimizer.optimizer.posterior(two).natural()[0],
        rtol=1e-3, atol=1e-3,
    )  # fmt: skip


@pytest.mark.parametrize("samples", [1, 3])
def test_ivon_takes_the_weighted_gradient_at_each_of_its_samples(samples):
    chosen = IvonRecipe(lr=0.05, ess=200.0, hess_init=0.5, betas=(0.9, 0.9), samples=samples)
    mixture = Mixture(TASKS, (0.3, 0.7), recipe(chosen, sampling="loss", steps=3))
    model, other = classifier(), classifier()
    found = run(model, mixture, Loop(micro_batch=5, clip_norm=0.1, schedule="constant"))
    optimizer = optimizer_of(other, chosen, ess=0.0, seed=0)
    other.train()
    for step in range(3):
        rows, values = mixture.rows(step), []
        for _ in range(samples):
            with optimizer.sampled():
                each = losses(other, collate([mixture.features(row) for row in rows]))
                value = sum(row.weight * one for row, one in zip(rows, each, strict=True))
                value.backward()
                torch.nn.utils.clip_grad_norm_(other.parameters(), 0.1)
                values.append(float(value.detach()))
        optimizer.step()
        assert float(found.losses[step]) == pytest.approx(sum(values) / samples, rel=1e-4)
    torch.testing.assert_close(flat(model), flat(other), rtol=1e-4, atol=1e-5)


def test_how_a_step_is_cut_changes_nothing_but_rounding():
    found = []
    for micro_batch in (1, 7, 100):
        model = classifier()
        run(
            model,
            Mixture(TASKS, (0.3, 0.7), recipe(sampling="loss")),
            Loop(micro_batch=micro_batch, schedule="constant"),
        )
        found.append(flat(model))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[0], found[2], rtol=1e-4, atol=1e-5)


class KilledError(Exception):
    pass


def killed_after(step):
    def watch(done, model, optimizer):
        if done == step:
            raise KilledError

    return watch


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("optimizer", [IVON, ADAMW], ids=["ivon", "adamw"])
def test_a_killed_run_goes_on_bit_for_bit(tmp_path, optimizer, dtype):
    """With dropout; killed after five of eight steps, the last state written after the fourth."""
    mixture = Mixture(TASKS, (0.3, 0.7), recipe(optimizer, sampling="sample", steps=8))
    loop, state = (
        Loop(micro_batch=4, schedule="cosine", warmup=2, save_every=2),
        tmp_path / "state.safetensors",
    )
    whole = classifier(dropout=0.2, dtype=dtype)
    first = run(whole, mixture, loop)
    with pytest.raises(KilledError):
        run(classifier(dropout=0.2, dtype=dtype), mixture, loop, state=state, watch=killed_after(5))
    torch.manual_seed(77)
    later = classifier(dropout=0.2, dtype=dtype)
    second = run(later, mixture, loop, state=state)
    assert second.resumed_at == 4
    assert torch.equal(flat(later), flat(whole))
    assert torch.equal(first.losses, second.losses)
    states = zip(first.optimizer.state.values(), second.optimizer.state.values(), strict=True)
    for one, two in states:
        assert one.keys() == two.keys()
        assert all(torch.equal(torch.as_tensor(one[k]), torch.as_tensor(two[k])) for k in one)
    again = run(classifier(dropout=0.2, dtype=dtype), mixture, loop, state=state)
    assert again.resumed_at == 8
    assert torch.equal(again.losses, first.losses)


def test_the_state_of_another_run_is_refused_by_what_differs(tmp_path):
    state = tmp_path / "state.safetensors"
    mixture = Mixture(TASKS, (0.3, 0.7), recipe(steps=2))
    run(classifier(), mixture, state=state)
    for model, other, loop, name in (
        (
            classifier(),
            Mixture(TASKS, (0.4, 0.6), recipe(steps=2)),
            FREE,
            r"its alpha is \[0.3, 0.7\], and \[0.4, 0.6\]",
        ),
        (classifier(), Mixture(TASKS, (0.3, 0.7), recipe(steps=3)), FREE, "its recipe, steps is 2, and 3"),
        (classifier(), Mixture(TASKS, (0.3, 0.7), recipe(steps=2), seed=1), FREE, "its seed is 0, and 1"),
        (classifier(), mixture, Loop(clip_norm=2.0), "its loop, clip_norm is inf, and 2.0"),
        (classifier(seed=1), mixture, FREE, "its start is"),
        (
            classifier(),
            Mixture({**TASKS, "b": TASKS["b"][1:]}, (0.3, 0.7), recipe(steps=2)),
            FREE,
            "its data, b is",
        ),
    ):
        with pytest.raises(InputError, match=name):
            run(model, other, loop, state=state)
    save_checkpoint(state, {"a": torch.ones(1)})
    with pytest.raises(FileError, match="not the state of a training"):
        run(classifier(), mixture, state=state)


def test_a_bad_loss_is_named_and_leaves_the_mean():
    mixture = Mixture(TASKS, (0.3, 0.7), recipe(sampling="loss", batch_size=2))
    bad = mixture.features(next(row for row in mixture.rows(2) if row.task == "b"))
    model, healthy = classifier(), classifier()

    def marked(rows):
        return {**collate(rows), "bad": torch.tensor([row is bad for row in rows])}

    def spoilt(model, batch):
        return torch.where(batch["bad"], float("nan"), losses(model, batch))

    with pytest.raises(NotFiniteError, match="the loss of task 'b' is NaN or infinite at step 3"):
        finetune_accelerated(
            model, mixture, loss=spoilt, collate=marked, loop=FREE, accelerator=accelerator_of(cpu=True)
        )
    with pytest.raises(KilledError):
        run(healthy, mixture, watch=killed_after(2))
    assert torch.equal(flat(model), flat(healthy))


def test_an_infinite_gradient_is_refused():
    def steep(model, batch):
        return losses(model, batch) * 0 + model(input_ids=batch["input_ids"]).logits.sum(1).mul(0).sqrt()

    with pytest.raises(NotFiniteError, match="the gradient is NaN or infinite at step 1"):
        finetune_accelerated(
            classifier(),
            Mixture(TASKS, (0.3, 0.7), recipe()),
            loss=steep,
            collate=collate,
            accelerator=accelerator_of(cpu=True),
        )


def test_a_loss_that_is_no_number_per_example_is_refused():
    with pytest.raises(InputError, match=r"has shape \(\) for a batch of 4 examples"):
        finetune_accelerated(
            classifier(), Mixture(TASKS, (0.3, 0.7), recipe()), loss=lambda model, batch: losses(model, batch).mean(),
            collate=collate, loop=FREE, accelerator=accelerator_of(cpu=True),
        )  # fmt: skip


def test_the_model_comes_back_unwrapped_and_random_states_as_they_were():
    model = classifier(dropout=0.3)
    model.eval()
    model.bert.train()
    state = torch.get_rng_state()
    run(model, Mixture(TASKS, (0.3, 0.7), recipe(steps=1)))
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.training
    assert model.bert.training
    assert not hasattr(model, "_is_accelerate_prepared")


def test_bf16_autocast_is_on_while_training_and_gone_afterwards():
    from accelerate.state import AcceleratorState

    mixture, kinds = Mixture(TASKS, (0.3, 0.7), recipe()), []
    full, half = classifier(), classifier()
    half.classifier.register_forward_hook(lambda module, args, out: kinds.append(out.dtype))
    run(full, mixture)
    AcceleratorState._reset_state(True)  # one precision a process, says Accelerate
    try:
        finetune_accelerated(
            half,
            mixture,
            loss=losses,
            collate=collate,
            loop=FREE,
            accelerator=accelerator_of("bf16", cpu=True),
        )
    finally:
        AcceleratorState._reset_state(True)
    assert set(kinds) == {torch.bfloat16}
    kinds.clear()
    losses(half, collate(TASKS["a"]))
    assert kinds == [torch.float32]
    moved = flat(full) - flat(classifier())
    assert float((flat(half) - flat(full)).norm()) < 0.1 * float(moved.norm())


def test_frozen_parameters_and_adapters():
    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules=["query"], modules_to_save=["classifier"], task_type="SEQ_CLS")
    model = get_peft_model(classifier(), config)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    found = run(model, Mixture(TASKS, (0.3, 0.7), recipe()))
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]) == (not p.requires_grad), name
    assert set(found.optimizer.posterior(model).layout.places) == {
        n for n, p in model.named_parameters() if p.requires_grad
    }


def test_a_start_posterior_hands_over_mean_and_precision():
    model = classifier()
    named = dict(model.named_parameters())
    start = Diagonal(
        {k: p.detach() + 0.01 for k, p in named.items()},
        {k: torch.full_like(p, 300.0) for k, p in named.items()},
    )
    still = IvonRecipe(lr=0.0, ess=200.0, hess_init=0.5, betas=(0.9, 1 - 1e-9))
    found = run(model, Mixture(TASKS, (0.3, 0.7), recipe(still, steps=1)), start=start, start_ess=100.0)
    assert torch.equal(flat(model), start.mode().vector)
    torch.testing.assert_close(
        found.optimizer.posterior(model).natural()[0], 2 * start.natural()[0], rtol=1e-4, atol=0
    )
    with pytest.raises(InputError, match="AdamW cannot start from a posterior"):
        run(model, Mixture(TASKS, (0.3, 0.7), recipe(ADAMW)), start=start)


@pytest.mark.parametrize(
    ("schedule", "warmup"), list(itertools.product(("constant", "linear", "cosine"), (0, 3)))
)
def test_schedules_are_those_of_transformers(schedule, warmup):
    name = "constant_with_warmup" if schedule == "constant" else schedule
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs, loop = get_scheduler(name, optimizer, warmup, 10), Loop(schedule=schedule, warmup=warmup)
    for step in range(10):
        assert loop.factor(step, 10) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step()
        theirs.step()


def test_settings_that_cannot_be_right_are_refused():
    for options, message in (
        ({"micro_batch": 0}, "micro_batch is 0"), ({"clip_norm": 0.0}, "clip_norm is 0.0"), ({"schedule": "steps"}, "schedule is 'steps'"),
        ({"warmup": -1}, "warmup is -1"), ({"save_every": 0}, "save_every is 0"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            Loop(**options)
    for kind in ("FSDP", "DEEPSPEED"):
        with pytest.raises(InputError, match=f"cut between processes by {kind}"):
            check_whole(SimpleNamespace(value=kind), "finetune")
    accelerator = accelerator_of(cpu=True)
    accelerator.gradient_accumulation_steps = 4
    with pytest.raises(InputError, match="divides losses by 4"):
        finetune_accelerated(
            classifier(),
            Mixture(TASKS, (0.3, 0.7), recipe()),
            loss=losses,
            collate=collate,
            accelerator=accelerator,
        )


def test_fp16_with_loss_scaling_is_refused():
    accelerator = accelerator_of(cpu=True)
    accelerator.scaler = SimpleNamespace()
    with pytest.raises(InputError, match="IVON cannot be trained with fp16"):
        finetune_accelerated(
            classifier(),
            Mixture(TASKS, (0.3, 0.7), recipe()),
            loss=losses,
            collate=collate,
            accelerator=accelerator,
        )


def test_memory_and_progress_are_told():
    told = []
    found = run(classifier(), Mixture(TASKS, (0.3, 0.7), recipe()), progress=lambda *what: told.append(what))
    assert found.memory == pytest.approx(0.9**6)
    assert told[-1] == ("finetune at (0.3, 0.7)", 6, 6)
    assert run(classifier(), Mixture(TASKS, (0.3, 0.7), recipe(ADAMW, steps=1))).memory is None
