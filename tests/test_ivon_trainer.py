"""IVON in the Trainer: one sample a step, clipped before it is taken; resuming bit for bit; saving and evaluating at m."""

import functools

import pytest
import torch
from accelerate import Accelerator
from peft import LoraConfig, get_peft_model
from torch.nn import Linear
from transformers import Trainer, TrainerCallback, TrainingArguments

from previa.errors import InputError
from previa.fit.ivon import IVON
from previa.io import load_posterior, open_checkpoint, open_posterior
from previa.run.ivon_trainer import IvonTrainer
from previa.run.optimizers import ivon_in, optimizer_of
from previa.run.recipe import IvonRecipe
from tiny_transformers import classifier, collate, flat, language_model, sentences, texts

pytestmark = [
    pytest.mark.filterwarnings("ignore:IVON's Hessian is still"),  # of course, after a few steps
    pytest.mark.filterwarnings(
        "ignore:`is_gradient_checkpointing` is deprecated"
    ),  # peft asks transformers for it
]

RECIPE = IvonRecipe(lr=0.05, ess=200.0, hess_init=0.5, betas=(0.9, 0.9), weight_decay=1e-3)
DATA = sentences(24, seed=1)


def arguments(folder, **options):
    defaults = {
        "output_dir": str(folder), "per_device_train_batch_size": 8, "max_steps": 6, "lr_scheduler_type": "constant",
        "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "use_cpu": True, "max_grad_norm": 0.0,
        "train_sampling_strategy": "sequential", "logging_strategy": "no", "dataloader_pin_memory": False,
    }  # fmt: skip
    return TrainingArguments(**{**defaults, **options})


def trainer(folder, model=None, data=DATA, recipe=RECIPE, cls=IvonTrainer, callbacks=None, **options):
    return cls(
        model=classifier() if model is None else model, args=arguments(folder, **options), train_dataset=data,
        data_collator=collate, ivon=recipe, callbacks=callbacks,
    )  # fmt: skip


def by_hand(model, data, steps, batch=8, recipe=RECIPE, clip=None, seed=42):
    """The loop that the Trainer stands for, in the order of the data: the mean loss of the model itself."""
    optimizer = optimizer_of(model, recipe, ess=0.0, seed=seed)
    model.train()
    rows = data * steps
    for step in range(steps):
        with optimizer.sampled():
            model(**collate(rows[step * batch : (step + 1) * batch])).loss.backward()
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
    return optimizer


def precision(found, model):
    return ivon_in(found.optimizer).posterior(model).natural()[0]


@pytest.mark.parametrize("clip", [None, 0.05])
@pytest.mark.parametrize("accumulation", [1, 2, 4])
def test_accumulated_and_clipped_steps_are_those_of_the_whole_batch(tmp_path, accumulation, clip):
    found = trainer(
        tmp_path, per_device_train_batch_size=8 // accumulation, gradient_accumulation_steps=accumulation,
        max_grad_norm=clip or 0.0,
    )  # fmt: skip
    found.train()
    model = classifier()
    optimizer = by_hand(model, DATA, 6, clip=clip)
    # float32 sums of the micro-batches in another order; h_hat multiplies gradients by ess/sigma
    torch.testing.assert_close(flat(found.model), flat(model), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        precision(found, found.model), optimizer.posterior(model).natural()[0], rtol=1e-3, atol=1e-3
    )


def test_clipping_counts(tmp_path):
    free, clipped = trainer(tmp_path), trainer(tmp_path, max_grad_norm=0.05)
    free.train()
    clipped.train()
    assert not torch.allclose(flat(free.model), flat(clipped.model), atol=1e-4)


def test_a_token_loss_is_averaged_over_the_whole_window(tmp_path):
    """Micro-batches of a language model have different numbers of tokens: the Trainer divides by those of all of them."""
    data = texts(24, seed=2)
    found = trainer(
        tmp_path, language_model(), data, per_device_train_batch_size=2, gradient_accumulation_steps=4
    )
    found.train()
    model = language_model()
    by_hand(model, data, 6)
    torch.testing.assert_close(flat(found.model), flat(model), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path, dtype):
    """With dropout, shuffling, momentum, a falling learning rate and an accumulation window cut by the end of the epoch."""
    options = {
        "max_steps": 8, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 5, "save_strategy": "steps",
        "save_steps": 4, "lr_scheduler_type": "linear", "train_sampling_strategy": "random", "max_grad_norm": 0.5,
    }  # fmt: skip
    whole = trainer(tmp_path / "whole", classifier(dropout=0.2, dtype=dtype), **options)
    whole.train()
    torch.manual_seed(99)
    later = trainer(tmp_path / "later", classifier(seed=5, dropout=0.2, dtype=dtype), **options)
    later.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-4"))
    assert torch.equal(flat(later.model), flat(whole.model))
    assert torch.equal(precision(later, later.model), precision(whole, whole.model))
    first = ivon_in(whole.optimizer).state_dict()
    second = ivon_in(later.optimizer).state_dict()
    assert first["state"][0]["step"] == second["state"][0]["step"] == 8
    assert torch.equal(first["state"][0]["g"], second["state"][0]["g"])
    assert torch.equal(first["noise"]["streams"]["cpu:0"], second["noise"]["streams"]["cpu:0"])
    assert torch.equal(
        open_posterior(tmp_path / "whole/checkpoint-8/posterior.safetensors").file[
            "precision/classifier.weight"
        ],
        open_posterior(tmp_path / "later/checkpoint-8/posterior.safetensors").file[
            "precision/classifier.weight"
        ],
    )


class Watch(TrainerCallback):
    """The parameters as they are wherever the Trainer hands over the model."""

    def __init__(self):
        self.at = {}

    def _look(self, event, model):
        self.at.setdefault(event, []).append(flat(model))

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        self._look("step_begin", model)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self._look("step_end", model)

    def on_evaluate(self, args, state, control, model=None, **kwargs):
        self._look("evaluate", model)

    def on_save(self, args, state, control, model=None, **kwargs):
        self._look("save", model)


def test_evaluation_saving_and_what_is_left_are_at_the_mean(tmp_path):
    watch = Watch()
    found = IvonTrainer(
        model=classifier(), args=arguments(tmp_path, max_steps=3, save_strategy="steps", save_steps=1,
        eval_strategy="steps", eval_steps=1, per_device_train_batch_size=4, gradient_accumulation_steps=2),
        train_dataset=DATA, eval_dataset=DATA[:8], data_collator=collate, ivon=RECIPE, callbacks=[watch],
    )  # fmt: skip
    found.train()
    model = classifier()
    optimizer = by_hand(model, DATA, 0)
    for step in range(3):
        with optimizer.sampled():
            model(**collate(DATA[step * 8 : (step + 1) * 8])).loss.backward()
        optimizer.step()
        for event in ("step_end", "evaluate", "save"):
            torch.testing.assert_close(watch.at[event][step], flat(model), rtol=1e-4, atol=1e-5)
        saved = open_checkpoint(tmp_path / f"checkpoint-{step + 1}" / "model.safetensors")
        torch.testing.assert_close(
            saved["classifier.weight"], model.classifier.weight.detach(), rtol=1e-4, atol=1e-5
        )


class Stop(TrainerCallback):
    def __init__(self, at, error=None):
        self.at, self.error, self.seen = at, error, 0

    def on_substep_end(self, args, state, control, **kwargs):
        self.seen += 1
        if self.seen == self.at:
            if self.error is not None:
                raise self.error
            control.should_training_stop = True


@pytest.mark.parametrize("error", [ZeroDivisionError(), KeyboardInterrupt(), None], ids=str)
def test_a_run_that_stops_in_the_middle_of_a_window_leaves_the_mean(tmp_path, error):
    options = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    found = trainer(tmp_path, callbacks=[Stop(5, error)], **options)  # in the second step
    if error is None:
        found.train()
    else:
        with pytest.raises(type(error)):
            found.train()
    one = trainer(tmp_path, **{**options, "max_steps": 1})
    one.train()
    assert torch.equal(flat(found.model), flat(one.model))
    found.save_model(str(tmp_path / "left"))
    assert open_posterior(tmp_path / "left" / "posterior.safetensors").provenance.steps == 1


def test_bf16_autocast_trains_weights_kept_in_float32(tmp_path):
    found, whole = trainer(tmp_path, bf16=True), trainer(tmp_path)
    found.train()
    whole.train()
    assert found.model.classifier.weight.dtype == torch.float32
    moved = flat(whole.model) - flat(classifier())
    # bfloat16 has 8 bits: gradients are off by up to a percent each, the step by a few percent in all
    assert float((flat(found.model) - flat(whole.model)).norm()) < 0.1 * float(moved.norm())
    assert not torch.equal(flat(found.model), flat(whole.model))


def test_bf16_weights_have_their_mean_in_the_posterior_file_in_float32(tmp_path):
    found = trainer(tmp_path, classifier(dtype=torch.bfloat16))
    found.train()
    found.save_model(str(tmp_path))
    opened = open_posterior(tmp_path / "posterior.safetensors")
    mean = opened.file["mean/classifier.weight"]
    assert mean.dtype == torch.float32
    assert not torch.equal(mean, mean.bfloat16().float())
    assert torch.equal(mean.bfloat16(), open_checkpoint(tmp_path / "model.safetensors")["classifier.weight"])


def test_the_posterior_beside_a_checkpoint_says_where_its_scale_comes_from(tmp_path):
    found = trainer(tmp_path, per_device_train_batch_size=4, gradient_accumulation_steps=2)
    found.train()
    found.save_model(str(tmp_path / "de"))
    opened = open_posterior(tmp_path / "de" / "posterior.safetensors")
    said = opened.provenance
    assert (said.source, said.reduction, said.examples, said.batch_size) == ("ivon", "mean", 24, 8)
    assert (said.ess, said.delta, said.beta2, said.steps, said.hess_init) == (200.0, 1e-3, 0.9, 6, 0.5)
    assert said.memory == pytest.approx(0.9**6)
    assert not opened.has_mean
    posterior, _ = load_posterior(
        tmp_path / "de" / "posterior.safetensors", open_checkpoint(tmp_path / "de" / "model.safetensors")
    )
    assert torch.equal(posterior.natural()[0], precision(found, found.model))
    assert torch.equal(posterior.mode().vector, flat(found.model))


def test_under_sum_the_ess_is_the_number_of_examples(tmp_path):
    found = trainer(tmp_path, recipe=IvonRecipe(lr=0.05, hess_init=0.5, betas=(0.9, 0.9)), max_steps=2)
    with pytest.warns(UserWarning, match="81 % its initial value"):
        found.train()
    found.save_model(str(tmp_path))
    said = open_posterior(tmp_path / "posterior.safetensors").provenance
    assert (said.reduction, said.ess, said.examples) == ("sum", 24.0, 24)


def test_the_best_models_posterior_is_the_best_checkpoints(tmp_path):
    """load_best_model_at_end brings back an earlier mean: the precision of the last step is not its own."""
    found = IvonTrainer(
        model=classifier(), args=arguments(tmp_path, save_strategy="steps", save_steps=2, eval_strategy="steps",
        eval_steps=2, load_best_model_at_end=True, metric_for_best_model="loss", greater_is_better=False),
        train_dataset=DATA, eval_dataset=DATA[:8], data_collator=collate, ivon=RECIPE,
    )  # fmt: skip
    found.train()
    best = found.state.best_model_checkpoint
    assert not best.endswith("checkpoint-6")
    found.save_model(str(tmp_path / "best"))
    one, other = (open_posterior(f"{folder}/posterior.safetensors") for folder in (tmp_path / "best", best))
    assert one.provenance.steps == other.provenance.steps < 6
    assert torch.equal(one.file["precision/classifier.weight"], other.file["precision/classifier.weight"])


def test_frozen_parameters_stay_and_have_no_posterior(tmp_path):
    model = classifier()
    model.bert.embeddings.requires_grad_(False)
    before = model.bert.embeddings.word_embeddings.weight.clone()
    found = trainer(tmp_path, model)
    found.train()
    found.save_model(str(tmp_path))
    assert torch.equal(found.model.bert.embeddings.word_embeddings.weight, before)
    names = open_posterior(tmp_path / "posterior.safetensors").layout.places
    assert "classifier.weight" in names
    assert not any("embeddings" in name for name in names)


def test_parameters_without_a_gradient_stay(tmp_path):
    model = classifier()
    model.extra = Linear(3, 3)  # no part of forward
    before = model.extra.weight.clone()
    found = trainer(tmp_path, model)
    found.train()
    assert torch.equal(found.model.extra.weight, before)


def test_an_adapters_posterior_has_the_names_of_its_file(tmp_path):
    torch.manual_seed(0)
    config = LoraConfig(
        r=2,
        lora_alpha=4,
        target_modules=["query", "value"],
        modules_to_save=["classifier"],
        task_type="SEQ_CLS",
    )
    model = get_peft_model(classifier(), config)
    base = model.get_base_model().bert.encoder.layer[0].attention.self.query.base_layer.weight
    before = base.clone()
    found = trainer(tmp_path, model)
    found.train()
    found.save_model(str(tmp_path))
    assert torch.equal(base, before)
    adapter = open_checkpoint(tmp_path / "adapter_model.safetensors")
    posterior, _ = load_posterior(tmp_path / "posterior.safetensors", adapter)
    assert set(posterior.layout.places) == set(adapter)
    own = ivon_in(found.optimizer).posterior(model)
    assert torch.equal(posterior.natural()[0].sort().values, own.natural()[0].sort().values)
    for name in adapter:
        assert torch.equal(posterior.mode()[name], adapter[name])
    A = next(name for name in own.layout.places if "query.lora_A" in name)
    start, stop, _ = own.layout.places[A]
    in_file = posterior.layout.places[A.replace(".default", "")]
    assert torch.equal(posterior.natural()[0][in_file[0] : in_file[1]], own.natural()[0][start:stop])


def test_an_adapter_resumes_bit_for_bit(tmp_path):
    def adapted(seed):
        torch.manual_seed(seed)
        config = LoraConfig(
            r=2,
            lora_alpha=4,
            target_modules=["query", "value"],
            modules_to_save=["classifier"],
            task_type="SEQ_CLS",
        )
        return get_peft_model(classifier(), config)

    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    whole = trainer(tmp_path / "whole", adapted(0), **options)
    whole.train()
    later = trainer(tmp_path / "later", adapted(3), **options)
    later.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert torch.equal(flat(later.model), flat(whole.model))


class Doubled(Trainer):
    """Another trainer, as SFTTrainer is one."""

    def compute_loss(self, *args, **kwargs):
        return super().compute_loss(*args, **kwargs) * 2


def test_any_other_trainer_takes_it_as_a_mixin(tmp_path):
    class Both(IvonTrainer, Doubled):
        pass

    double, single = trainer(tmp_path, cls=Both, max_steps=2), trainer(tmp_path, max_steps=2)
    double.train()
    single.train()
    g, half = (
        ivon_in(found.optimizer).state[next(found.model.parameters())]["g"] for found in (double, single)
    )
    assert isinstance(ivon_in(double.optimizer), IVON)
    # the first gradient doubles exactly, the second is at parameters moved twice as far
    torch.testing.assert_close(g, 2 * half, rtol=0.5, atol=0.02)
    assert float(g.norm()) > 1.5 * float(half.norm())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipe": IvonRecipe(lr=0.05, ess=10.0, samples=2)}, "2 samples a step"),
        ({"learning_rate": 1e-3}, "args.learning_rate is 0.001, but the recipe of IVON says 0.05"),
        ({"weight_decay": 0.1}, "args.weight_decay is 0.1"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)  # fmt: skip
def test_settings_that_cannot_be_right_are_refused(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        trainer(tmp_path, **change)


def test_fp16_with_loss_scaling_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Accelerator, "mixed_precision", property(lambda accelerator: "fp16"))
    with pytest.raises(InputError, match="fp16 with loss scaling"):
        trainer(tmp_path)


def test_a_token_mean_under_sum_needs_the_number_of_tokens(tmp_path):
    recipe = IvonRecipe(lr=0.05, hess_init=0.5, betas=(0.9, 0.5))
    with pytest.raises(InputError, match="number of supervised tokens"):
        trainer(tmp_path, language_model(), texts(8), recipe)
    found = trainer(tmp_path, language_model(), texts(8), recipe, functools.partial(IvonTrainer, examples=40))
    assert found.create_optimizer().param_groups[0]["ess"] == 40


def test_another_optimizer_is_refused_when_training_begins(tmp_path):
    model = classifier()
    found = IvonTrainer(
        model=model, args=arguments(tmp_path), train_dataset=DATA, data_collator=collate, ivon=RECIPE,
        optimizers=(torch.optim.SGD(model.parameters(), lr=0.1), None),
    )  # fmt: skip
    with pytest.raises(InputError, match="expected previa's IVON as the optimizer; found SGD"):
        found.train()
