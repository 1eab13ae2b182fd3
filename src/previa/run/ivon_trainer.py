"""IVON in the Trainer of transformers: right under accumulation, clipping, bf16, several processes and resuming."""

from __future__ import annotations

import shutil
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer

from previa.errors import InputError, MissingExtraError
from previa.fit.ivon import IVON
from previa.run.ivon_checkpoint import FILE, ivon_provenance, memory_note, write_posterior
from previa.run.live import evaluating
from previa.run.optimizers import check_whole, ivon_in, optimizer_of
from previa.run.recipe import IvonRecipe
from previa.run.records import make_folder

try:
    from transformers import Trainer, TrainerCallback
except ImportError as error:
    raise MissingExtraError(
        "IvonTrainer needs transformers and accelerate: pip install 'previa[hf]'."
    ) from error


class IvonTrainer(Trainer):
    """transformers.Trainer with IVON as its optimizer, and its posterior beside every checkpoint.

        trainer = IvonTrainer(model, args, train_dataset=..., ivon=IvonRecipe(lr=0.1, ess=1e4, betas=(0.9, 0.999)))
        trainer.train(); trainer.save_model("de")      # de/model.safetensors, de/posterior.safetensors

    All micro-batches of a step share one sample theta, and their gradients make that of the whole batch's mean loss, also for
    models whose loss ignores what the Trainer divides by (see ``get_batch_samples``). The Trainer clips that gradient, averaged
    over processes, before the sample is taken. Evaluation, checkpoints and what is left after an exception are at the mean m.
    A run that is resumed goes on bit for bit. Noise is of args.seed, the same in all processes.

    ivon: lr, ess, betas, weight_decay (delta) and so on: they rule, and args.learning_rate and args.weight_decay must be
    left alone. ess None is the convention "sum", where it is the number of examples.
    examples: N_t, by default the length of the training data. A language model's loss is the mean over tokens: under "sum"
    hand in the number of supervised tokens.
    With another trainer than the plain one: ``class IvonSFTTrainer(IvonTrainer, SFTTrainer): ...``.
    Raises InputError for settings that cannot be right: several samples a step, fp16, FSDP or DeepSpeed, two learning rates.
    """

    def __init__(self, *args: Any, ivon: IvonRecipe, examples: int | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.ivon, self.examples = ivon, examples
        self._check()
        self._window = _Window()
        self._best: Path | None = None  # of the checkpoint that was loaded at the end
        self._divides: bool | None = (
            None  # whether the loss divides by num_items_in_batch; None: not seen yet
        )
        self.add_callback(self._window)

    def create_optimizer(self, model: Module | None = None) -> Optimizer:
        """IVON by the recipe, over the trainable parameters in the model's order, in one group."""
        if self.optimizer is None:
            chosen = self.model if model is None else model
            assert chosen is not None  # the Trainer refuses to be made without a model
            self.optimizer = optimizer_of(chosen, self.ivon, ess=self._examples(), seed=self.args.seed)
        return self.optimizer

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save as the Trainer does, with posterior.safetensors beside the model once there is one."""
        folder = Path(str(self.args.output_dir if output_dir is None else output_dir))
        if self.args.should_save and self.optimizer is not None:
            self._write_posterior(make_folder(folder), ivon_in(self.optimizer))
        super().save_model(output_dir, _internal_call)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """A step's micro-batches, and the number of items that their losses are to be divided by.

        The Trainer counts on every model that takes ``**kwargs`` to sum its loss over a micro-batch and divide it by the
        items of all of them. Some ignore that number (BertForSequenceClassification in transformers 5.24): their gradient
        is then too long by the number of micro-batches, and of processes. AdamW hides it; IVON would take it for curvature.
        So it is tried on the first batch, and where the number is ignored the Trainer divides as it does for other models.
        """
        batches, items = super().get_batch_samples(*args, **kwargs)
        if items is None or self.compute_loss_func is not None or not batches:
            return batches, items
        if self._divides is None:
            self._divides = self._loss_divides(batches[0], items)
        if self._divides is False:
            self.model_accepts_loss_kwargs = False
            return batches, None
        return batches, items

    def _loss_divides(self, batch: Any, items: Any) -> bool | None:
        """Whether the loss of a batch depends on the number of items; None where it is zero."""
        model: Any = self.model
        some = (
            items.flatten()[0] if isinstance(items, Tensor) else items
        )  # with DataParallel one number a device
        with evaluating(model), self.compute_loss_context_manager():
            one, two = (
                float(self.compute_loss(model, dict(self._prepare_inputs(batch)), num_items_in_batch=n))  # type: ignore[arg-type]
                for n in (some, 2 * some)
            )
        return None if one == two == 0 else one != two

    def _write_posterior(self, folder: Path, optimizer: IVON) -> None:
        if self._best is not None:
            shutil.copyfile(self._best, folder / FILE)
            return
        provenance = ivon_provenance(
            optimizer,
            reduction="sum" if self.ivon.ess is None else "mean",
            examples=self._examples(),
            batch_size=self.args.train_batch_size
            * self.args.gradient_accumulation_steps
            * self.args.world_size,
        )
        write_posterior(folder, self.accelerator.unwrap_model(self.model), optimizer, provenance)

    def _inner_training_loop(self, *args: Any, **kwargs: Any) -> Any:
        self._best = None
        try:
            return super()._inner_training_loop(*args, **kwargs)
        finally:
            self._window.drop()

    def _load_best_model(self) -> None:
        super()._load_best_model()
        self._best = Path(str(self.state.best_model_checkpoint)) / FILE

    def _examples(self) -> int:
        if self.examples is not None:
            return self.examples
        try:
            return len(self.train_dataset)  # type: ignore[arg-type]
        except TypeError as error:
            raise InputError(
                "IvonTrainer: the training data has no length. Hand in examples=, the number of training examples, which "
                "the posterior's scale is known by."
            ) from error

    def _check(self) -> None:
        """Raise InputError for what cannot be right, before anything is trained."""
        args, ivon = self.args, self.ivon
        if ivon.samples != 1:
            raise InputError(
                f"IvonTrainer: {ivon.samples} samples a step. The Trainer goes once over a step's batches, so that it has one; "
                "previa.run.accelerate_loop takes several."
            )
        if self.accelerator.mixed_precision == "fp16":
            raise InputError(
                "IvonTrainer: fp16 with loss scaling skips steps whose samples would stay. Use bf16=True, or neither."
            )
        check_whole(self.accelerator.distributed_type, "IvonTrainer")
        for name, own in (("learning_rate", ivon.lr), ("weight_decay", ivon.weight_decay)):
            default = type(args).__dataclass_fields__[name].default
            if getattr(args, name) not in (default, own):
                raise InputError(
                    f"IvonTrainer: args.{name} is {getattr(args, name)}, but the recipe of IVON says {own}. The recipe rules: "
                    "leave the argument out."
                )
        if ivon.ess is None and self.examples is None and _averages_tokens(self):
            raise InputError(
                "IvonTrainer: ess is None (summed losses), and this model's loss is the mean over tokens. Hand in examples=, the "
                "number of supervised tokens of the training data, or an ess."
            )


class _Window(TrainerCallback):
    """IVON's sampling context: open from a step's first micro-batch to the end of clipping, just before the update."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.drop()
        self._stack.enter_context(ivon_in(kwargs["optimizer"]).sampled())

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._stack.close()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.drop()  # a callback stopped the epoch in the middle of a step

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        note = memory_note(ivon_in(kwargs["optimizer"]).memory)
        if note is not None and state.is_world_process_zero:
            warnings.warn(note, stacklevel=2)

    def drop(self) -> None:
        """Put m back, and forget the sample of an open window."""
        self._stack.__exit__(_DroppedError, _DroppedError(), None)


class _DroppedError(Exception):
    """Leaves a sampling context without its sample."""


def _averages_tokens(trainer: Trainer) -> bool:
    """Whether the loss is a mean over tokens: of a causal language model, or of an encoder with a decoder."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    )

    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    known = {
        *MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values(),
        *MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES.values(),
    }
    return type(model).__name__ in known
