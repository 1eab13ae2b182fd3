"""A study of folders: previews of transformers' checkpoints and adapters from a study file, to the report and the joint run."""

import os

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from previa.io.merge_folders import merge_folders
from previa.io.merging import Sources
from previa.run.fit import fit
from previa.run.pipeline import preview
from previa.run.work import opened
from previa.study.file import study_from_dict
from tiny_folders import (
    classifier,
    labelled,
    language_model,
    sentences,
    translator,
    viewer,
    write_lines,
)

os.environ["HF_HUB_OFFLINE"] = "1"


def settings(tmp_path, make=classifier, task_type="sequence-classification", rows=labelled, **transformers):
    """A base, two tasks' checkpoints that are other models of the kind, and their rows."""
    make(tmp_path / "base", seed=0)
    for number, name in enumerate(("a", "b"), 1):
        make(tmp_path / name, seed=number)
        write_lines(tmp_path / f"{name}-train.jsonl", rows(12 + 4 * number, seed=10 * number))
        write_lines(tmp_path / f"{name}-test.jsonl", rows(9, seed=10 * number + 5))
    tasks = [
        {"name": name, "checkpoint": name, "train": f"{name}-train.jsonl", "test": f"{name}-test.jsonl"}
        for name in ("a", "b")
    ]
    return {
        "study": {"name": "tiny", "model": "base"},
        "transformers": {"task_type": task_type, **transformers},
        "task": tasks,
        "finetune": {"batch_size": 4},
        "preview": {"steps": 4},
    }


def previewed(table, folder):
    study = study_from_dict(table, folder=folder)
    with opened(study) as work:
        runs = fit(work)
        return work.ingredients, runs, preview(work, runs)


def score_of_folder(ingredients, folder, task):
    """The same score of a model that transformers loads from a folder."""
    model = ingredients.folders.loaded.model
    state = AutoModelForSequenceClassification.from_pretrained(folder).state_dict()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(state)
    with torch.no_grad():
        found = ingredients.score(model.eval(), ingredients.data[task][1])
    model.load_state_dict(before)
    return float(np.mean(np.asarray(found)))


def test_a_study_file_of_folders_gives_the_scores_of_the_folders_that_merge_writes(tmp_path):
    table = settings(tmp_path)
    ingredients, runs, found = previewed(table, tmp_path)
    tasks = {name: tmp_path / name for name in ("a", "b")}
    assert set(found) == {"simple", "squared_gradients"}
    posteriors = {name: tmp_path / f"tiny-out/runs/{name}/squared_gradients.safetensors" for name in tasks}
    for method, precision in (("simple", None), ("squared_gradients", posteriors)):
        merge_folders(
            Sources(tmp_path / "base", tasks, precisions=precision), [[0.25, 0.75]], [tmp_path / method]
        )
        row = int(np.argmin(np.abs(found[method].alphas - [0.25, 0.75]).sum(1)))
        for t, name in enumerate(tasks):
            assert found[method].scores[row, t] == pytest.approx(
                score_of_folder(ingredients, tmp_path / method, name), abs=1e-6
            )


@pytest.mark.parametrize(
    ("make", "task_type", "rows"),
    [
        (language_model, "causal-lm", lambda N, seed: [{"text": text} for text in sentences(N, seed)]),
        (
            translator,
            "seq2seq",
            lambda N, seed: [
                {"source": one, "target": other}
                for one, other in zip(sentences(N, seed), sentences(N, seed + 1), strict=True)
            ],
        ),
        (
            viewer,
            "image-classification",
            lambda N, seed: [
                {
                    "image": np.random.default_rng(seed + i).integers(0, 255, (8, 8, 3)).tolist(),
                    "label": i % 3,
                }
                for i in range(N)
            ],
        ),
    ],
    ids=["causal-lm", "seq2seq", "image-classification"],
)
def test_every_task_type_is_previewed(tmp_path, make, task_type, rows):
    ingredients, _, found = previewed(settings(tmp_path, make, task_type, rows), tmp_path)
    for one in found.values():
        assert one.ok.all()
        assert {len(items[0]) for items in one.items if items is not None} <= {9}
        assert np.ptp(one.scores[:, 0]) > 0 or task_type == "image-classification"
