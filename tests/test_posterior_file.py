"""Posterior files: a posterior and what it means come back as they were, or an error says why not."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from previa.core.beta import Beta
from previa.core.diagonal import Diagonal
from previa.core.isotropic import Isotropic
from previa.core.params import Flat
from previa.errors import FileError, InputError, NotFiniteError, ParamsError, PrecisionError
from previa.io.checkpoint import open_checkpoint, save_checkpoint
from previa.io.posterior_file import load_posterior, open_posterior, save_posterior
from previa.io.provenance import Provenance, check_conventions, from_strings, to_strings

MEAN = {"w": torch.tensor([[1.0, -2.0], [0.5, 3.0]]), "b": torch.tensor([0.1, 0.2])}
H = {"w": torch.tensor([[1e-30, 2.0], [3e8, 1.0]]), "b": torch.tensor([1e-12, 5.0])}
MADE = Provenance(family="diagonal", source="ivon", reduction="mean", examples=100, ess=1e5)


def finite(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_nan=False)


provenances = st.builds(
    Provenance,
    family=st.just("diagonal"),
    source=st.sampled_from(["ivon", "squared_gradients", "adam"]),
    reduction=st.sampled_from(["mean", "sum"]),
    examples=st.integers(1, 10**9),
    batch_size=st.none() | st.integers(1, 10**6),
    label_mode=st.none() | st.sampled_from(["given", "sampled", "expected"]),
    ess=st.none() | finite(0, 1e12),
    delta=st.none() | finite(0, 1),
    beta2=st.none() | finite(0, 1),
    steps=st.none() | st.integers(0, 10**7),
    hess_init=st.none() | finite(0, 10),
    prior_precision=st.none() | finite(0, 1),
    prior_relative=st.none() | finite(0, 1),
    prior_share=st.none() | finite(0, 1),
)


@settings(deadline=None, max_examples=60)
@given(provenance=provenances)
def test_a_provenance_comes_back_exactly(provenance: Provenance) -> None:
    assert from_strings(to_strings(provenance)) == provenance


@settings(deadline=None, max_examples=30)
@given(
    provenance=provenances,
    seed=st.integers(0, 2**32),
    shapes=st.lists(st.lists(st.integers(1, 4), max_size=3), min_size=1, max_size=4),
    with_mean=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_a_diagonal_posterior_comes_back_exactly(
    provenance: Provenance, seed: int, shapes: list[list[int]], with_mean: bool, dtype: torch.dtype
) -> None:
    rng = torch.Generator().manual_seed(seed)
    mean = {f"m.{i}": torch.randn(shape, generator=rng).to(dtype) for i, shape in enumerate(shapes)}
    h = {
        name: torch.exp(20 * torch.randn(t.shape, generator=rng)).clamp(1e-37, 1e37)
        for name, t in mean.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        path, model = Path(folder, "posterior.safetensors"), Path(folder, "model.safetensors")
        save_checkpoint(model, mean | {"steps": torch.tensor(3)})
        save_posterior(path, Diagonal(mean, h), provenance, with_mean=with_mean)
        q, found = load_posterior(path, None if with_mean else open_checkpoint(folder))
        assert found == provenance
        assert isinstance(q, Diagonal)
        assert q.layout == Diagonal(mean, h).layout
        assert all(torch.equal(q.mode()[name].to(dtype), mean[name]) for name in mean)
        assert all(torch.equal(Flat.of(q.precision)[name].float(), h[name]) for name in mean)
        stored = open_posterior(path).file
        assert {stored.dtype_of(name) for name in stored if name.startswith("precision/")} == {torch.float32}


def test_an_isotropic_posterior_comes_back_exactly(tmp_path: Path) -> None:
    made = replace(MADE, family="isotropic")
    save_posterior(tmp_path / "q", Isotropic(MEAN, 0.1), made)
    q, found = load_posterior(tmp_path / "q")
    assert isinstance(q, Isotropic)
    assert found == made
    assert float(q.precision) == float(torch.tensor(0.1))
    assert all(torch.equal(q.mode()[name], MEAN[name]) for name in MEAN)
    assert open_posterior(tmp_path / "q").layout == q.layout


def test_one_number_for_all_is_stored_for_each(tmp_path: Path) -> None:
    save_posterior(tmp_path / "q", Diagonal(MEAN, 2.0), MADE)
    q, _ = load_posterior(tmp_path / "q")
    assert torch.equal(q.natural()[0], torch.full((6,), 2.0))


def test_the_header_is_readable_text_and_holds_only_what_applies(tmp_path: Path) -> None:
    save_posterior(tmp_path / "q", Diagonal(MEAN, H), MADE)
    header = open_checkpoint(tmp_path / "q").metadata
    assert header["previa.ess"] == "100000.0"
    assert header["previa.reduction"] == "mean"
    assert "previa.label_mode" not in header
    assert header["previa.version"]


def test_memory_is_what_is_left_of_hess_init() -> None:
    assert MADE.memory is None
    assert replace(MADE, beta2=0.99999, steps=1000).memory == pytest.approx(
        0.99005, abs=1e-5
    )  # METHOD 3: .99
    assert replace(MADE, beta2=0.5, steps=3).memory == 0.125


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"reduction": "avg"}, ("'avg'", "'mean' or 'sum'")),
        ({"examples": 0}, ("examples is 0", "at least 1")),
        ({"batch_size": -3}, ("batch_size is -3",)),
        ({"ess": float("nan")}, ("ess is nan",)),
        ({"delta": -1e-3}, ("delta is -0.001", "at least 0")),
    ],
)
def test_an_impossible_provenance_is_refused(change: dict[str, object], words: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as caught:
        replace(MADE, **change)  # type: ignore[arg-type]
    assert all(word in str(caught.value) for word in words)


def test_what_cannot_be_stored_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "q"
    with pytest.raises(InputError, match="Beta cannot be stored; expected Isotropic or Diagonal"):
        save_posterior(path, Beta({"p": torch.tensor(2.0)}, {"p": torch.tensor(3.0)}), MADE)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="posterior is isotropic, but its provenance says 'diagonal'"):
        save_posterior(path, Isotropic(MEAN), MADE)
    with pytest.raises(InputError, match="without its mean is one number"):
        save_posterior(path, Isotropic(MEAN), replace(MADE, family="isotropic"), with_mean=False)
    q = Diagonal(MEAN, 1.0)
    batch = q.from_natural(tuple(torch.stack([part, part]) for part in q.natural()))
    with pytest.raises(InputError, match="a batch of 2 posteriors"):
        save_posterior(path, batch, MADE)
    wide = {name: tensor.double() for name, tensor in MEAN.items()}
    with pytest.raises(PrecisionError, match=r"'w' does not fit float32"):
        save_posterior(path, Diagonal(wide, 1e-60), MADE)
    assert not path.exists()


def _file(change: Callable[[dict[str, str]], object], drop: str | None = None) -> Callable[[Path], None]:
    """A posterior file whose header is changed, and with one tensor dropped."""

    def make(path: Path) -> None:
        save_posterior(path, Diagonal(MEAN, H), MADE)
        found = open_checkpoint(path)
        header = dict(found.metadata)
        change(header)
        save_checkpoint(path, {name: found[name] for name in found if name != drop}, header)

    return make


def _put(key: str, value: str) -> Callable[[Path], None]:
    return _file(lambda header: header.update({key: value}))


BAD_FILES: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "no provenance": (lambda path: save_checkpoint(path, MEAN), ("without a posterior's provenance",)),
    "format": (_put("previa.posterior", "2"), ("format '2'", "reads format '1'", "0.1")),
    "reduction": (_put("previa.reduction", "avg"), ("'avg'", "damaged")),
    "number": (_put("previa.examples", "many"), ("examples = 'many'", "no int")),
    "unknown field": (_put("previa.colour", "red"), ("unknown field 'colour'",)),
    "lost field": (_file(lambda header: header.pop("previa.source")), ("lacks 'source'",)),
    "precision": (_put("previa.precision", "high"), ("'high'", "damaged")),
    "family": (_put("previa.family", "isotropic"), ("'isotropic'", "diagonal")),
    "two families": (_put("previa.precision", "1.0"), ("'diagonal'", "isotropic")),
    "mean lost": (_file(dict, "mean/w"), ("2 tensors have a precision and 1 a mean",)),
    "precision lost": (_file(dict, "precision/w"), ("1 tensors have a precision and 2 a mean",)),
    "cut short": (lambda path: path.write_bytes(b"\0" * 9), ("not a whole safetensors file",)),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_posterior_file_is_named(case: str, tmp_path: Path) -> None:
    make, words = BAD_FILES[case]
    path = tmp_path / "posterior.safetensors"
    make(path)
    with pytest.raises(FileError) as caught:
        load_posterior(path)
    assert all(word in str(caught.value) for word in (str(path), *words))


@pytest.mark.parametrize(
    ("entry", "error", "words"),
    [
        (float("nan"), NotFiniteError, ("posterior", "'precision/w'", "1 of 4")),
        (0.0, PrecisionError, ("posterior", "'w'", "above")),
        (-1.0, PrecisionError, ("posterior", "'w'", "above")),
    ],
)
def test_a_bad_precision_names_file_and_tensor(
    entry: float, error: type[Exception], words: tuple[str, ...], tmp_path: Path
) -> None:
    path = tmp_path / "posterior"
    save_posterior(path, Diagonal(MEAN, H), MADE)
    found = open_checkpoint(path)
    tensors = dict(found)
    tensors["precision/w"][0, 1] = entry
    save_checkpoint(path, tensors, found.metadata)
    with pytest.raises(error) as caught:
        load_posterior(path)
    assert all(word in str(caught.value) for word in words)


def test_the_mean_is_given_once(tmp_path: Path) -> None:
    save_posterior(tmp_path / "both", Diagonal(MEAN, H), MADE)
    save_posterior(tmp_path / "half", Diagonal(MEAN, H), MADE, with_mean=False)
    with pytest.raises(InputError, match="both: holds its own mean"):
        load_posterior(tmp_path / "both", MEAN)
    with pytest.raises(InputError, match="half: holds precisions only"):
        load_posterior(tmp_path / "half")
    with pytest.raises(ParamsError, match="half: tensor 'b' has a precision here, but the mean lacks it"):
        load_posterior(tmp_path / "half", {"w": MEAN["w"]})
    with pytest.raises(ParamsError, match=r"half: .*'w'.*\(2, 2\).*\(4,\)"):
        load_posterior(tmp_path / "half", MEAN | {"w": torch.ones(4)})


# --- conventions ------------------------------------------------------------------------------------------------------

SUM = replace(MADE, reduction="sum", ess=100.0)


def test_tasks_of_one_convention_pass() -> None:
    check_conventions({})
    check_conventions({"de": MADE, "fr": replace(MADE, examples=7)})
    check_conventions({"de": SUM, "fr": replace(SUM, examples=7, ess=7.0), "cs": replace(SUM, ess=None)})


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        (MADE, SUM, ("task 'fr'", "'de'", "sum of the losses", "mean")),
        (MADE, replace(MADE, ess=2e5), ("task 'fr'", "'de'", "ess = 200000", "ess = 100000")),
        (MADE, replace(MADE, ess=None), ("task 'fr'", "'de'", "ess = none")),
        (SUM, replace(SUM, examples=40), ("task 'fr'", "ess = 100", "number of examples, 40")),
        (replace(SUM, examples=40), SUM, ("task 'de'", "ess = 100", "40")),
    ],
)
def test_mixed_conventions_name_the_tasks(one: Provenance, other: Provenance, words: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as caught:
        check_conventions({"de": one, "fr": other})
    assert all(word in str(caught.value) for word in words)


def test_the_unset_fields_of_a_provenance_are_not_written() -> None:
    required = {"family", "source", "reduction", "examples", "version"}
    assert set(to_strings(replace(MADE, ess=None))) == required
    assert required < {item.name for item in fields(Provenance)}
