"""previa: fast previews of multitask finetuning for every task weighting, by Bayesian model merging (arXiv 2412.08147)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from previa.core.beta import Beta
    from previa.core.damping import damped
    from previa.core.diagonal import Diagonal
    from previa.core.full import Full
    from previa.core.isotropic import Isotropic
    from previa.core.merge import merge
    from previa.core.mixture import Mixture
    from previa.core.modes import Modes, mode_parts, modes
    from previa.core.params import Flat, Layout
    from previa.core.runs import Run
    from previa.core.student_t import StudentT

_HOMES = {
    "Beta": "core.beta",
    "Diagonal": "core.diagonal",
    "Flat": "core.params",
    "Full": "core.full",
    "Isotropic": "core.isotropic",
    "Layout": "core.params",
    "Mixture": "core.mixture",
    "Modes": "core.modes",
    "Run": "core.runs",
    "StudentT": "core.student_t",
    "damped": "core.damping",
    "merge": "core.merge",
    "mode_parts": "core.modes",
    "modes": "core.modes",
}

__all__ = [
    "Beta",
    "Diagonal",
    "Flat",
    "Full",
    "Isotropic",
    "Layout",
    "Mixture",
    "Modes",
    "Run",
    "StudentT",
    "damped",
    "merge",
    "mode_parts",
    "modes",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used, so that ``import previa`` does not import torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'previa' has no attribute {name!r}")
    return getattr(import_module(f"previa.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
