"""The study file: its defaults, its paths, and one sentence for each thing that can be wrong."""

import copy
import re
import tomllib
from pathlib import Path

import pytest

from previa.errors import FileError, StudyError
from previa.study.file import Study, read_study, study_from_dict
from previa.study.settings import METHODS
from previa.study.store import Store

SMALL = """
[study]
name = "digits"
model = "previa.data.digits:build"

[[task]]
name = "0-2"
data = "previa.data.digits:task_a"

[[task]]
name = "3-5"
data = "previa.data.digits:task_b"
"""

FULL = """
[study]
name = "mine"
model = "m:build"
loss = "pkg.sub:loss"
score = "pkg.sub:Scorer.score"
convention = "sum"
seed = 3
out = "there/out"
[pretrain]
data = "m:pre"
steps = 30
lr = 1
batch_size = 8
[[task]]
name = "a"
data = "m:a"
checkpoint = "a/model.safetensors"
posterior = "../posterior.safetensors"
metric_weight = 2
[[task]]
name = "b c"
data = "m:b"
checkpoint = "/far/model.safetensors"
[[task]]
name = "Über"
data = "m:c"
metric_weight = 0.0
[finetune]
steps = 15
batch_size = 16
lr = 0.01
ess = 500
hess_init = 0.2
weight_decay = 0
betas = [0.8, 0.9]
mc_samples = 2
sampling = "sample"
[adamw]
steps = 10
lr = 0.1
weight_decay = 0.5
prior = 0.25
labels = "expected"
[mixture]
seeds = 2
snapshots = 3
subsets = [[15], [5, 15]]
temperature = 10
blocks = "module"
[preview]
steps = 4
methods = ["mixture", "simple"]
[truth]
steps = 0
[recommend]
method = "simple"
"""


def test_a_small_study_file_has_the_documented_defaults(tmp_path):
    (tmp_path / "digits.toml").write_text(SMALL)
    s = read_study(tmp_path / "digits.toml")
    assert (s.name, s.model, s.loss, s.score, s.convention, s.seed) == (
        "digits",
        "previa.data.digits:build",
        None,
        None,
        "mean",
        0,
    )
    assert (s.out, s.folder) == (tmp_path / "digits-out", tmp_path)
    assert s.names() == ("0-2", "3-5")
    assert s.metric_weights() == {"0-2": 1.0, "3-5": 1.0}
    assert (s.tasks[0].checkpoint, s.tasks[0].posterior, s.pretrain) == (None, None, None)
    f = s.finetune
    assert (f.steps, f.batch_size, f.lr, f.ess, f.hess_init) == (150, 32, 0.1, 1000, 0.1)
    assert (f.weight_decay, f.betas, f.mc_samples, f.sampling) == (1e-3, (0.9, 0.99), 1, "loss")
    a, m = s.adamw, s.mixture
    assert (a.steps, a.lr, a.weight_decay, a.prior, a.labels) == (150, 1e-3, 0.0, 10.0, "given")
    assert (m.seeds, m.snapshots, m.temperature, m.blocks) == (5, 4, 1.0, "model")
    assert (s.preview.steps, s.preview.methods, s.truth.steps, s.recommend.method) == (
        20,
        (*METHODS, "warped", "anchored"),
        10,
        "anchored",
    )


def test_every_key_is_read_and_paths_are_from_the_file_s_folder(tmp_path):
    (tmp_path / "mine.toml").write_text(FULL, encoding="utf-8")
    s = read_study(tmp_path / "mine.toml")
    assert s.tasks[0].checkpoint == tmp_path / "a/model.safetensors"
    assert s.tasks[0].posterior == tmp_path / "../posterior.safetensors"
    assert s.tasks[1].checkpoint == Path("/far/model.safetensors")
    assert (s.out, s.convention, s.seed, s.loss, s.score) == (
        tmp_path / "there/out",
        "sum",
        3,
        "pkg.sub:loss",
        "pkg.sub:Scorer.score",
    )
    table = tomllib.loads(FULL)
    for name in ("pretrain", "finetune", "adamw", "mixture", "preview", "truth", "recommend"):
        got = getattr(s, name)
        for k, v in table[name].items():
            assert getattr(got, k) == frozen(v), (name, k)
    assert s.metric_weights() == {"a": 2.0, "b c": 1.0, "Über": 0.0}


def frozen(value: object) -> object:
    return tuple(map(frozen, value)) if isinstance(value, list) else value


def test_the_mixtures_of_the_paper_are_of_10_20_and_30_components():
    table = tomllib.loads(SMALL)
    table["mixture"] = {"seeds": 5, "snapshots": 6, "subsets": [[100, 150], [75, 100, 125, 150]]}
    s = study_from_dict(table)
    assert s.snapshot_steps() == (25, 50, 75, 100, 125, 150)
    assert s.mixtures() == {
        "mixture_10": (100, 150), "mixture_20": (75, 100, 125, 150), "mixture": (25, 50, 75, 100, 125, 150)
    }  # fmt: skip
    assert s.previews() == (*METHODS[:-1], "mixture_10", "mixture_20", "mixture", "warped", "anchored")
    assert s.recommend.method == "anchored"
    table["recommend"] = {"method": "mixture_10"}
    assert study_from_dict(table).recommend.method == "mixture_10"
    table["preview"] = {"methods": ["simple"]}
    table["mixture"]["subsets"] = []
    with pytest.raises(StudyError, match=r"one of those of \[preview\]: simple. Found 'mixture_10'"):
        study_from_dict(table)


def test_the_facts_are_what_results_rest_on_and_nothing_else(tmp_path):
    table = tomllib.loads(FULL)
    before = study_from_dict(table, folder=tmp_path).facts()
    assert before == study_from_dict(table, folder=tmp_path / "moved").facts()
    for name, k, v in (
        ("study", "out", "other"), ("study", "name", "x"), ("preview", "steps", 9), ("truth", "steps", 3),
        ("preview", "methods", ["simple", "ivon_hessian"]), ("recommend", "method", "mixture"),
        ("adamw", "labels", "given"), ("mixture", "temperature", 1.0), ("mixture", "subsets", []),
    ):  # fmt: skip
        same = copy.deepcopy(table)
        same[name][k] = v
        same["recommend"] = {} if k == "methods" else same["recommend"]
        same["mixture"] |= {"subsets": []} if k == "methods" else {}
        assert study_from_dict(same, folder=tmp_path).facts() == before, (name, k)
    for name, k, v in (
        ("study", "seed", 4), ("study", "model", "m:other"), ("study", "convention", "mean"), ("pretrain", "steps", 9),
        ("finetune", "lr", 0.2),
    ):  # fmt: skip
        other = copy.deepcopy(table)
        other[name][k] = v
        assert study_from_dict(other, folder=tmp_path).facts() != before, (name, k)
    other = copy.deepcopy(table)
    other["task"][0]["checkpoint"] = "b/model.safetensors"
    s = study_from_dict(other, folder=tmp_path)
    assert s.facts() != before
    with Store.open(tmp_path / "s.db", tasks=s.names(), convention="sum", fingerprint=s.facts()) as store:
        assert store.fingerprint["task"][0]["checkpoint"] == "b/model.safetensors"


def test_without_a_word_on_it_the_last_method_there_is_recommends():
    table = tomllib.loads(SMALL)
    table["preview"] = {"methods": ["simple", "ivon_hessian"]}
    assert study_from_dict(table).recommend.method == "ivon_hessian"


WRONG = [
    ("seed = 3", "sede = 3", r"\[study\]: there is no key 'sede'. Did you mean 'seed'\? Known are: name, model"),
    ("[finetune]", "[finetun]", r"there is no section 'finetun'. Did you mean 'finetune'\?"),
    ("mc_samples", "zzz", r"\[finetune\]: there is no key 'zzz'. Known are: steps, batch_size"),
    ("metric_weight = 2", "weight = 2", r"\[\[task\]\] number 1: there is no key 'weight'. Did you mean 'metric_weight'"),
    ('model = "m:build"', "", r"\[study\]: the key 'model' is missing"),
    ('data = "m:pre"', "", r"\[pretrain\]: the key 'data' is missing"),
    ('data = "m:b"', "", r"\[\[task\]\] number 2: the key 'data' is missing"),
    ('"m:build"', '"m.build"', r"\[study\]: model should be a function written as 'module:name'. Found 'm.build'"),
    ('"m:build"', "7", "model should be some text in quotes. Found 7"),
    ('"m:build"', '"m:"', "model should be a function"),
    ('"m:build"', '"my file.py:build"', "model should be a function"),
    ("steps = 15", "steps = true", r"\[finetune\]: steps should be a whole number, at least 1. Found True"),
    ("steps = 15", "steps = 15.0", "steps should be a whole number, at least 1. Found 15.0"),
    ("steps = 15", "steps = 0", "steps should be a whole number, at least 1. Found 0"),
    ("lr = 0.01", 'lr = "0.01"', r"\[finetune\]: lr should be a finite number above 0. Found '0.01'"),
    ("lr = 0.01", "lr = 0", "lr should be a finite number above 0. Found 0"),
    ("lr = 0.01", "lr = nan", "lr should be a finite number above 0. Found nan"),
    ("ess = 500", "ess = inf", "ess should be a finite number above 0. Found inf"),
    ("hess_init = 0.2", "hess_init = -1", "hess_init should be a finite number above 0"),
    ("weight_decay = 0\n", "weight_decay = -0.1\n", "weight_decay should be a finite number at least 0"),
    ("[0.8, 0.9]", "[0.8, 1.0]", "betas should be a finite number at least 0 and below 1"),
    ("[0.8, 0.9]", "[0.8]", "betas should be a list of two numbers"),
    ('"sample"', '"samples"', r"sampling should be one of 'loss', 'sample'; did you mean 'sample'\?. Found 'samples'"),
    ('"sum"', '"total"', "convention should be one of 'mean', 'sum'. Found 'total'"),
    ('["mixture", "simple"]', "[]", r"\[preview\]: methods should be a list of different names"),
    ('["mixture", "simple"]', '["simple", "simple"]', "methods should be a list of different names"),
    ('["mixture", "simple"]', '["joint"]', "methods should be one of 'simple', 'task_arithmetic'"),
    ('["mixture", "simple"]', '"simple"', "methods should be a list"),
    ('method = "simple"', 'method = "ivon_hessian"', r"\[recommend\]: method should be one of those of \[preview\]: mixture_2, mixture_4, mixture, simple"),
    ("snapshots = 3", "snapshots = 16", r"snapshots should be at most the steps of \[finetune\], 15. Found 16"),
    ("[[15], [5, 15]]", "[[15], [10, 12]]", r"\[mixture\]: subsets holds step 12, .* they are kept after 5, 10, 15"),
    ("[[15], [5, 15]]", "[[15], [10]]", r"subsets should be of different sizes, .* Found 1 snapshots, \[10\]"),
    ("[[15], [5, 15]]", "[[5, 10, 15]]", "smaller than all 3 snapshots. Found 3 snapshots"),
    ("[[15], [5, 15]]", "[2, 1]", r"subsets should be a list of lists of rising steps, such as \[\[100, 150\]\]. Found"),
    ("[[15], [5, 15]]", "[[15, 5]]", "subsets should be a list of lists of rising steps"),
    ("[[15], [5, 15]]", "[[]]", "subsets should be a list of lists of rising steps"),
    ("[[15], [5, 15]]", "[[15], [15]]", "subsets should be a list of lists of rising steps"),
    ("[[15], [5, 15]]", "3", "subsets should be a list of lists of rising steps"),
    ('method = "simple"', 'method = "mixure"', r"those of \[preview\]: mixture_2, mixture_4, mixture, simple. Found 'mixure'"),
    ("temperature = 10", "temperature = 0", "temperature should be a finite number above 0"),
    ('name = "b c"', 'name = "a"', r"\[\[task\]\] number 2: two tasks are named 'a'. Rename one"),
    ('name = "b c"', 'name = ""', "name should be a name in quotes, without slashes"),
    ('name = "b c"', 'name = " "', "name should be a name in quotes"),
    ('name = "b c"', 'name = "glue/sst2"', "name should be a name in quotes, without slashes.* Found 'glue/sst2'"),
    ('name = "b c"', 'name = ".."', "name should be a name in quotes"),
    ('name = "b c"', "name = 2", "name should be a name in quotes.* Found 2"),
    ("metric_weight = 2", "metric_weight = -2", "metric_weight should be a finite number at least 0"),
    ('checkpoint = "a/model.safetensors"', "", "'a': a posterior needs its checkpoint"),
    ('checkpoint = "a/model.safetensors"', "checkpoint = 3", "checkpoint should be some text in quotes. Found 3"),
    ("[study]", "[study", r"mine.toml: this is not valid TOML: .*line 2"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "words"), WRONG)
def test_what_is_wrong_is_said_in_one_sentence_with_file_and_key(tmp_path, old, new, words):
    assert old in FULL
    (tmp_path / "mine.toml").write_text(FULL.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(StudyError, match=words) as caught:
        read_study(tmp_path / "mine.toml")
    assert str(caught.value).startswith(f"{tmp_path / 'mine.toml'}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("study"), r"the section \[study\] is missing"),
        (lambda t: t.pop("task"), "at least two tasks.* Found 0"),
        (lambda t: t["task"].pop(), "at least two tasks.* Found 1"),
        (lambda t: t.update(task=t["task"][0]), r"\[\[task\]\] in double brackets"),
        (lambda t: t.update(task=["a", "b"]), r"number 1: expected a table of keys. Found 'a'"),
        (lambda t: t.update(truth=3), r"\[truth\]: expected a table of keys. Found 3"),
        (lambda t: t.update(recommend=3), r"\[recommend\]: expected a table"),
        (lambda t: [x.update(metric_weight=0) for x in t["task"]], "metric_weight is 0 for every task"),
    ],
)
def test_a_table_of_another_shape_is_refused(change, words):
    table = tomllib.loads(SMALL)
    change(table)
    with pytest.raises(StudyError, match=words):
        study_from_dict(table)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(FileError, match=re.escape(str(tmp_path / "no.toml"))):
        read_study(tmp_path / "no.toml")
    with pytest.raises(FileError, match="cannot be read"):
        read_study(tmp_path)
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StudyError, match="no text file in UTF-8"):
        read_study(tmp_path / "x.toml")


def test_a_study_is_frozen():
    s = study_from_dict(tomllib.loads(SMALL))
    with pytest.raises(AttributeError):
        s.seed = 1
    assert isinstance(s, Study)


def test_the_old_word_for_module_is_understood(tmp_path):
    table = {
        "study": {"name": "a", "model": "m:b"},
        "task": [{"name": task, "data": "m:d"} for task in "ab"],
        "mixture": {"blocks": "tensor"},
    }
    assert study_from_dict(table, folder=tmp_path).mixture.blocks == "module"


def test_subsets_of_a_mixture_that_is_not_previewed_are_refused(tmp_path):
    table = {
        "study": {"name": "a", "model": "m:b"},
        "task": [{"name": task, "data": "m:d"} for task in "ab"],
        "mixture": {"snapshots": 2, "subsets": [[150]]},
        "preview": {"methods": ["simple"]},
    }
    with pytest.raises(
        StudyError, match=r"\[mixture\]: subsets are previewed as mixtures, but methods of \[preview\]"
    ):
        study_from_dict(table, folder=tmp_path)
    table["preview"]["methods"].append("mixture")
    assert study_from_dict(table, folder=tmp_path).previews() == ("simple", "mixture_5", "mixture")
