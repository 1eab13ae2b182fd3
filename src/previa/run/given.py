"""Checkpoints and posteriors that a study's tasks bring along, instead of being finetuned here."""

from __future__ import annotations

from pathlib import Path

from previa.core.diagonal import Diagonal
from previa.core.isotropic import Isotropic
from previa.core.params import Flat, Params
from previa.errors import InputError, ParamsError
from previa.io.checkpoint import open_checkpoint
from previa.io.posterior_file import load_posterior, open_posterior
from previa.io.provenance import Provenance
from previa.run.resolve import Ingredients
from previa.study.settings import TaskSettings


def given_mean(ingredients: Ingredients, task: str) -> Flat:
    """The trainable parameters in the checkpoint of a task that brings one.

    Raises FileError; ParamsError naming task and tensor where the checkpoint is not of this model, or differs from it in a
    tensor that is not merged.
    """
    path, folders = settings_of(ingredients, task).checkpoint, ingredients.folders
    assert path is not None
    if folders is not None and task in folders.kept:
        return folders.kept[task]
    mean = given_params(ingredients, path, f"task {task!r}, {path}")
    if folders is not None:
        folders.kept[task] = mean
    return mean


def given_params(ingredients: Ingredients, path: Path, where: str) -> Flat:
    """The trainable parameters in a checkpoint of the study's model. Raises as given_mean, each error beginning with ``where``."""
    folders = ingredients.folders
    found = open_checkpoint(path, finite=True) if folders is None else folders.parameters(path, where)
    state = ingredients.model.state_dict()
    for name in found:
        if name not in state:
            raise ParamsError(
                f"{where}: tensor {name!r} is not in the study's model. All tasks must come from one base model."
            )
    layout = ingredients.layout
    _same_frozen(found, ingredients, where)
    mine = {name: found[name] for name in found if name in layout.places}
    layout.check(mine, where, "those of the study's model")
    return Flat.of(mine, layout, where)


def given_posterior(ingredients: Ingredients, task: str) -> tuple[Diagonal, Provenance] | None:
    """The posterior of a task that brings one, and its provenance; None where it brings a checkpoint only.

    Raises FileError, ParamsError; InputError where it was made under another convention than the study's.
    """
    path = settings_of(ingredients, task).posterior
    if path is None:
        return None
    folders = ingredients.folders
    beside = None
    if not open_posterior(path).has_mean:
        own = given_mean(ingredients, task)
        beside = own if folders is None else folders.in_file(own)
    try:
        posterior, provenance = load_posterior(path, beside)
    except ParamsError as error:
        hint = " Heads and frozen tensors have none in a study: `previa posterior --frozen` leaves them out."
        raise ParamsError(f"task {task!r}: {error}{hint if folders is not None else ''}") from error
    if provenance.reduction != ingredients.study.convention:
        raise InputError(
            f"task {task!r}, {path}: its precision is of the {provenance.reduction} of the losses, but the study's "
            f"convention is {ingredients.study.convention!r}. Make it again, or change the study's convention."
        )
    where, layout = f"task {task!r}, {path}", ingredients.layout
    if isinstance(posterior, Isotropic):
        posterior = Diagonal(posterior.mode(), float(posterior.precision))
    if folders is not None:
        posterior = folders.posterior_in_model(posterior, where)
    mean = Flat.of(posterior.mode(), layout, where)
    return Diagonal(mean, Flat.of(Flat(posterior.layout, posterior.natural()[0]), layout, where)), provenance


def settings_of(ingredients: Ingredients, task: str) -> TaskSettings:
    """The [[task]] of this name."""
    return next(settings for settings in ingredients.study.tasks if settings.name == task)


def _same_frozen(found: Params, ingredients: Ingredients, where: str) -> None:
    for name, parameter in ingredients.model.named_parameters():
        if (
            not parameter.requires_grad
            and name in found
            and not (
                found[name].shape == parameter.shape and bool((found[name].to(parameter) == parameter).all())
            )
        ):
            raise ParamsError(
                f"{where}: tensor {name!r} differs from the study's model, where it is frozen and so not merged. Build the "
                "model with the tasks' common base, or let this tensor be trained."
            )
