"""A study at work: its ingredients, its store, and what its settings mean for a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from previa.errors import StudyError
from previa.run.recipe import AdamWRecipe, IvonRecipe, Recipe
from previa.run.records import digest_of_data, digest_of_test, make_folder
from previa.run.resolve import Ingredients, load
from previa.study.file import Study
from previa.study.settings import FinetuneSettings
from previa.study.simplex import grid, key, uniform
from previa.study.store import Store

SEEDS = 10_000  # runs of one study; the next study's seeds begin after them


@dataclass(frozen=True)
class Work:
    """A study's ingredients and its open store."""

    ingredients: Ingredients
    store: Store

    @property
    def study(self) -> Study:
        """The study file's settings."""
        return self.ingredients.study

    @property
    def uniform(self) -> NDArray[np.float64]:
        """The same weight for every task, [T]."""
        return uniform(len(self.study.tasks))

    @property
    def size_proportional(self) -> NDArray[np.float64]:
        """alpha_t = N_t / sum N, [T]."""
        sizes = np.array([self.ingredients.sizes[name] for name in self.study.names()], dtype=np.float64)
        return np.asarray(sizes / sizes.sum())

    def alphas(self, steps: int, *more: NDArray[Any]) -> NDArray[np.float64]:
        """The grid of ``steps`` (none when 0), uniform, size-proportional and ``more``, each weighting once: [A, T]."""
        T = len(self.study.tasks)
        rows = [*(grid(T, steps) if steps else ()), self.uniform, self.size_proportional, *more]
        return np.stack(list({key(row): row for row in rows}.values()))

    def note_seconds(self, name: str, total: float) -> None:
        """Make ``total`` the store's cost of this work, however often it is said."""
        self.store.add_seconds(name, total - self.store.seconds().get(name, 0.0))


@contextmanager
def opened(study: Study) -> Iterator[Work]:
    """The study at work in its output folder, made when missing: study.db there holds its results.

    Raises StudyError for a model, data or functions that cannot be used; StoreError where the folder holds the results of
    another study, of other data or of other code; FileError where it cannot be written.
    """
    _check_ess(study)
    ingredients = load(study)
    data = {
        task: {"train": digest_of_data(task, train), "test": digest_of_test(test)}
        for task, (train, test) in ingredients.data.items()
    }
    fingerprint = {**study.facts(), "code": ingredients.code, "data": data, "sizes": ingredients.sizes}
    make_folder(study.out)
    with Store.open(
        study.out / "study.db",
        tasks=study.names(),
        convention=study.convention,
        fingerprint=fingerprint,
        provenance={"name": study.name},
    ) as store:
        store.put("sizes", ingredients.sizes)
        store.put("metric_weights", study.metric_weights())
        yield Work(ingredients, store)


def ivon_recipe(study: Study, *, snapshots: tuple[int, ...] = ()) -> Recipe:
    """The recipe of [finetune]: of a task's own run and of every joint one."""
    settings = study.finetune
    return Recipe(
        optimizer=IvonRecipe(
            lr=settings.lr,
            ess=settings.ess if study.convention == "mean" else None,
            hess_init=settings.hess_init,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
            samples=settings.mc_samples,
        ),
        steps=settings.steps,
        batch_size=settings.batch_size,
        convention=convention(study),
        sampling=cast(Literal["loss", "sample"], settings.sampling),
        snapshots=snapshots,
    )


def pretrain_recipe(study: Study) -> Recipe:
    """The recipe of [pretrain]: IVON with the options of [finetune] and steps, batches and learning rate of its own."""
    assert study.pretrain is not None
    recipe = ivon_recipe(study)
    assert isinstance(recipe.optimizer, IvonRecipe)
    return replace(
        recipe,
        optimizer=replace(recipe.optimizer, lr=study.pretrain.lr),
        steps=study.pretrain.steps,
        batch_size=study.pretrain.batch_size,
    )


def adamw_recipe(study: Study) -> Recipe:
    """The recipe of [adamw], with the batches of [finetune]."""
    return Recipe(
        optimizer=AdamWRecipe(lr=study.adamw.lr, weight_decay=study.adamw.weight_decay),
        steps=study.adamw.steps,
        batch_size=study.finetune.batch_size,
        convention=convention(study),
        sampling=cast(Literal["loss", "sample"], study.finetune.sampling),
    )


def joint_recipe(study: Study) -> Recipe:
    """The recipe of every joint run: that of [finetune], or of [adamw] where [truth] says so."""
    return ivon_recipe(study) if study.truth.optimizer == "ivon" else adamw_recipe(study)


def snapshot_steps(study: Study) -> tuple[int, ...]:
    """After which steps of [finetune] a component of the mixture is kept."""
    return study.snapshot_steps()


def convention(study: Study) -> Literal["mean", "sum"]:
    """What alpha multiplies, METHOD 2."""
    return cast(Literal["mean", "sum"], study.convention)


def seed_of(study: Study, number: int = 0) -> int:
    """The seed of the study's run ``number``; joint runs are number 0, as each task's first own run."""
    return study.seed * SEEDS + number


def _check_ess(study: Study) -> None:
    if study.convention == "sum" and study.finetune.ess != FinetuneSettings().ess:
        raise StudyError(
            f"[finetune] ess = {study.finetune.ess:g} would have no effect: with convention = 'sum' it is sum_t alpha_t N_t. "
            "Leave ess out, or use convention = 'mean'."
        )
