"""Merging files: the laws of merging hold from file to file, nothing is held, and every mismatch is named."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from previa.core.diagonal import Diagonal
from previa.core.isotropic import Isotropic
from previa.core.merge import merge
from previa.errors import AlphaError, FileError, InputError, NotFiniteError, ParamsError, PrecisionError
from previa.io import checkpoint, pieces, workers
from previa.io.checkpoint import open_checkpoint, save_checkpoint
from previa.io.merge_files import merge_checkpoints
from previa.io.posterior_file import save_posterior
from previa.io.provenance import Provenance

TASKS = ("de", "fr", "cs")
SHAPES = {"head.weight": (3, 4), "scale": (), "none": (0, 2), "head.bias": (5,)}
DIAGONAL = Provenance(family="diagonal", source="squared_gradients", reduction="mean", examples=10)
ULP = 1e-6  # a few roundings of float32, in which files are stored


class Study:
    """A base, three tasks and their posteriors as files in one folder, drawn from a seed."""

    def __init__(self, folder: Path, seed: int = 0, dtype: torch.dtype = torch.float32) -> None:
        rng = torch.Generator().manual_seed(seed)
        self.folder = folder
        self.base_params = self._draw(rng, dtype)
        self.params = {task: self._draw(rng, dtype) for task in TASKS}
        self.h = {task: {n: t.float().exp() for n, t in self._draw(rng, dtype).items()} for task in TASKS}
        self.base = folder / "base.safetensors"
        self.tasks = {task: folder / f"{task}.safetensors" for task in TASKS}
        self.precisions = {task: folder / f"{task}.posterior.safetensors" for task in TASKS}
        self.write()

    @staticmethod
    def _draw(rng: torch.Generator, dtype: torch.dtype) -> dict[str, Tensor]:
        return {name: torch.randn(shape, generator=rng).to(dtype) for name, shape in SHAPES.items()}

    def write(self) -> None:
        """Write all files anew, after a change."""
        save_checkpoint(self.base, self.base_params)
        for task in TASKS:
            save_checkpoint(self.tasks[task], self.params[task])
            floats = {name: self.params[task][name] for name in self.h[task]}
            save_posterior(self.precisions[task], Diagonal(floats, self.h[task]), DIAGONAL)

    def merged(
        self, alpha: tuple[float, ...], *, base: bool = False, hessian: bool = False, **more: object
    ) -> dict[str, Tensor]:
        """The merged file's tensors."""
        out = self.folder / "merged.safetensors"
        precisions = self.precisions if hessian else None
        merge_checkpoints(self.base if base else None, self.tasks, alpha, out, precisions=precisions, **more)  # type: ignore[arg-type]
        return dict(open_checkpoint(out))


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path)


def assert_close(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float = ULP) -> None:
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name].double(), tensor.double(), rtol=tolerance, atol=tolerance)


def assert_equal(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert_close(found, expected, 0.0)
    assert all(found[name].dtype == expected[name].dtype for name in expected)


# --- laws and oracles -------------------------------------------------------------------------------------------------

weights = st.lists(st.floats(0.01, 1), min_size=3, max_size=3).map(lambda a: tuple(x / sum(a) for x in a))


@settings(deadline=None, max_examples=25)
@given(alpha=weights, seed=st.integers(0, 2**32), total=st.floats(0.1, 1.5))
def test_files_merge_as_the_equations_say(alpha: tuple[float, ...], seed: int, total: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        study = Study(Path(folder), seed)
        theta, h, theta0 = (
            {task: {name: t.double() for name, t in params.items()} for task, params in group.items()}
            for group in (study.params, study.h, {"base": study.base_params})
        )
        pairs = list(zip(TASKS, alpha, strict=True))
        simple = {n: sum(a * theta[t][n] for t, a in pairs) for n in SHAPES}
        assert_close(study.merged(alpha), simple)  # eq. 2
        hessian = {
            n: sum(a * h[t][n] * theta[t][n] for t, a in pairs) / sum(a * h[t][n] for t, a in pairs)
            for n in SHAPES
        }
        assert_close(study.merged(alpha, hessian=True), hessian)  # eq. 10

        scaled = tuple(total * a for a in alpha)
        arithmetic = {
            n: theta0["base"][n] + sum(total * a * (theta[t][n] - theta0["base"][n]) for t, a in pairs)
            for n in SHAPES
        }
        assert_close(study.merged(scaled, base=True), arithmetic, 3 * ULP)  # eq. 3


def test_a_hessian_weighted_merge_with_a_prior_is_merge_itself(study: Study) -> None:
    alpha = (0.3, 0.2, 0.1)
    qs = [Diagonal(study.params[task], study.h[task]) for task in TASKS]
    expected = merge(alpha, qs, Diagonal(study.base_params, 0.7)).mode()
    assert_close(study.merged(alpha, base=True, hessian=True, prior_precision=0.7), expected)


def test_isotropic_posteriors_weigh_their_tasks(study: Study) -> None:
    made = replace(DIAGONAL, family="isotropic")
    qs = [Isotropic(study.params[task], p) for task, p in zip(TASKS, (1.0, 4.0, 9.0), strict=True)]
    for task, q in zip(TASKS, qs, strict=True):
        save_posterior(study.precisions[task], q, made)
    alpha = (0.5, 0.3, 0.2)
    assert_close(study.merged(alpha, hessian=True), merge(alpha, qs).mode())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind", ["simple", "arithmetic", "hessian"])
def test_a_corner_returns_the_tasks_file_bit_for_bit(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    study = Study(tmp_path, dtype=dtype)
    for t, task in enumerate(TASKS):
        alpha = tuple(float(t == s) for s in range(3))
        found = study.merged(alpha, base=kind == "arithmetic", hessian=kind == "hessian")
        assert_equal(found, open_checkpoint(study.tasks[task]))


@pytest.mark.parametrize("hessian", [False, True])
def test_the_order_of_tasks_and_the_scale_of_weights_are_irrelevant(hessian: bool, study: Study) -> None:
    expected = study.merged((0.5, 0.3, 0.2), hessian=hessian)
    study.tasks = dict(reversed(study.tasks.items()))
    assert_close(study.merged((0.2, 0.3, 0.5), hessian=hessian), expected)


@pytest.mark.parametrize("hessian", [False, True])
def test_merging_copies_returns_the_copy(hessian: bool, study: Study) -> None:
    study.params = dict.fromkeys(TASKS, study.params["de"])
    study.write()
    assert_close(study.merged((0.5, 0.3, 0.2), hessian=hessian), study.params["de"])


def test_averaging_in_two_steps_is_averaging_in_one(study: Study) -> None:
    first = study.folder / "first"
    merge_checkpoints(None, {task: study.tasks[task] for task in ("de", "fr")}, (0.5 / 0.8, 0.3 / 0.8), first)
    merge_checkpoints(None, {"both": first, "cs": study.tasks["cs"]}, (0.8, 0.2), study.folder / "second")
    assert_close(open_checkpoint(study.folder / "second"), study.merged((0.5, 0.3, 0.2)))


def test_one_task_merges_to_itself(study: Study) -> None:
    merge_checkpoints(None, {"de": study.tasks["de"]}, [1.0], study.folder / "out")
    assert_equal(open_checkpoint(study.folder / "out"), study.params["de"])


@pytest.mark.parametrize("hessian", [False, True])
def test_the_size_of_a_piece_is_irrelevant(
    hessian: bool, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = study.merged((0.5, 0.3, 0.2), hessian=hessian)
    for piece in (1, 5):
        monkeypatch.setattr(pieces, "PIECE", piece)
        assert_equal(study.merged((0.5, 0.3, 0.2), hessian=hessian), expected)


@pytest.mark.parametrize("hessian", [False, True])
def test_the_number_of_processors_is_irrelevant(
    hessian: bool, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "PIECE", 1)  # more pieces than threads
    found = []
    for processors in (1, 3):
        monkeypatch.setattr(workers, "processors", lambda processors=processors: processors)
        study.merged((0.5, 0.3, 0.2), hessian=hessian)
        found.append((study.folder / "merged.safetensors").read_bytes())
    assert found[0] == found[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_entry_is_the_exact_one_rounded_once(dtype: torch.dtype, tmp_path: Path) -> None:
    study = Study(tmp_path, dtype=dtype)
    alpha = (0.5, 0.3, 0.2)
    exact = {
        n: sum(a * study.params[t][n].double() for a, t in zip(alpha, TASKS, strict=True)) for n in SHAPES
    }
    assert_equal(study.merged(alpha), {name: tensor.to(dtype) for name, tensor in exact.items()})
    assert_equal(study.merged(alpha, dtype=torch.float32), {name: t.float() for name, t in exact.items()})


def test_a_posteriors_own_mean_is_used_where_the_checkpoint_is_rounded(study: Study) -> None:
    exact = study.merged((0.5, 0.3, 0.2), hessian=True)
    for task in TASKS:
        save_checkpoint(study.tasks[task], study.params[task], dtype=torch.bfloat16)
    assert_equal(study.merged((0.5, 0.3, 0.2), hessian=True, dtype=torch.float32), exact)


def test_dtypes_and_order_are_the_bases_or_the_first_tasks(study: Study) -> None:
    save_checkpoint(study.tasks["de"], study.params["de"], dtype=torch.float16)
    save_checkpoint(study.base, dict(reversed(study.base_params.items())), dtype=torch.bfloat16)
    assert {t.dtype for t in study.merged((0.5, 0.3, 0.2)).values()} == {torch.float16}
    merged = study.merged((0.5, 0.3, 0.2), base=True)
    assert {t.dtype for t in merged.values()} == {torch.bfloat16}
    assert list(merged) == list(reversed(SHAPES))


def test_folders_and_shards_are_merged_like_files(study: Study) -> None:
    expected = study.merged((0.5, 0.3, 0.2))
    folder = study.folder / "sharded"
    folder.mkdir()
    for name, tensor in study.params["fr"].items():
        save_checkpoint(folder / f"{name}.safetensors", {name: tensor})
    index = {"weight_map": {name: f"{name}.safetensors" for name in SHAPES}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    study.tasks["fr"] = folder
    assert_equal(study.merged((0.5, 0.3, 0.2)), expected)


def test_the_merged_file_says_what_it_is(study: Study) -> None:
    study.merged((0.5, 0.3, 0.1), base=True)
    record = json.loads(open_checkpoint(study.folder / "merged.safetensors").metadata["previa.merge"])
    assert record["alpha"] == {"de": 0.5, "fr": 0.3, "cs": 0.1}
    assert record["gamma"] == pytest.approx(0.1)


# --- buffers ----------------------------------------------------------------------------------------------------------


def _with_buffers(study: Study, steps: tuple[int, ...], running: tuple[float, ...]) -> None:
    for task, step, mean in zip(TASKS, steps, running, strict=True):
        study.params[task] |= {"bn.steps": torch.tensor(step), "bn.mean": torch.full((2,), mean)}
    study.write()


def test_equal_buffers_are_kept(study: Study) -> None:
    _with_buffers(study, (3, 3, 3), (0.5, 0.5, 0.5))
    merged = study.merged((0.5, 0.3, 0.2), hessian=True, dtype=torch.float16)
    assert merged["bn.steps"].dtype == torch.int64
    assert merged["bn.steps"] == 3
    assert torch.equal(merged["bn.mean"], torch.full((2,), 0.5, dtype=torch.float16))


def test_buffers_that_differ_are_an_error_and_not_an_average(study: Study) -> None:
    _with_buffers(study, (3, 4, 3), (0.5, 0.5, 0.5))
    with pytest.raises(
        ParamsError, match=r"task 'fr': tensor 'bn\.steps' is torch\.int64 .* differs from that of task 'de'"
    ):
        study.merged((0.5, 0.3, 0.2))
    _with_buffers(study, (3, 3, 3), (0.5, 0.5, 0.6))
    with pytest.raises(ParamsError, match=r"task 'cs': tensor 'bn\.mean' has no precision .* task 'de'"):
        study.merged((0.5, 0.3, 0.2), hessian=True)
    assert study.merged((0.5, 0.3, 0.2))["bn.mean"][0] == pytest.approx(
        0.52
    )  # simple averaging has one for all


# --- bad input --------------------------------------------------------------------------------------------------------


def _change(task: str, name: str, tensor: Tensor | None):  # type: ignore[no-untyped-def]
    def change(study: Study) -> None:
        params = dict(study.params[task])
        params.pop(name, None)
        save_checkpoint(study.tasks[task], params if tensor is None else params | {name: tensor})

    return change


def _posterior(task: str, q: Diagonal | Isotropic, made: Provenance = DIAGONAL, *, with_mean: bool = True):  # type: ignore[no-untyped-def]
    return lambda study: save_posterior(study.precisions[task], q, made, with_mean=with_mean)


def _zero_precision(study: Study) -> None:
    found = open_checkpoint(study.precisions["fr"])
    tensors = dict(found)
    tensors["precision/head.bias"][2] = 0
    save_checkpoint(study.precisions["fr"], tensors, found.metadata)


ONES = {name: torch.ones(shape) for name, shape in SHAPES.items()}
NAN = torch.tensor([1.0, float("nan"), 1.0, 1.0, 1.0])
BAD = {
    "missing": (_change("fr", "scale", None), ParamsError, ("task 'fr'", "'scale'", "missing", "task 'de'")),
    "extra": (_change("fr", "new", torch.ones(1)), ParamsError, ("task 'fr'", "'new'", "task 'de'")),
    "misshapen": (
        _change("fr", "head.bias", torch.ones(6)),
        ParamsError,
        ("task 'fr'", "'head.bias'", "(6,)", "(5,)", "task 'de'"),
    ),
    "dtype": (
        _change("fr", "head.bias", torch.ones(5).int()),
        ParamsError,
        ("task 'fr'", "'head.bias'", "torch.int32", "torch.float32"),
    ),
    "nan": (_change("fr", "head.bias", NAN), NotFiniteError, ("task 'fr'", "fr.safetensors", "'head.bias'")),
    "file": (lambda s: s.tasks["fr"].unlink(), FileError, ("fr.safetensors", "no such file")),
    "other mean": (
        _posterior("fr", Diagonal(ONES, 1.0)),
        ParamsError,
        ("task 'fr'", "not the mean", "fr.posterior"),
    ),
    "zero precision": (_zero_precision, PrecisionError, ("task 'fr'", "'head.bias'", "above zero")),
    "precision lacks": (
        _posterior("fr", Diagonal({"scale": ONES["scale"]}, 1.0), with_mean=False),
        ParamsError,
        ("precision of task 'fr'", "'head.weight'", "missing", "task 'de'"),
    ),
    "precision misshapen": (
        _posterior("fr", Diagonal(ONES | {"scale": torch.ones(3)}, 1.0)),
        ParamsError,
        ("precision of task 'fr'", "'scale'", "(3,)", "()", "task 'de'"),
    ),
    "family": (
        _posterior("fr", Isotropic(ONES), replace(DIAGONAL, family="isotropic")),
        InputError,
        ("task 'fr'", "isotropic", "'de'", "diagonal"),
    ),
    "reduction": (
        _posterior("fr", Diagonal(ONES, 1.0), replace(DIAGONAL, reduction="sum")),
        InputError,
        ("task 'fr'", "'de'", "sum", "mean"),
    ),
    "no posterior": (
        lambda s: save_checkpoint(s.precisions["fr"], ONES),
        FileError,
        ("fr.posterior", "without a posterior's provenance"),
    ),
    "tasks": (lambda s: s.precisions.pop("fr"), InputError, ("['cs', 'de']", "'fr' has no partner")),
}


@pytest.mark.parametrize("case", BAD)
def test_a_mismatch_names_task_and_tensor_and_leaves_no_file(case: str, study: Study) -> None:
    change, error, words = BAD[case]
    change(study)  # type: ignore[no-untyped-call]
    with pytest.raises(error) as caught:
        study.merged((0.5, 0.3, 0.2), hessian=True)
    for word in words:
        assert word in str(caught.value)
    left = {path.name for path in study.folder.iterdir()}
    assert not any("merged" in name for name in left)


def test_a_precision_of_another_model_is_named(study: Study) -> None:
    for task in TASKS:
        save_posterior(study.precisions[task], Diagonal({"other": torch.ones(2)}, 1.0), DIAGONAL)
    with pytest.raises(
        ParamsError, match="precision of task 'de': tensor 'other' is not in those of its checkpoint"
    ):
        study.merged((0.5, 0.3, 0.2), hessian=True)


def test_a_base_that_does_not_fit_is_named(study: Study) -> None:
    save_checkpoint(study.base, study.base_params | {"scale": torch.ones(2)})
    with pytest.raises(
        ParamsError,
        match=r"task 'de': tensor 'scale' has shape \(\), but those of the base model have \(2,\)",
    ):
        study.merged((0.5, 0.3, 0.2), base=True)
    save_checkpoint(study.base, study.base_params | {"head.bias": NAN})
    with pytest.raises(NotFiniteError, match=r"the base model: .*base.safetensors: tensor 'head.bias'"):
        study.merged((0.5, 0.3, 0.1), base=True)


@pytest.mark.parametrize(
    ("alpha", "how", "error", "words"),
    [
        ((0.5, 0.5), {}, AlphaError, ("(2,)", "3 tasks")),
        ((0.5, 0.3, 0.1), {}, AlphaError, ("sums to 0.9", "without a base model")),
        ((0.7, 0.5, -0.2), {}, AlphaError, ("negative", "-0.2")),
        (((0.5, 0.3, 0.2),), {}, AlphaError, ("(1, 3)", "one weight for each")),
        ((0.5, 0.3, 0.2), {"prior_precision": 1.0}, InputError, ("prior_precision", "base")),
        ((0.5, 0.3, 0.1), {"base": True, "hessian": True}, InputError, ("gamma = 0.1", "prior_precision")),
        ((0.5, 0.3, 0.1), {"base": True, "prior_precision": -1.0}, PrecisionError, ("base model", "-1")),
        (
            (1.0, 1.0, 1.0),
            {"base": True, "hessian": True, "prior_precision": 1e6},
            PrecisionError,
            ("tensor 'head.weight'", "gamma"),
        ),
    ],
)
def test_weights_that_make_no_model_are_refused(
    alpha: tuple[float, ...],
    how: dict[str, bool],
    error: type[Exception],
    words: tuple[str, ...],
    study: Study,
) -> None:
    with pytest.raises(error) as caught:
        study.merged(alpha, **how)
    for word in words:
        assert word in str(caught.value)


def test_no_tasks_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no tasks"):
        merge_checkpoints(None, {}, [], tmp_path / "out")


def test_a_result_that_overflows_its_dtype_is_an_error(study: Study) -> None:
    study.params = dict.fromkeys(TASKS, study.params["de"] | {"scale": torch.tensor(1e6)})
    study.write()
    with pytest.raises(NotFiniteError, match=r"merged tensor 'scale': 1e\+06 does not fit torch.float16"):
        study.merged((0.5, 0.3, 0.2), dtype=torch.float16)


# --- memory -----------------------------------------------------------------------------------------------------------


def test_only_one_piece_of_one_tensor_is_read_at_a_time(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    order: list[str] = []
    true_read = checkpoint.read

    def read(file: object, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        assert len(alive) < 3  # the checkpoint's and the posterior file's piece of the task at hand
        tensor = true_read(file, name, start, stop)  # type: ignore[arg-type]
        assert len(tensor) <= 4
        alive.add(tensor)
        order.append(name.rpartition("/")[2])
        return tensor

    monkeypatch.setattr(checkpoint, "read", read)
    monkeypatch.setattr(pieces, "PIECE", 4)
    monkeypatch.setattr(workers, "processors", lambda: 1)  # each thread has one piece
    alpha, out = (0.5, 0.3, 0.1), study.folder / "merged"
    merge_checkpoints(study.base, study.tasks, alpha, out, precisions=study.precisions, prior_precision=1.0)
    assert set(order) == {"head.weight", "scale", "head.bias"}
    runs = [name for i, name in enumerate(order) if i == 0 or order[i - 1] != name]
    assert len(runs) == len(set(runs))  # a tensor is finished before the next begins


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
def test_merging_takes_the_memory_of_a_few_tensors(tmp_path: Path) -> None:
    megabyte = 2**18  # entries of float32
    for task in TASKS[:2]:
        params = {f"layer{i}": torch.full((2 * megabyte,), float(i)) for i in range(24)}
        save_checkpoint(tmp_path / task, params)
    script = f"""
import re, sys
from pathlib import Path
import torch
from previa.io.merge_files import merge_checkpoints
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
torch.ones(3) @ torch.ones(3)
before = peak()
folder = Path({str(tmp_path)!r})
merge_checkpoints(None, {{task: folder / task for task in ("de", "fr")}}, [0.5, 0.5], folder / "out")
sys.exit((peak() - before) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", script], check=False, timeout=180)
    assert 0 <= done.returncode < 40  # MB; each checkpoint is 48 MB, a tensor 2 MB
    assert torch.equal(open_checkpoint(tmp_path / "out")["layer23"], torch.full((2 * megabyte,), 23.0))
