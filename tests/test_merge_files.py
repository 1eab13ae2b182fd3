"""Merging files: the laws of merging hold from file to file, nothing is held, and every mismatch is named."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from previa.core.anchored import anchored
from previa.core.diagonal import Diagonal
from previa.core.isotropic import Isotropic
from previa.core.merge import merge
from previa.core.modes import modes
from previa.core.runs import Run
from previa.core.warp import warp
from previa.errors import AlphaError, FileError, InputError, NotFiniteError, ParamsError, PrecisionError
from previa.io import checkpoint, pieces, workers
from previa.io.checkpoint import open_checkpoint, save_checkpoint
from previa.io.merge_files import merge_checkpoints
from previa.io.posterior_file import save_posterior
from previa.io.provenance import Provenance
from previa.io.weightings import Anchor, weightings

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


# --- powers and anchors -----------------------------------------------------------------------------------------------

AT = ((0.5, 0.5, 0.0), (1 / 3, 1 / 3, 1 / 3), (0.2, 0.2, 0.6))
powers = pytest.mark.parametrize("p", [1.0, 0.3])
kinds = pytest.mark.parametrize("hessian", [False, True])


def _anchors(study: Study, dtype: torch.dtype = torch.float32) -> list[Anchor]:
    """Files of joint runs beside the study's."""
    rng, found = torch.Generator().manual_seed(7), []
    for r, alpha in enumerate(AT):
        found.append(Anchor(alpha, study.folder / f"joint{r}.safetensors"))
        save_checkpoint(Path(found[-1].path), study._draw(rng, dtype))
    return found


def _exact(
    study: Study, alpha: tuple[float, ...], anchors: list[Anchor], p: float, hessian: bool
) -> dict[str, Tensor]:
    """In memory and in float64, by core.anchored."""
    wide = {task: {n: t.double() for n, t in params.items()} for task, params in study.params.items()}
    h = {task: {n: t.double() for n, t in params.items()} for task, params in study.h.items()}
    qs = [Diagonal(wide[task], h[task]) if hessian else Isotropic(wide[task]) for task in TASKS]
    runs = [Run(tuple(a.alpha), {n: t.double() for n, t in open_checkpoint(a.path).items()}) for a in anchors]
    method = anchored(partial(modes, posteriors=qs), runs, p=p)
    return dict(method(torch.tensor([alpha], dtype=torch.float64)).params.row(0))


@powers
@kinds
@pytest.mark.parametrize("n", [0, 1, 3])
def test_files_are_warped_and_anchored_as_in_memory(p: float, hessian: bool, n: int, study: Study) -> None:
    anchors = _anchors(study)[:n]
    for alpha in ((0.5, 0.3, 0.2), (0.0, 0.9, 0.1), (0.1, 0.1, 0.8)):
        found = study.merged(alpha, hessian=hessian, p=p, anchors=anchors)
        assert_close(found, _exact(study, alpha, anchors, p, hessian), 3 * ULP)


@kinds
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_entry_of_an_anchored_merge_is_rounded_once(
    hessian: bool, dtype: torch.dtype, tmp_path: Path
) -> None:
    study = Study(tmp_path, dtype=dtype)
    anchors, alpha = _anchors(study, dtype), (0.7, 0.2, 0.1)
    weights = weightings([alpha], TASKS, p=0.3, anchors=anchors)
    assert min(weights.runs[0]) < -0.05  # of the runs' weights some are negative
    assert sum(weights.runs[0]) == pytest.approx(1, abs=1e-12)
    exact = _exact(study, alpha, anchors, 0.3, hessian)
    found = study.merged(alpha, hessian=hessian, p=0.3, anchors=anchors)
    assert_equal(found, {name: tensor.to(dtype) for name, tensor in exact.items()})


@powers
@kinds
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_corners_and_anchors_return_their_files_bit_for_bit(
    p: float, hessian: bool, dtype: torch.dtype, tmp_path: Path
) -> None:
    study = Study(tmp_path, dtype=dtype)
    anchors = _anchors(study, dtype)
    for t, task in enumerate(TASKS):
        alpha = tuple(float(t == s) for s in range(3))
        found = study.merged(alpha, hessian=hessian, p=p, anchors=anchors)
        assert_equal(found, open_checkpoint(study.tasks[task]))
    for anchor in anchors:
        found = study.merged(tuple(anchor.alpha), hessian=hessian, p=p, anchors=anchors)
        assert_equal(found, open_checkpoint(anchor.path))
    found = study.merged((0.333333, 0.333333, 0.333334), hessian=hessian, p=p, anchors=anchors)
    assert_equal(found, open_checkpoint(anchors[1].path))  # as the command line has it


@kinds
def test_the_order_of_tasks_and_of_anchors_is_irrelevant(hessian: bool, study: Study) -> None:
    anchors = _anchors(study)
    expected = study.merged((0.5, 0.3, 0.2), hessian=hessian, p=0.3, anchors=anchors)
    found = study.merged((0.5, 0.3, 0.2), hessian=hessian, p=0.3, anchors=anchors[::-1])
    assert_close(found, expected)
    study.tasks = dict(reversed(study.tasks.items()))
    turned = [Anchor(anchor.alpha[::-1], anchor.path) for anchor in anchors]
    found = study.merged((0.2, 0.3, 0.5), hessian=hessian, p=0.3, anchors=turned)
    assert_close(found, expected)


@kinds
def test_the_size_of_a_piece_is_irrelevant_to_anchors(
    hessian: bool, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    anchors = _anchors(study)
    expected = study.merged((0.5, 0.3, 0.2), hessian=hessian, p=0.3, anchors=anchors)
    monkeypatch.setattr(pieces, "PIECE", 5)
    # a matrix product may sum in another order: the last bit of float64, and so next to never one of float32
    assert_close(study.merged((0.5, 0.3, 0.2), hessian=hessian, p=0.3, anchors=anchors), expected, 1e-7)


def test_a_power_keeps_the_bases_share(study: Study) -> None:
    alpha, p = (0.4, 0.1, 0.2), 0.5
    expected = merge(
        warp(alpha, p).tolist(), [Isotropic(study.params[t]) for t in TASKS], Isotropic(study.base_params)
    )
    assert_close(study.merged(alpha, base=True, p=p), expected.mode())
    qs = [Diagonal(study.params[task], study.h[task]) for task in TASKS]
    expected = merge(warp(alpha, p).tolist(), qs, Diagonal(study.base_params, 0.7))
    assert_close(study.merged(alpha, base=True, hessian=True, prior_precision=0.7, p=p), expected.mode())


def test_the_merged_file_names_power_and_anchors(study: Study) -> None:
    anchors = _anchors(study)
    study.merged((0.5, 0.5, 0.0), p=0.3, anchors=anchors)
    record = json.loads(open_checkpoint(study.folder / "merged.safetensors").metadata["previa.merge"])
    assert (record["alpha"], record["p"]) == ({"de": 0.5, "fr": 0.5, "cs": 0.0}, 0.3)
    assert [each["weight"] for each in record["anchors"]] == [1, 0, 0]
    assert record["anchors"][2]["alpha"] == {"de": 0.2, "fr": 0.2, "cs": 0.6}
    assert record["anchors"][2]["from"] == str(anchors[2].path)


def _anchor_change(name: str, tensor: Tensor | None):  # type: ignore[no-untyped-def]
    def change(study: Study, anchors: list[Anchor]) -> None:
        params = dict(open_checkpoint(anchors[0].path))
        params.pop(name, None)
        save_checkpoint(Path(anchors[0].path), params if tensor is None else params | {name: tensor})

    return change


NO_ANCHORS = {
    "missing": (_anchor_change("scale", None), ParamsError, ("the anchor at 0.5,0.5,0", "'scale'", "missing")),
    "misshapen": (_anchor_change("head.bias", torch.ones(6)), ParamsError, ("anchor at 0.5,0.5,0", "(6,)", "(5,)")),
    "nan": (_anchor_change("head.bias", NAN), NotFiniteError, ("anchor at 0.5,0.5,0", "joint0", "'head.bias'")),
    "file": (lambda s, a: a[0].path.unlink(), FileError, ("joint0.safetensors", "no such file")),
    "posterior": (
        lambda s, a: a.append(Anchor((0.3, 0.3, 0.4), s.precisions["de"])),
        InputError,
        ("the anchor at 0.3,0.3,0.4", "is a posterior file"),
    ),
    "corner": (
        lambda s, a: a.append(Anchor((0.0, 1.0, 0.0), s.tasks["fr"])),
        AlphaError,
        ("[0.0, 1.0, 0.0] is a corner", "that task's posterior"),
    ),
    "twice": (lambda s, a: a.append(a[0]), AlphaError, ("two are trained at [0.5, 0.5, 0.0]",)),
    "sum": (
        lambda s, a: a.append(Anchor((0.5, 0.3, 0.1), s.tasks["fr"])),
        AlphaError,
        ("the anchor at 0.5,0.3,0.1", "sum to 0.9", "fr.safetensors"),
    ),
    "number": (
        lambda s, a: a.append(Anchor((0.5, 0.5), s.tasks["fr"])),
        AlphaError,
        ("the anchor at 0.5,0.5", "3 tasks need"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", NO_ANCHORS)
@kinds
def test_an_anchor_that_does_not_fit_is_named_and_leaves_no_file(
    case: str, hessian: bool, study: Study
) -> None:
    change, error, words = NO_ANCHORS[case]
    anchors = _anchors(study)
    change(study, anchors)  # type: ignore[no-untyped-call]
    with pytest.raises(error) as caught:
        study.merged((0.5, 0.3, 0.2), hessian=hessian, anchors=anchors)
    for word in words:
        assert word in str(caught.value)
    assert not (study.folder / "merged.safetensors").exists()


def test_integers_of_an_anchor_that_differ_are_named(study: Study) -> None:
    _with_buffers(study, (3, 3, 3), (0.5, 0.5, 0.5))
    anchors = _anchors(study)
    for anchor in anchors:
        params = dict(open_checkpoint(anchor.path))
        save_checkpoint(Path(anchor.path), params | {"bn.steps": torch.tensor(4), "bn.mean": torch.ones(2)})
    with pytest.raises(
        ParamsError, match=r"the anchor at 0\.5,0\.5,0: tensor 'bn\.steps' is .* of task 'de'"
    ):
        study.merged((0.5, 0.3, 0.2), anchors=anchors)


def test_with_anchors_weights_sum_to_one_even_with_a_base(study: Study) -> None:
    with pytest.raises(AlphaError, match=r"alpha sums to 0\.9; with anchors it must sum to 1"):
        study.merged((0.5, 0.3, 0.1), base=True, anchors=_anchors(study))
    anchors = _anchors(study)
    found = study.merged((0.5, 0.3, 0.2), base=True, anchors=anchors)
    assert_close(found, study.merged((0.5, 0.3, 0.2), anchors=anchors), 0.0)


def test_a_power_that_is_none_is_refused(study: Study) -> None:
    with pytest.raises(InputError, match=r"the power p is 0; expected a positive number"):
        study.merged((0.5, 0.3, 0.2), p=0)
