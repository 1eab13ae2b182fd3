"""IVON's posterior beside a checkpoint: its names, its provenance, and what would be lost."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from previa.errors import InputError, ParamsError
from previa.fit.ivon import IVON
from previa.run.ivon_checkpoint import (
    in_file,
    ivon_provenance,
    memory_note,
    posterior_for_file,
    posterior_for_model,
)
from previa.run.optimizers import optimizer_of
from previa.run.recipe import IvonRecipe
from tiny_transformers import classifier, language_model

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated"
)  # peft asks for it
RECIPE = IvonRecipe(lr=0.1, ess=50.0, hess_init=0.5, betas=(0.9, 0.99))


def adapted(**options):
    torch.manual_seed(0)
    return get_peft_model(
        classifier(), LoraConfig(r=2, target_modules=["query"], task_type="SEQ_CLS", **options)
    )


@pytest.mark.parametrize(
    "make",
    [classifier, language_model, adapted, lambda: nn.Linear(3, 2)],
    ids=["bert", "llama", "lora", "plain"],
)
def test_to_the_file_and_back_is_the_same_posterior(make):
    model = make()
    optimizer = optimizer_of(model, RECIPE, ess=1.0, seed=0)
    optimizer.posterior(model)  # which makes the state
    for p in model.parameters():
        if p.requires_grad:
            optimizer.state[p]["H"].copy_(torch.rand_like(p) + 0.1)
    own = optimizer.posterior(model)
    back = posterior_for_model(model, posterior_for_file(model, optimizer))
    assert torch.equal(back.mode().vector, own.mode().vector)
    assert torch.equal(back.natural()[0], own.natural()[0])
    assert back.layout == own.layout


def test_a_posterior_of_another_model_is_refused():
    one, other = nn.Linear(3, 2), nn.Linear(3, 3)
    posterior = posterior_for_file(one, optimizer_of(one, RECIPE, ess=1.0, seed=0))
    with pytest.raises(ParamsError, match="'weight' has shape"):
        posterior_for_model(other, posterior)


def test_a_trainable_parameter_that_an_adapters_file_leaves_out_is_named():
    model = adapted()
    model.base_model.model.bert.embeddings.word_embeddings.weight.requires_grad_(True)
    with pytest.raises(
        InputError, match=r"word_embeddings.weight' is trainable, but it is no part of the adapter's file"
    ):
        in_file(model)


def test_groups_of_different_options_have_no_one_provenance():
    model = nn.Linear(3, 2)
    groups = [{"params": [model.weight], "ess": 5.0}, {"params": [model.bias]}]
    optimizer = IVON(groups, lr=0.1, ess=7.0, hess_init=0.5)
    with pytest.raises(InputError, match=r"have ess 5.0 and 7.0"):
        ivon_provenance(optimizer, reduction="mean", examples=3, batch_size=1)
    same = IVON([{"params": [model.weight]}, {"params": [model.bias]}], lr=0.1, ess=7.0, hess_init=0.5)
    assert ivon_provenance(same, reduction="mean", examples=3, batch_size=1).steps == 0


def test_a_hessian_that_is_mostly_its_initial_value_is_told():
    assert memory_note(0.5) is None
    assert "99 % its initial value" in memory_note(0.99)
