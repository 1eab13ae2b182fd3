"""What LoRA folders must have in common, and what is said where they do not."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file

from previa.core.diagonal import Diagonal
from previa.errors import AlphaError, FileError, InputError, ParamsError, PreviaError
from previa.io.adapter import merge_adapters
from previa.io.adapter_folder import open_adapter, saved_names
from previa.io.adapter_match import common_initialisation
from previa.io.posterior_file import save_posterior
from previa.io.provenance import Provenance
from tiny_adapters import ALPHA, CONFIG, TASKS, TOKENS, WEIGHTS, Study, assert_close, config, tensors

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::UserWarning"
)  # of peft and transformers
FACTOR = "base_model.model.model.layers.1.self_attn.v_proj.lora_{}.weight"


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path)


Change = Callable[[Study], object]


def setting(task: str = "fr", **changed: object) -> Change:
    def change(study: Study) -> None:
        file = study.tasks[task] / CONFIG
        file.write_text(json.dumps(json.loads(file.read_text()) | changed))

    return change


def both(*changes: Change) -> Change:
    return lambda study: [change(study) for change in changes]


def settings(**changed: object) -> Change:
    return both(*(setting(task, **changed) for task in TASKS))


def tensor(name: str, value: torch.Tensor | None) -> Change:
    def change(study: Study) -> None:
        found = tensors(study.tasks["fr"])
        found.pop(name, None)
        save_file(found if value is None else found | {name: value}, study.tasks["fr"] / WEIGHTS)

    return change


def started(**other: object) -> Change:
    """Task fr from a start of its own: same seed, other settings."""

    def change(study: Study) -> None:
        study.tasks["fr"] = study.trained("own", 1, study.begin("own-start", **other))

    return change


def file(name: str, text: str | None) -> Change:
    def change(study: Study) -> None:
        path = study.tasks["fr"] / name
        if text is None:
            path.unlink()
        else:
            path.write_text(text)

    return change


def pickled(study: Study) -> None:
    (study.tasks["fr"] / WEIGHTS).rename(study.tasks["fr"] / "adapter_model.bin")


BOTH: dict[str, tuple[Change, type[PreviaError], str]] = {  # whether factors are averaged or products summed
    "no folder": (
        lambda s: s.tasks.update(fr=s.folder / "none"),
        FileError,
        "none: there is no adapter_config",
    ),
    "no settings": (
        file(CONFIG, None),
        FileError,
        "fr: there is no adapter_config.json; expected a folder that",
    ),
    "no JSON": (file(CONFIG, "{"), FileError, "fr/adapter_config.json: not JSON"),
    "a list": (file(CONFIG, "[]"), FileError, "holds list; expected the settings"),
    "no weights": (file(WEIGHTS, None), FileError, "adapter_model.safetensors: there is no such file"),
    "a pickle": (pickled, FileError, "are a pickle .* weights_only=True"),
    "another kind": (
        setting(peft_type="ADALORA"),
        InputError,
        "peft_type is 'ADALORA'; expected 'LORA'.*merge_and_unload",
    ),
    "DoRA": (
        setting(use_dora=True),
        InputError,
        "use_dora is set; DoRA rescales every row .*merge_and_unload",
    ),
    "KaSA": (setting(kasa_config={"beta": 1}), InputError, "kasa_config is set; KaSA changes the base"),
    "a new variant": (
        tensor("base_model.model.model.layers.0.self_attn.q_proj.lora_C.weight", torch.ones(1)),
        InputError,
        "lora_C.weight' belongs to a variant of LoRA that previa does not know",
    ),
    "half a module": (tensor(FACTOR.format("B"), None), FileError, "v_proj' has only '.*lora_A.weight'"),
    "ranks": (setting(r=4), FileError, "says r = 4 for module 'model.*', but its A has 2 rows"),
    "no rank": (setting(r=None), FileError, "r of module '.*' is None; expected a number above zero"),
    "a pattern": (setting(alpha_pattern={"(": 3}), FileError, "alpha_pattern is no regular expression"),
    "bias": (
        setting(bias="all"),
        InputError,
        "task 'fr': .* bias = 'all', but that of task 'de' says 'none'",
    ),
    "orientation": (
        setting(fan_in_fan_out=True),
        InputError,
        "'fr': .* fan_in_fan_out = True, .* transposed",
    ),
    "base models": (
        both(setting("de", base_model_name_or_path="a"), setting(base_model_name_or_path="b")),
        InputError,
        "task 'fr': .* base_model_name_or_path = 'b', but that of task 'de' says 'a'. .* no common sum",
    ),
    "revisions": (both(setting("de", revision="1"), setting(revision="2")), InputError, "revision = '2'"),
    "heads": (
        setting(modules_to_save=["lm_head"]),
        InputError,
        "modules_to_save = .*by all of them or by none",
    ),
    "what is new": (setting(something_new=True), InputError, "task 'fr': .* something_new = True"),
    "PiSSA and not": (
        setting(init_lora_weights="pissa"),
        InputError,
        "'pissa', but that of task 'de' is 'True'",
    ),
    "a vocabulary": (
        tensor(FACTOR.format("A"), torch.ones(2, 17)),
        ParamsError,
        "task 'fr': .*v_proj.*17.*16",
    ),
}
AVERAGED: dict[str, tuple[Change, type[PreviaError], str]] = {
    "targets": (
        started(target_modules=["q_proj", "v_proj"]),
        ParamsError,
        "task 'fr': no adapter on module 'model.layers.0.mlp.down_proj', which task 'de' has .*"
        r"\['down_proj', 'q_proj', 'v_proj'\].*\['q_proj', 'v_proj'\].*--product",
    ),
    "more targets": (
        started(target_modules=["q_proj", "v_proj", "down_proj", "o_proj"]),
        ParamsError,
        "task 'de': no adapter on module 'model.layers.0.self_attn.o_proj', which task 'fr' has",
    ),
    "rank": (
        started(r=3),
        ParamsError,
        "task 'fr': module '.*' has rank 3, but that of task 'de' has rank 2.*--product",
    ),
    "scaling": (
        setting(lora_alpha=4),
        InputError,
        "'fr': the update of module '.*' is 2 B A, .* 'de' is 3 B A.*--product",
    ),
    "root": (
        setting(use_rslora=True),
        InputError,
        "'fr': the update of module '.*' is 4.24264 B A, .* 3 B A",
    ),
    "a pattern": (setting(alpha_pattern={"v_proj": 7}), InputError, "module '.*v_proj' is 3.5 B A"),
}
SUMMED: dict[str, tuple[Change, type[PreviaError], str]] = {
    "PiSSA": (
        settings(init_lora_weights="pissa"),
        InputError,
        "'de': init_lora_weights is 'pissa', .* depends on the rank",
    ),
    "experts": (
        settings(target_parameters=["x"]),
        InputError,
        "target_parameters is set; .* Average A and B instead",
    ),
    "ties": (settings(ensure_weight_tying=True), InputError, "ensure_weight_tying is set"),
    "a tensor more": (
        tensor("base_model.model.x", torch.ones(1)),
        ParamsError,
        "task 'fr': tensor '.*x' is not in those of task 'de'",
    ),
}


def assert_said(study: Study, product: bool, error: type[PreviaError], message: str) -> None:
    before = sorted(study.folder.rglob("*"))
    with pytest.raises(error, match=message):
        study.merge(product=product)
    assert sorted(study.folder.rglob("*")) == before


@pytest.mark.parametrize("product", [False, True])
@pytest.mark.parametrize("case", BOTH)
def test_what_never_fits_is_said(case: str, product: bool, study: Study) -> None:
    change, error, message = BOTH[case]
    change(study)
    assert_said(study, product, error, message)


@pytest.mark.parametrize("case", AVERAGED)
def test_what_cannot_be_averaged_is_said_and_can_be_summed(case: str, study: Study) -> None:
    change, error, message = AVERAGED[case]
    change(study)
    assert_said(study, False, error, message)
    assert_close(study.deltas(study.merge(product=True)), study.sum(), 1e-6)


@pytest.mark.parametrize("case", SUMMED)
def test_what_cannot_be_summed_is_said(case: str, study: Study) -> None:
    change, error, message = SUMMED[case]
    change(study)
    assert_said(study, True, error, message)


def test_a_convolution_in_groups_is_averaged_and_not_summed(tmp_path: Path) -> None:
    study = Study(tmp_path, "images")
    for path in study.tasks.values():
        name = "base_model.model.wide.lora_B.weight"
        save_file(tensors(path) | {name: torch.ones(8, 1, 1, 1)}, path / WEIGHTS, {"format": "pt"})
    with pytest.raises(InputError, match=r"module 'wide' has factors .* a convolution in groups"):
        study.merge(product=True)
    study.merge()


def test_settings_of_training_and_unknown_ones_may_differ(study: Study) -> None:
    setting("de", base_model_name_or_path=None, task_type=None)(study)
    setting("fr", base_model_name_or_path="the/model", lora_dropout=0.5, peft_version="0.1")(study)
    setting("cs", target_modules="all-linear")(study)  # by names it is the same
    found = config(study.merge())
    assert found["base_model_name_or_path"] == "the/model"
    assert found["task_type"] == "CAUSAL_LM"


def test_a_call_that_makes_no_sense_is_said(study: Study) -> None:
    with pytest.raises(InputError, match="no tasks were given"):
        merge_adapters({}, [], [])
    with pytest.raises(InputError, match="1 weightings and 2 folders"):
        merge_adapters(study.tasks, [ALPHA], ["a", "b"])
    with pytest.raises(InputError, match="one folder of its own for each"):
        merge_adapters(study.tasks, [ALPHA, ALPHA], ["a", "a"])
    for rank, product in ((2, False), (0, True)):
        with pytest.raises(InputError, match=rf"rank is {rank}; expected at least 1, and only with product"):
            study.merge(product=product, rank=rank)
    with pytest.raises(InputError, match="precisions are of A and B, not of their product"):
        study.merge(product=True, precisions={})
    with pytest.raises(InputError, match="Give base and precisions too"):
        study.merge(prior_precision=1.0)
    for product in (False, True):
        with pytest.raises(AlphaError, match="3 tasks need"):
            study.merge((0.5, 0.5), product=product)
        with pytest.raises(AlphaError, match="zero for every task"):
            study.merge((0.0, 0.0, 0.0), product=product)
    with pytest.raises(AlphaError, match="must not be negative"):
        study.merge((1.2, -0.2, 0.0))


# --- initialisation ---------------------------------------------------------------------------------------------------


def train(study: Study, task: int, seed: int, steps: int = 30) -> Path:
    """A LoRA folder really trained, from the initialisation of ``seed``, to say token ``task`` after every token."""
    torch.manual_seed(seed)
    model = get_peft_model(copy.deepcopy(study.model), LoraConfig(**study.settings))  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(
            model(input_ids=TOKENS).logits.flatten(0, 1), torch.full((12,), task)
        )
        loss.backward()
        optimizer.step()
    folder = study.folder / f"trained-{task}-{seed}"
    model.save_pretrained(str(folder))
    return folder


def test_trained_adapters_are_told_apart_by_their_initialisation(study: Study) -> None:
    de, fr, other = train(study, 3, 0), train(study, 5, 0), train(study, 5, 1)
    common = common_initialisation({"de": open_adapter(de), "fr": open_adapter(fr)})
    assert common.verdict == "likely"
    apart = common_initialisation({"de": open_adapter(de), "fr": open_adapter(fr), "cs": open_adapter(other)})
    assert apart.verdict == "unlikely"
    assert apart.pair is not None
    assert "cs" in apart.pair
    merge_adapters({"de": de, "fr": fr}, [(0.5, 0.5)], [study.folder / "common"])
    tasks, out = {"de": de, "fr": other}, study.folder / "apart"
    with pytest.raises(
        InputError, match=r"common initialisation: unlikely \(.*'de'.* and .*'fr'.* --product"
    ):
        merge_adapters(tasks, [(0.5, 0.5)], [out])
    assert merge_adapters(tasks, [(0.5, 0.5)], [out], product=True)[0].initialisation is None


def test_an_embedding_is_told_by_the_factor_that_is_drawn(tmp_path: Path) -> None:
    study = Study(tmp_path, "bert", target_modules=["word_embeddings"])
    adapters = {task: open_adapter(path) for task, path in study.tasks.items()}
    assert common_initialisation(adapters).verdict == "likely"
    adapters["pl"] = open_adapter(study.trained("pl", 4, study.begin("other", 1)))
    assert common_initialisation(adapters).verdict == "unlikely"


def test_a_base_that_no_task_started_from_is_refused(study: Study) -> None:
    with pytest.raises(InputError, match=r"unlikely \(.*the base adapter"):
        study.merge(base=study.begin("other", 1))


def test_nothing_is_known_of_one_adapter_or_of_zeros(study: Study) -> None:
    one = open_adapter(study.tasks["de"])
    assert common_initialisation({"de": one}).sentence == "common initialisation: unknown"
    names = [name for name in tensors(study.tasks["fr"]) if "lora_A" in name]
    zeros = {n: torch.zeros_like(t) if n in names else t for n, t in tensors(study.tasks["fr"]).items()}
    save_file(zeros, study.tasks["fr"] / WEIGHTS)
    found = common_initialisation({"de": one, "fr": open_adapter(study.tasks["fr"])})
    assert (found.verdict, found.cosine) == ("unknown", None)


def test_what_lies_between_is_unknown_and_averaged(study: Study) -> None:
    start = tensors(study.start)
    draw = torch.Generator().manual_seed(3)
    far = {  # as much of A drawn anew as is left of the start, and twice that
        n: t + 1.7 * t.std() * torch.randn(t.shape, generator=draw) if "lora_A" in n else t
        for n, t in start.items()
    }
    save_file(far, study.tasks["fr"] / WEIGHTS, {"format": "pt"})
    record = study.merged()
    assert record.initialisation is not None
    assert record.initialisation.verdict == "unknown"


# --- posteriors -------------------------------------------------------------------------------------------------------


def test_names_of_a_live_model_become_those_of_its_file(tmp_path: Path) -> None:
    study = Study(tmp_path, "bert")
    torch.manual_seed(0)
    model = get_peft_model(copy.deepcopy(study.model), LoraConfig(**study.settings))  # type: ignore[arg-type]
    live = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    assert_close(saved_names(live), get_peft_model_state_dict(model), 0.0)

    made = Provenance(family="diagonal", source="squared_gradients", reduction="mean", examples=10)
    precisions = {task: study.folder / f"{task}.posterior" for task in TASKS}
    for path in precisions.values():
        save_posterior(path, Diagonal(live, 1.0), made, with_mean=False)
    with pytest.raises(
        ParamsError, match=r"precision of task '(de|fr|cs)': tensor '.*default.*' .*saved_names"
    ):
        study.merge(precisions=precisions)
    for path in precisions.values():
        save_posterior(path, Diagonal(saved_names(live), 1.0), made, with_mean=False)
    assert_close(tensors(study.merge(precisions=precisions)), tensors(study.merge()), 1e-7)
    with pytest.raises(InputError, match="'cs' has no partner"):
        study.merge(precisions={"de": precisions["de"], "fr": precisions["fr"]})
