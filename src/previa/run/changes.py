"""What became of a study's tasks since its store was made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from previa.errors import StudyError
from previa.run.resolve import modules
from previa.study._facts import differences
from previa.study.file import Study
from previa.study.store import Store

OF_ALL = ("model", "loss", "score", "convention", "seed", "pretrain", "finetune", "transformers")
"""facts of a study that all its results rest on"""


@dataclass(frozen=True)
class Changes:
    """What became of the tasks: dropped, added, with other training data, other test data or score, another checkpoint."""

    dropped: tuple[str, ...]
    added: tuple[str, ...]
    trained: tuple[str, ...]
    tested: tuple[str, ...]
    brought: tuple[str, ...]
    reordered: bool

    @property
    def none(self) -> bool:
        """Whether all tasks are as they were."""
        return not (
            self.dropped or self.added or self.trained or self.tested or self.brought or self.reordered
        )


def changes_of(old: Store, new: Store, study: Study) -> Changes:
    """By the facts of the two stores. Raises StudyError where something else than tasks changed, or nothing did."""
    before, now = old.fingerprint, new.fingerprint
    both = {name: (before.get(name), now.get(name)) for name in OF_ALL}
    if old.convention != new.convention:
        both["convention"] = old.convention, new.convention
    of_all = [study.model, study.loss, study.score]
    of_all += [study.pretrain.data] if study.pretrain else []
    of_all += [study.transformers.task_type] if study.transformers else []
    shared = modules(*of_all)
    for name in shared:
        both[f"code.{name}"] = before["code"].get(name), now["code"].get(name)
    said = [text for name, (a, b) in both.items() for text in differences(a, b, name)]
    if said:
        raise StudyError(
            f"{old.path}: not only tasks changed: {'; '.join(said)}. All results rest on that. Put it back, or give the study "
            "another output folder. (A new task whose function is in the module of the model, the loss or the score changes that "
            "module: put it into one of its own.)"
        )
    names = [name for name in old.tasks if name in new.tasks]
    was, is_ = (_of_tasks(store.fingerprint) for store in (old, new))
    trained = [name for name in names if was[name]["train"] != is_[name]["train"]]
    tested = [name for name in names if was[name]["test"] != is_[name]["test"]]
    brought = [name for name in names if was[name]["brought"] != is_[name]["brought"]]
    found = Changes(
        tuple(name for name in old.tasks if name not in new.tasks),
        tuple(name for name in new.tasks if name not in old.tasks),
        tuple(trained),
        tuple(tested),
        tuple(brought),
        names != [name for name in new.tasks if name in old.tasks],
    )
    if found.none:
        raise StudyError(f"{old.path}: the tasks are as they were, so there is nothing to revise.")
    return found


def _of_tasks(fingerprint: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """name -> what its part in training, its score, and its own run rest on, where that is brought."""
    found = {}
    for task in fingerprint["task"]:
        name, references = task["name"], [task.get(key) for key in ("data", "train", "test", "score")]
        code = {m: fingerprint["code"].get(m) for m in modules(*references)}
        alike = {
            k: v
            for k, v in task.items()
            if k not in ("checkpoint", "posterior", "score", "test", "test_split")
        }
        data = fingerprint["data"][name]
        found[name] = {
            "train": [data["train"], code, alike, fingerprint["sizes"][name]],
            "test": [data["test"], task.get("score"), code],
            "brought": [task.get("checkpoint"), task.get("posterior")],
        }
    return found
