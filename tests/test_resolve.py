"""Names in a study file become the user's own functions, or one clear sentence."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from previa.errors import NotFiniteError, StudyError
from previa.run.resolve import importable, load, resolve
from previa.run.scoring import accuracy
from previa.study.file import study_from_dict

MODULE = """
import torch
from torch import nn
from torch.nn.functional import cross_entropy

number = 3

class Deep:
    @staticmethod
    def build():
        return nn.Linear(3, 2)

def build():
    return nn.Linear(3, 2)

def with_norm():
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))

def no_model():
    return 7

def data():
    return (torch.ones(6, 3), torch.zeros(6).long()), (torch.ones(4, 3), torch.zeros(4).long())

def no_pair():
    return torch.ones(3), torch.ones(3), torch.ones(3)

def broken():
    return 1 / 0

def complaining():
    from previa.errors import NotFiniteError
    raise NotFiniteError("a sentence of previa's own")

def loss(model, batch):
    return cross_entropy(model(batch[0]), batch[1], reduction="none")

def score(model, test):
    return 1.0
"""


@pytest.fixture
def folder(tmp_path):
    """A folder with a module of its own name, forgotten afterwards."""
    name = f"mine_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    yield tmp_path, name
    sys.modules.pop(name, None)


def study(folder: Path, name: str, **keys: str):
    table = {
        "study": {
            "name": "s",
            "model": f"{name}:{keys.pop('model', 'build')}",
            **{k: f"{name}:{v}" for k, v in keys.items()},
        },
        "task": [{"name": "a", "data": f"{name}:data"}, {"name": "b", "data": f"{name}:data"}],
    }
    return study_from_dict(table, folder=folder)


def test_a_module_beside_the_study_is_found_and_the_path_is_left_alone(folder):
    path, name = folder
    before = list(sys.path)
    assert isinstance(resolve(f"{name}:build", path)(), nn.Linear)
    assert isinstance(resolve(f"{name}:Deep.build", path)(), nn.Linear)
    assert sys.path == before


def test_the_current_directory_counts_too(folder, tmp_path_factory, monkeypatch):
    path, name = folder
    monkeypatch.chdir(path)
    assert callable(resolve(f"{name}:build", tmp_path_factory.mktemp("elsewhere")))


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("{0}:bulid", r"has no 'bulid'. Did you mean 'build'\?"),
        ("{0}:number", "is int, not a function"),
        ("{0}x:build", r"there is no module .*Did you mean '{0}'\?"),
        ("no_such_module_anywhere:build", "there is no module"),
        ("{0}", "should be written 'module:name'"),
    ],
)
def test_wrong_names_are_refused_with_the_nearest(folder, reference, message):
    path, name = folder
    with pytest.raises(StudyError, match=message.format(name)):
        resolve(reference.format(name), path, "model")


def test_a_module_that_cannot_be_imported_says_why(tmp_path):
    (tmp_path / "needs_more.py").write_text("import a_library_that_is_not_there")
    (tmp_path / "raises_at_once.py").write_text("1 / 0")
    with pytest.raises(StudyError, match="needs 'a_library_that_is_not_there', which is not installed"):
        resolve("needs_more:build", tmp_path)
    with pytest.raises(StudyError, match="importing 'raises_at_once' failed: ZeroDivisionError"):
        resolve("raises_at_once:build", tmp_path)


def test_a_module_hidden_by_one_of_the_same_name_is_refused(tmp_path):
    (tmp_path / "json.py").write_text("def build(): ...")
    with pytest.raises(StudyError, match="Rename one of the two modules"):
        resolve("json:build", tmp_path)


def test_ingredients_are_the_users_objects(folder):
    found = load(study(*folder, loss="loss", score="score"))
    assert isinstance(found.model, nn.Linear)
    assert found.sizes == {"a": 6, "b": 6}
    assert found.loss(found.model, found.train["a"]).shape == (6,)
    assert found.scorer(found.model) == {"a": 1.0, "b": 1.0}
    assert found.recalibrate is None
    assert list(found.base) == ["weight", "bias"]
    assert found.base["weight"].data_ptr() != found.model.weight.data_ptr()


def test_the_model_is_drawn_with_the_studys_seed_and_the_global_state_is_kept(folder):
    state = torch.get_rng_state()
    first, second = load(study(*folder)), load(study(*folder))
    assert torch.equal(first.base.vector, second.base.vector)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.score is accuracy


def test_running_statistics_are_recalibrated_on_the_tasks_training_data(folder):
    found = load(study(*folder, model="with_norm"))
    found.recalibrate(found.model)
    torch.testing.assert_close(found.model[1].running_mean, found.model[0](torch.ones(1, 3))[0].detach())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("no_model", "returned int; expected a torch.nn.Module"),
        ("broken", r"raised ZeroDivisionError: division by zero \(in broken, line \d+\)"),
    ],
)
def test_a_model_function_that_gives_none_is_refused(folder, model, message):
    with pytest.raises(StudyError, match=message):
        load(study(*folder, model=model))


def test_data_must_be_a_pair(folder):
    path, name = folder
    table = {
        "study": {"name": "s", "model": f"{name}:build"},
        "task": [{"name": "a", "data": f"{name}:no_pair"}, {"name": "b", "data": f"{name}:data"}],
    }
    with pytest.raises(StudyError, match=r"data of task 'a' = .* returned tuple of 3; expected the pair"):
        load(study_from_dict(table, folder=path))


def test_previas_own_errors_pass_as_they_are(folder):
    with pytest.raises(NotFiniteError, match="a sentence of previa's own"):
        load(study(*folder, model="complaining"))


def test_importable_adds_and_removes(tmp_path):
    with importable(tmp_path):
        assert str(tmp_path.resolve()) in sys.path
    assert str(tmp_path.resolve()) not in sys.path
