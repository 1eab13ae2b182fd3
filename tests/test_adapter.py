"""Merging LoRA folders: PEFT itself is the oracle, for the update of every module and for what the model computes."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from previa.cli import main
from previa.core.diagonal import Diagonal
from previa.core.merge import merge
from previa.core.warp import warp
from previa.errors import AlphaError, FileError, InputError, NotFiniteError, ParamsError
from previa.io import pieces
from previa.io.adapter import merge_adapters
from previa.io.checkpoint import open_checkpoint
from previa.io.posterior_file import save_posterior
from previa.io.provenance import Provenance
from previa.io.weightings import Anchor, weightings
from tiny_adapters import (
    ALPHA,
    CONFIG,
    EXACT,
    MODELS,
    TASKS,
    ULP,
    WEIGHTS,
    Study,
    assert_close,
    config,
    tensors,
)

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::UserWarning"
)  # of peft and transformers


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path)


# --- sums of products -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MODELS)
def test_products_add_up_exactly_and_the_loaded_model_computes_with_them(kind: str, tmp_path: Path) -> None:
    study = Study(tmp_path, kind, **({"bias": "lora_only"} if kind == "bert" else {}))
    out = study.merge(product=True)
    exact = study.sum()
    assert_close(study.deltas(out), exact, EXACT)

    plain = copy.deepcopy(study.model)
    for name, delta in exact.items():
        plain.get_submodule(name).weight.data += delta.float()
    for name, tensor in tensors(out).items():  # the head, and BERT's biases, which are averaged
        if "lora" not in name:
            plain.get_parameter(
                name.removeprefix("base_model.model.").replace(".base_layer", "")
            ).data = tensor
    torch.testing.assert_close(
        study.outputs(study.load(out)), study.outputs(plain), rtol=1e-5, atol=1e-5
    )  # PEFT adds B (A x) to W x, the oracle adds B A to W: roundings of float32 through a few layers


def test_ranks_scalings_and_modules_may_differ_where_products_are_summed(study: Study) -> None:
    study.tasks["fr"] = study.trained(
        "other",
        1,
        study.begin("rank", 1, r=3, lora_alpha=5, use_rslora=True, target_modules=["q_proj", "o_proj"]),
    )
    study.tasks["cs"] = study.trained(
        "pattern",
        2,
        study.begin("start2", 2, rank_pattern={"layers.1.self_attn.q_proj": 4}, alpha_pattern={"v_proj": 9}),
    )
    out = study.merge(product=True)
    assert_close(study.deltas(out), study.sum(), EXACT)
    ranks = {name: t.shape[0] for name, t in tensors(out).items() if "lora_A" in name}
    key = "base_model.model.model.layers.{}.{}.lora_A.weight".format
    assert ranks[key(0, "self_attn.q_proj")] == 2 + 3 + 2
    assert ranks[key(1, "self_attn.q_proj")] == 2 + 3 + 4
    assert ranks[key(0, "self_attn.o_proj")] == 3
    assert_close(study.deltas(study.merge((0.5, 0, 0.5), product=True)), _without(study, "o_proj"), EXACT)


def _without(study: Study, module: str) -> dict[str, Tensor]:
    return {name: delta for name, delta in study.sum((0.5, 0, 0.5)).items() if module not in name}


def test_a_sum_has_its_own_scaling_and_its_tasks_targets(tmp_path: Path) -> None:
    study = Study(tmp_path, use_rslora=True)
    out = study.merge(product=True)
    assert_close(study.deltas(out), study.sum(), EXACT)
    assert config(out)["target_modules"] == config(study.tasks["de"])["target_modules"]


def test_a_name_that_ends_like_another_keeps_its_own_rank(tmp_path: Path) -> None:
    class Inner(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = torch.nn.Linear(4, 4)

    class Outer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = torch.nn.Linear(4, 4), Inner(), torch.nn.Linear(4, 4)

    MODELS["named"] = (Outer, {"target_modules": ["a", "b.a", "c"]})  # type: ignore[index]
    try:
        study = Study(tmp_path, "named", rank_pattern={"^a": 3})
        out = study.merge(product=True)
        assert {len(t) for n, t in tensors(out).items() if "b.a.lora_A" in n} == {6}
        assert_close(study.deltas(out), study.sum(), EXACT)
    finally:
        del MODELS["named"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("alpha", [(1.5, -0.5, 0.25), (0.0, -1.0, 0.0), (0.0, 0.7, 0.0)])
def test_weights_of_products_may_be_negative_and_those_of_zero_add_no_rank(
    alpha: tuple[float, ...], study: Study
) -> None:
    merged = study.merged(alpha, product=True)
    assert_close(study.deltas(merged.out), study.sum(alpha), EXACT)
    assert merged.rank == 2 * sum(a != 0 for a in alpha) == config(merged.out)["r"]
    assert merged.gamma == pytest.approx(1 - sum(alpha))


def test_products_are_linear_in_the_weights(study: Study) -> None:
    once = study.deltas(study.merge(ALPHA, product=True))
    twice = study.deltas(study.merge(tuple(2 * a for a in ALPHA), product=True))
    assert_close(twice, {name: 2 * delta for name, delta in once.items()}, EXACT)


def test_summing_in_two_steps_is_summing_in_one(study: Study) -> None:
    first = study.folder / "first"
    merge_adapters({task: study.tasks[task] for task in ("de", "fr")}, [(0.5, 0.3)], [first], product=True)
    merge_adapters(
        {"both": first, "cs": study.tasks["cs"]}, [(1.0, 0.2)], [study.folder / "second"], product=True
    )
    assert_close(study.deltas(study.folder / "second"), study.sum(), EXACT)


def test_a_base_that_already_has_an_update_counts_with_gamma(study: Study) -> None:
    started = study.trained("started", 9)
    deltas, base = study.sum((0.5, 0.3, 0.4)), study.deltas(started)
    out = study.merge((0.5, 0.3, 0.4), product=True, base=started)
    assert_close(study.deltas(out), {name: delta - 0.2 * base[name] for name, delta in deltas.items()}, EXACT)
    fresh = study.merged((0.5, 0.3, 0.4), product=True, base=study.start)
    assert fresh.rank == 6  # B = 0 there: nothing to add
    assert_close(study.deltas(fresh.out), deltas, EXACT)


def test_modules_that_only_the_base_adapts_count_with_gamma(study: Study) -> None:
    wide = study.trained("wide", 9, study.begin("wide-start", 1, target_modules=["q_proj", "o_proj"]))
    deltas, base = study.sum((0.5, 0.3, 0.4)), study.deltas(wide)
    expected = {n: deltas.get(n, 0) - 0.2 * base.get(n, 0) for n in {**deltas, **base}}
    out = study.merge((0.5, 0.3, 0.4), product=True, base=wide)
    assert_close(study.deltas(out), expected, EXACT)
    assert_close(study.deltas(study.merge(ALPHA, product=True, base=wide)), study.sum(), EXACT)


def test_biases_of_b_are_summed_with_their_scalings(tmp_path: Path) -> None:
    study = Study(tmp_path, "bert", lora_bias=True, target_modules=["query", "value"])
    study.tasks["fr"] = study.trained("fr4", 1, lora_alpha=4)
    out = study.merge(product=True)
    expected = torch.zeros(16, dtype=torch.float64)
    name = "base_model.model.bert.encoder.layer.0.attention.self.query.lora_B.bias"
    for alpha, scaling, path in zip(ALPHA, (3, 2, 3), study.tasks.values(), strict=True):
        expected += alpha * scaling * tensors(path)[name].double()
    assert_close({name: tensors(out)[name]}, {name: expected}, ULP)
    study.load(out)


@pytest.mark.parametrize("kind", ["llama", "images", "gpt2"])
def test_a_sum_cut_to_a_rank_is_the_best_of_that_rank_and_its_error_is_told(
    kind: str, tmp_path: Path
) -> None:
    study = Study(tmp_path, kind)
    merged = study.merged(product=True, rank=2)
    assert config(merged.out)["r"] == merged.rank == 2
    found, exact = study.deltas(merged.out), study.sum()
    lost = whole = 0.0
    for name, delta in exact.items():
        spectrum = torch.linalg.svdvals(delta.flatten(1))  # transposing changes no singular value
        assert float((found[name] - delta).norm()) == pytest.approx(float(spectrum[2:].norm()), rel=1e-4)
        lost, whole = lost + float(spectrum[2:].square().sum()), whole + float(spectrum.square().sum())
    assert merged.error == pytest.approx((lost / whole) ** 0.5, rel=1e-4)
    assert merged.worst is not None
    assert merged.worst[1] >= merged.error
    assert json.loads((merged.out / "previa.json").read_text())["error"] == merged.error


def test_a_rank_that_is_enough_changes_nothing(study: Study) -> None:
    for alpha, rank in ((ALPHA, 6), ((0.0, 1.0, 0.0), 2)):
        merged = study.merged(alpha, product=True, rank=rank)
        assert merged.error == 0
        assert merged.rank == rank
        assert_close(tensors(merged.out), tensors(study.merge(alpha, product=True)), 0.0)


def test_a_rank_above_a_matrixs_own_cuts_to_the_matrix(study: Study) -> None:
    for task, seed in zip(TASKS, range(3), strict=True):
        study.tasks[task] = study.trained(f"{task}9", seed, study.begin(f"start{seed}", seed, r=9))
    merged = study.merged(product=True, rank=20)  # 27 columns, but matrices of 16 rows or columns
    assert config(merged.out)["r"] == merged.rank == 16
    assert merged.error == pytest.approx(0, abs=1e-12)
    assert_close(study.deltas(merged.out), study.sum(), EXACT)


# --- averages of factors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MODELS)
def test_an_average_is_that_of_every_tensor_and_loads(kind: str, tmp_path: Path) -> None:
    study = Study(tmp_path, kind)
    out = study.merge()
    each = [tensors(path) for path in study.tasks.values()]
    expected = {n: sum(a * t[n].double() for a, t in zip(ALPHA, each, strict=True)) for n in each[0]}
    assert_close(tensors(out), expected, ULP)  # type: ignore[arg-type]
    assert study.load(out).peft_config["default"].r == 2


def test_a_corner_returns_the_task_bit_for_bit(study: Study) -> None:
    save_posteriors(study)
    for t, task in enumerate(TASKS):
        alpha = tuple(float(s == t) for s in range(3))
        for more in ({}, {"precisions": posteriors(study)}, {"base": study.start}):
            assert_close(tensors(study.merge(alpha, **more)), tensors(study.tasks[task]), 0.0)
        assert_close(study.deltas(study.merge(alpha, product=True)), study.deltas(study.tasks[task]), EXACT)


@pytest.mark.parametrize("product", [False, True])
def test_the_order_of_tasks_is_irrelevant(product: bool, study: Study) -> None:
    expected = study.deltas(study.merge(product=product))
    study.tasks = dict(reversed(study.tasks.items()))
    assert_close(study.deltas(study.merge(ALPHA[::-1], product=product)), expected, EXACT)


@pytest.mark.parametrize("product", [False, True])
def test_merging_copies_returns_the_copy(product: bool, study: Study) -> None:
    expected = study.deltas(study.tasks["de"])
    study.tasks = dict.fromkeys(TASKS, study.tasks["de"])
    assert_close(study.deltas(study.merge(product=product)), expected, EXACT)


def test_task_arithmetic_starts_at_the_base(study: Study) -> None:
    alpha = (0.6, 0.6, 0.3)
    start, each = tensors(study.start), [tensors(path) for path in study.tasks.values()]
    expected = {
        n: t.double() + sum(a * (e[n].double() - t.double()) for a, e in zip(alpha, each, strict=True))
        for n, t in start.items()
    }
    assert_close(tensors(study.merge(alpha, base=study.start)), expected, 3 * ULP)
    with pytest.raises(AlphaError, match=r"alpha sums to 1\.5; without a base it must sum to 1"):
        study.merge(alpha)


PROVENANCE = Provenance(family="diagonal", source="squared_gradients", reduction="mean", examples=10)


def posteriors(study: Study) -> dict[str, Path]:
    return {task: study.folder / f"{task}.posterior" for task in TASKS}


def save_posteriors(study: Study) -> dict[str, Diagonal]:
    """Diagonal posteriors of all tensors, at the files' names."""
    qs = {}
    for seed, (task, path) in enumerate(posteriors(study).items()):
        draw, theta = torch.Generator().manual_seed(50 + seed), tensors(study.tasks[task])
        qs[task] = Diagonal(theta, {n: torch.rand(t.shape, generator=draw) + 0.01 for n, t in theta.items()})
        save_posterior(path, qs[task], PROVENANCE)
    return qs


def test_precisions_weigh_every_entry_as_merge_does(study: Study) -> None:
    qs = list(save_posteriors(study).values())
    found = tensors(study.merge(precisions=posteriors(study)))
    assert_close(found, merge(ALPHA, qs).mode(), 5 * ULP)  # the oracle sums in float32
    prior = Diagonal(tensors(study.start), 0.3)
    alpha = (0.3, 0.3, 0.1)
    found = tensors(study.merge(alpha, precisions=posteriors(study), base=study.start, prior_precision=0.3))
    assert_close(found, merge(alpha, qs, prior).mode(), 5 * ULP)


def test_a_tensor_without_a_precision_must_be_common(tmp_path: Path) -> None:
    study = Study(tmp_path, "bert")
    for task, path in posteriors(study).items():
        theta = {n: t for n, t in tensors(study.tasks[task]).items() if "lora" in n}
        save_posterior(path, Diagonal(theta, 1.0), PROVENANCE)
    with pytest.raises(ParamsError, match=r"task 'fr': tensor '.*classifier.*' has no precision"):
        study.merge(precisions=posteriors(study))


# --- powers and anchors -----------------------------------------------------------------------------------------------

AT = ((0.5, 0.5, 0.0), (1 / 3, 1 / 3, 1 / 3))


def joint_runs(study: Study) -> list[Anchor]:
    """Adapters of joint runs, which started where the tasks' own did."""
    return [Anchor(alpha, study.trained(f"joint{r}", 70 + r)) for r, alpha in enumerate(AT)]


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("product", [False, True])
def test_anchored_adapters_are_sums_of_all_runs(kind: str, product: bool, tmp_path: Path) -> None:
    study = Study(tmp_path, kind)
    anchors = joint_runs(study)
    paths = [*study.tasks.values(), *(Path(anchor.path) for anchor in anchors)]
    (weights,) = weightings([ALPHA], TASKS, p=0.3, anchors=anchors).runs
    assert min(weights) < 0
    merged = study.merged(p=0.3, anchors=anchors, product=product)
    read = study.deltas if product else tensors
    each = [read(path) for path in paths]
    expected = {n: sum(w * t[n].double() for w, t in zip(weights, each, strict=True)) for n in each[0]}
    assert_close(read(merged.out), expected, 2 * EXACT if product else 2 * ULP)  # type: ignore[arg-type]
    study.load(merged.out)
    assert merged.rank == (10 if product else 2)
    record = json.loads((merged.out / "previa.json").read_text())
    assert (record["p"], record["alpha"]) == (0.3, dict(zip(TASKS, ALPHA, strict=True)))
    assert [each["from"] for each in record["anchors"]] == [str(anchor.path) for anchor in anchors]
    header = open_checkpoint(merged.out / WEIGHTS).metadata["previa.merge"]
    assert json.loads(header)["anchors"] == record["anchors"]


@pytest.mark.parametrize("p", [1.0, 0.3])
def test_corners_and_anchors_are_their_own_adapters(p: float, study: Study) -> None:
    save_posteriors(study)
    anchors = joint_runs(study)
    corners = [tuple(float(s == t) for s in range(3)) for t in range(3)]
    for alpha, path in zip([*corners, *AT], [*study.tasks.values(), *(a.path for a in anchors)], strict=True):
        for more in ({}, {"precisions": posteriors(study)}, {"base": study.start}):
            found = study.merge(alpha, p=p, anchors=anchors, **more)
            assert_close(tensors(found), tensors(Path(path)), 0.0)
        merged = study.merged(alpha, p=p, anchors=anchors, product=True)
        assert_close(study.deltas(merged.out), study.deltas(Path(path)), EXACT)
        assert merged.rank == 2  # runs without weight add none


def test_heads_are_anchored_where_products_are_summed(tmp_path: Path) -> None:
    study = Study(tmp_path, "bert")
    anchors = joint_runs(study)
    averaged, summed = (
        tensors(study.merge(p=0.3, anchors=anchors, product=product)) for product in (False, True)
    )
    heads = [name for name in averaged if "classifier" in name]
    assert heads
    assert_close({n: summed[n] for n in heads}, {n: averaged[n] for n in heads}, 0.0)


def test_an_anchor_from_another_initialisation_is_refused_where_factors_are_averaged(study: Study) -> None:
    anchors = joint_runs(study)
    anchors[1] = Anchor(AT[1], study.trained("elsewhere", 9, study.begin("other-start", 5)))
    with pytest.raises(
        InputError, match=r"unlikely \(the initialised factors of .* and the anchor at 0\.333333333"
    ):
        study.merge(anchors=anchors)
    out = study.merge(anchors=anchors, product=True)  # products need no common start
    assert study.deltas(out)


def test_an_anchor_that_does_not_fit_the_tasks_is_named(study: Study) -> None:
    wide = study.trained("wide", 9, study.begin("wide-start", 0, r=3))
    with pytest.raises(ParamsError, match=r"the anchor at 0\.5,0\.5,0: module .* has rank 3"):
        study.merge(anchors=[Anchor(AT[0], wide)])
    with pytest.raises(FileError, match=r"there is no adapter_config\.json"):
        study.merge(anchors=[Anchor(AT[0], study.folder / "nowhere")])
    with pytest.raises(AlphaError, match="negative"):
        study.merge((1.5, -0.5, 0.0), product=True, p=0.3)


def test_warped_products_are_sums_at_the_warped_weights(study: Study) -> None:
    w = tuple(warp(ALPHA, 0.3).tolist())
    assert_close(study.deltas(study.merge(p=0.3, product=True)), study.sum(w), EXACT)
    assert_close(tensors(study.merge(p=0.3)), tensors(study.merge(w)), 0.0)


@pytest.mark.parametrize("product", [False, True])
def test_the_command_anchors_adapters(
    product: bool, study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    anchors = joint_runs(study)
    out = study.folder / "by-command"
    words = [word for task, path in study.tasks.items() for word in ("--task", f"{task}={path}")]
    for anchor in anchors:
        words += ["--anchor", f"{','.join(map(str, anchor.alpha))}={anchor.path}"]
    words += ["--power", "0.3", "--alpha", "0.5,0.3,0.2", "--out", str(out), *["--product"][: int(product)]]
    assert main(["merge", *words]) == 0
    assert f"rank {10 if product else 2}" in capsys.readouterr().out
    expected = study.merge(p=0.3, anchors=anchors, product=product)
    assert_close(tensors(out), tensors(expected), 0.0)


# --- what is stored whole ---------------------------------------------------------------------------------------------


def test_heads_are_averaged_where_products_are_summed(tmp_path: Path) -> None:
    study = Study(tmp_path, "bert")
    name = "base_model.model.classifier.weight"
    heads = [tensors(path)[name].double() for path in study.tasks.values()]
    expected = sum(a * head for a, head in zip(ALPHA, heads, strict=True))
    assert_close({name: tensors(study.merge(product=True))[name]}, {name: expected}, ULP)  # type: ignore[dict-item]
    start = tensors(study.start)[name].double()
    found = tensors(study.merge((0.2, 0.2, 0.2), product=True, base=study.start))[name]
    expected = 0.4 * start + sum(0.2 * head for head in heads)
    assert_close({name: found}, {name: expected}, ULP)


def test_heads_need_a_base_or_weights_that_have_an_average(tmp_path: Path) -> None:
    study = Study(tmp_path, "bert")
    with pytest.raises(
        ParamsError,
        match=r"'fr': tensor '.*classifier.* differs from that of task 'de', and weights that do not sum to 1",
    ):
        study.merge((0.2, 0.2, 0.2), product=True)
    with pytest.raises(
        ParamsError, match=r"'fr': tensor '.*classifier.* and negative weights have no average"
    ):
        study.merge((0.9, -0.1, 0.2), product=True)


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [{}, {"product": True}, {"product": True, "rank": 2}])
def test_many_weightings_in_one_pass_are_each_alone(more: dict[str, object], study: Study) -> None:
    alphas = [ALPHA, (0.0, 1.0, 0.0), (0.2, 0.3, 0.5)]
    outs = [study.folder / f"out{i}" for i in range(3)]
    records = merge_adapters(study.tasks, alphas, outs, **more)  # type: ignore[arg-type]
    for alpha, out, record in zip(alphas, outs, records, strict=True):
        alone = study.merged(alpha, **more)
        assert_close(tensors(out), tensors(alone.out), 0.0)
        assert config(out) == config(alone.out)
        assert (record.alpha, record.error) == (dict(zip(TASKS, alpha, strict=True)), alone.error)


def test_the_size_of_a_piece_is_irrelevant(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = tensors(study.merge())
    monkeypatch.setattr(pieces, "PIECE", 5)
    assert_close(tensors(study.merge()), expected, 0.0)


@pytest.mark.parametrize("product", [False, True])
def test_dtypes_are_kept_or_chosen_and_sums_rounded_once(product: bool, study: Study) -> None:
    for path in study.tasks.values():
        half = {name: tensor.bfloat16() for name, tensor in tensors(path).items()}
        save_file(half, path / WEIGHTS, {"format": "pt"})
    kept, chosen = tensors(study.merge(product=product)), study.merge(product=product, dtype=torch.float32)
    assert {tensor.dtype for tensor in kept.values()} == {torch.bfloat16}
    assert_close(kept, {name: t.bfloat16() for name, t in tensors(chosen).items()}, 0.0)
    if product:
        assert_close(study.deltas(chosen), study.sum(), EXACT)
    with pytest.raises(NotFiniteError, match=r"does not fit torch\.float16"):
        study.merge((1e9, 0.0, 0.0), product=True, dtype=torch.float16)


def test_tensors_of_several_dtypes_are_aligned(tmp_path: Path) -> None:
    study = Study(tmp_path, "images", r=1, target_modules=["wide"], modules_to_save=["narrow"])
    for path in study.tasks.values():  # 27 halves in A, before a head of whole floats
        half = {n: t.bfloat16() if "lora" in n else t for n, t in tensors(path).items()}
        save_file(half, path / WEIGHTS, {"format": "pt"})
    raw = (study.merge((1.0, 0.0, 0.0), product=True) / WEIGHTS).read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    width = {"F32": 4, "BF16": 2}
    starts = [(t["data_offsets"][0], width[t["dtype"]]) for n, t in header.items() if n != "__metadata__"]
    assert {size for _, size in starts} == {2, 4}
    assert all(start % size == 0 for start, size in starts)


def test_the_folder_says_what_it_is(study: Study) -> None:
    merged = study.merged()
    assert sorted(file.name for file in merged.out.iterdir()) == [CONFIG, WEIGHTS, "previa.json"]
    record = json.loads((merged.out / "previa.json").read_text())
    assert record["alpha"] == {"de": 0.5, "fr": 0.3, "cs": 0.2}
    assert record["initialisation"]["verdict"] == "likely"
    assert not record["product"]


def test_a_merge_that_fails_midway_leaves_nothing(study: Study) -> None:
    broken = tensors(study.tasks["cs"])
    last = [name for name in broken if "lora" in name][-1]
    save_file(broken | {last: torch.full_like(broken[last], torch.nan)}, study.tasks["cs"] / WEIGHTS)
    before = sorted(study.folder.rglob("*"))
    with pytest.raises(NotFiniteError, match=r"task 'cs': .*" + last):
        study.merge()
    assert sorted(study.folder.rglob("*")) == before


def test_nan_in_what_is_stored_whole_is_said(tmp_path: Path) -> None:
    study = Study(tmp_path, "bert")
    name = "base_model.model.classifier.bias"
    save_file(tensors(study.tasks["fr"]) | {name: torch.full((3,), torch.nan)}, study.tasks["fr"] / WEIGHTS)
    for product in (False, True):
        with pytest.raises(NotFiniteError, match=r"task 'fr': .*classifier\.bias"):
            study.merge(product=product)


def test_a_killed_merge_leaves_no_folder_of_that_name(study: Study) -> None:
    code = (
        "import os, sys; from previa.io import adapter\n"
        "adapter._write_json = lambda file, value: os._exit(9)\n"
        "adapter.merge_adapters({'de': sys.argv[1], 'fr': sys.argv[2]}, [(0.5, 0.5)], [sys.argv[3]])"
    )
    out = study.folder / "out"
    args = [sys.executable, "-c", code, str(study.tasks["de"]), str(study.tasks["fr"]), str(out)]
    assert subprocess.run(args, check=False).returncode == 9
    assert not out.exists()
    assert [file.suffix for file in study.folder.glob(".out*")] == [".part"]


def test_a_name_that_is_taken_is_left_alone(study: Study) -> None:
    with pytest.raises(FileError, match="exists and is not empty"):
        merge_adapters(study.tasks, [ALPHA], [study.tasks["de"]])
    (study.folder / "empty").mkdir()
    merge_adapters(study.tasks, [ALPHA], [study.folder / "empty"])
    assert (study.folder / "empty" / WEIGHTS).exists()


def test_the_tokenizer_is_carried_and_must_be_one(study: Study) -> None:
    for task in ("fr", "cs"):
        (study.tasks[task] / "vocab.txt").write_text("a\nb\n")
    assert (study.merge() / "vocab.txt").read_text() == "a\nb\n"
    (study.tasks["cs"] / "vocab.txt").write_text("a\nc\n")
    with pytest.raises(ParamsError, match=r"task 'cs': .* token 1 is 'c', .* 'b'"):
        study.merge()
