"""previa: fast previews of multitask finetuning for every task weighting, by Bayesian model merging (arXiv 2412.08147)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from previa.core.anchored import anchored
    from previa.core.beta import Beta
    from previa.core.damping import damped
    from previa.core.diagonal import Diagonal
    from previa.core.full import Full
    from previa.core.into import modes_into
    from previa.core.isotropic import Isotropic
    from previa.core.kronecker import Kronecker, kronecker_damping, regmean
    from previa.core.merge import merge
    from previa.core.mixture import Mixture
    from previa.core.modes import Modes, mode_parts, modes
    from previa.core.params import Flat, Layout
    from previa.core.runs import Run
    from previa.core.student_t import StudentT
    from previa.core.warp import warp, warped
    from previa.fit.adam_moments import AdamMoments, adam_moments
    from previa.fit.centre import from_centre
    from previa.fit.derivatives import by_autograd
    from previa.fit.ivon import IVON
    from previa.fit.ivon_interop import read_ivon_opt
    from previa.fit.kronecker_factors import input_moments, kronecker_factors
    from previa.fit.labels import Expected, Given, Sampled
    from previa.fit.mixture_vi import mixture_vi, scattered
    from previa.fit.snapshots import snapshot_posterior
    from previa.fit.square_sums import SquareSums
    from previa.fit.squared_gradients import squared_gradients
    from previa.fit.token_labels import SampledTokens
    from previa.fit.von import von
    from previa.io.checkpoint import open_checkpoint, save_checkpoint
    from previa.io.merge_files import merge_checkpoints
    from previa.io.optimizer_file import open_optimizer
    from previa.io.posterior_file import load_posterior, save_posterior
    from previa.io.provenance import Provenance
    from previa.run.finetune import finetune
    from previa.run.powers import choose_power
    from previa.run.recipe import AdamWRecipe, IvonRecipe, Recipe
    from previa.run.scoring import accuracy, scorer
    from previa.run.sweep import sweep
    from previa.study.band import band, covers
    from previa.study.compare import compare
    from previa.study.correct import corrected
    from previa.study.design import propose
    from previa.study.disagreement import disagreement
    from previa.study.file import read_study
    from previa.study.knee import knee
    from previa.study.pareto import compare_fronts, front, hypervolume
    from previa.study.preference import Preference, experts_of
    from previa.study.preview import Preview
    from previa.study.recommend import recommend
    from previa.study.search import suggest
    from previa.study.simplex import grid
    from previa.study.store import Store
    from previa.study.surrogate import gaussian_process, interpolated

_HOMES = {
    "AdamMoments": "fit.adam_moments",
    "AdamWRecipe": "run.recipe",
    "Beta": "core.beta",
    "Diagonal": "core.diagonal",
    "Expected": "fit.labels",
    "Flat": "core.params",
    "Full": "core.full",
    "Given": "fit.labels",
    "IVON": "fit.ivon",
    "Isotropic": "core.isotropic",
    "IvonRecipe": "run.recipe",
    "Kronecker": "core.kronecker",
    "Layout": "core.params",
    "Mixture": "core.mixture",
    "Modes": "core.modes",
    "Preference": "study.preference",
    "Preview": "study.preview",
    "Provenance": "io.provenance",
    "Recipe": "run.recipe",
    "Run": "core.runs",
    "Sampled": "fit.labels",
    "SampledTokens": "fit.token_labels",
    "SquareSums": "fit.square_sums",
    "Store": "study.store",
    "StudentT": "core.student_t",
    "accuracy": "run.scoring",
    "adam_moments": "fit.adam_moments",
    "anchored": "core.anchored",
    "band": "study.band",
    "by_autograd": "fit.derivatives",
    "choose_power": "run.powers",
    "compare": "study.compare",
    "compare_fronts": "study.pareto",
    "corrected": "study.correct",
    "covers": "study.band",
    "damped": "core.damping",
    "disagreement": "study.disagreement",
    "experts_of": "study.preference",
    "finetune": "run.finetune",
    "from_centre": "fit.centre",
    "front": "study.pareto",
    "gaussian_process": "study.surrogate",
    "grid": "study.simplex",
    "hypervolume": "study.pareto",
    "input_moments": "fit.kronecker_factors",
    "interpolated": "study.surrogate",
    "knee": "study.knee",
    "kronecker_damping": "core.kronecker",
    "kronecker_factors": "fit.kronecker_factors",
    "load_posterior": "io.posterior_file",
    "merge": "core.merge",
    "merge_checkpoints": "io.merge_files",
    "mixture_vi": "fit.mixture_vi",
    "mode_parts": "core.modes",
    "modes": "core.modes",
    "modes_into": "core.into",
    "open_checkpoint": "io.checkpoint",
    "open_optimizer": "io.optimizer_file",
    "propose": "study.design",
    "read_ivon_opt": "fit.ivon_interop",
    "read_study": "study.file",
    "recommend": "study.recommend",
    "regmean": "core.kronecker",
    "save_checkpoint": "io.checkpoint",
    "save_posterior": "io.posterior_file",
    "scattered": "fit.mixture_vi",
    "scorer": "run.scoring",
    "snapshot_posterior": "fit.snapshots",
    "squared_gradients": "fit.squared_gradients",
    "suggest": "study.search",
    "sweep": "run.sweep",
    "von": "fit.von",
    "warp": "core.warp",
    "warped": "core.warp",
}

__all__ = [
    "AdamMoments",
    "AdamWRecipe",
    "Beta",
    "Diagonal",
    "Expected",
    "Flat",
    "Full",
    "Given",
    "IVON",
    "Isotropic",
    "IvonRecipe",
    "Kronecker",
    "Layout",
    "Mixture",
    "Modes",
    "Preference",
    "Preview",
    "Provenance",
    "Recipe",
    "Run",
    "Sampled",
    "SampledTokens",
    "SquareSums",
    "Store",
    "StudentT",
    "accuracy",
    "adam_moments",
    "anchored",
    "band",
    "by_autograd",
    "choose_power",
    "compare",
    "compare_fronts",
    "corrected",
    "covers",
    "damped",
    "disagreement",
    "experts_of",
    "finetune",
    "from_centre",
    "front",
    "gaussian_process",
    "grid",
    "hypervolume",
    "input_moments",
    "interpolated",
    "knee",
    "kronecker_damping",
    "kronecker_factors",
    "load_posterior",
    "merge",
    "merge_checkpoints",
    "mixture_vi",
    "mode_parts",
    "modes",
    "modes_into",
    "open_checkpoint",
    "open_optimizer",
    "propose",
    "read_ivon_opt",
    "read_study",
    "recommend",
    "regmean",
    "save_checkpoint",
    "save_posterior",
    "scattered",
    "scorer",
    "snapshot_posterior",
    "squared_gradients",
    "suggest",
    "sweep",
    "von",
    "warp",
    "warped",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used, so that ``import previa`` does not import torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'previa' has no attribute {name!r}")
    return getattr(import_module(f"previa.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
