"""Files to core and back: checkpoints, posteriors beside them, merging without holding a model in memory."""

from previa.io.checkpoint import Checkpoint, open_checkpoint, save_checkpoint
from previa.io.merge_files import merge_checkpoints
from previa.io.optimizer_file import open_optimizer
from previa.io.posterior_file import load_posterior, open_posterior, save_posterior
from previa.io.provenance import Provenance, check_conventions
from previa.io.weightings import Anchor

__all__ = [
    "Anchor",
    "Checkpoint",
    "Provenance",
    "check_conventions",
    "load_posterior",
    "merge_checkpoints",
    "open_checkpoint",
    "open_optimizer",
    "open_posterior",
    "save_checkpoint",
    "save_posterior",
]
