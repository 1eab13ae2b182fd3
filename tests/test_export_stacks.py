"""Round trips: each stack's files, read as the stack reads them, give the rows of each task that were planned.

Readers are either the stack's own library (`datasets`, PyYAML) or a few lines with the semantics of the functions that the
exporter's docstring names.
"""

import json
import math
import random
import subprocess
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import yaml
from datasets import concatenate_datasets, interleave_datasets, load_dataset
from datasets.utils.logging import disable_progress_bar

from previa.cli.export import NAMES
from previa.errors import InputError
from previa.export.handover import Options, write
from previa.export.plan import Plan, Task
from previa.export.shares import passes
from previa.export.stacks import STACKS
from previa.export.tasks import Given, task_of

disable_progress_bar()
SIZES = {"de": 50, 'it\'s #1: "ü" $x': 20, "f[r]": 8}  # names that a shell, YAML and Python have to quote
LENGTHS = {"de": 10, 'it\'s #1: "ü" $x': 40, "f[r]": 5}
ALPHA = (0.5, 0.3, 0.2)
TOKENISED, MIXED = {"megatron", "nemo", "olmo-core"}, {"axolotl", "torchtune"}
PATTERNS = {
    "open-instruct",
    "ms-swift",
    "llama-factory",
}  # they take no file name with characters of patterns


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def folder_of(tmp_path):
    made = tmp_path / "data of mine's"
    made.mkdir(exist_ok=True)
    return made


def plan_for(name, tmp_path, draw, *, convention="mean", average="tokens", alpha=ALPHA):
    """Three tasks with files of their own, whose rows begin with the number of their task."""
    tasks = []
    for t, ((task, N), a) in enumerate(zip(SIZES.items(), alpha, strict=True)):
        stem = f"{t}" if name in {"megatron", *PATTERNS} else task
        folder = tmp_path if name == "megatron" else folder_of(tmp_path)
        if name in TOKENISED:
            path = str(folder / (f"{stem}*.npy" if name == "olmo-core" else f"{stem}_document"))
            tasks.append(task_of(task, path, a, Given(rows=N, tokens=LENGTHS[task]))[0])
            continue
        path = folder / f"{stem}.jsonl"
        words = " ".join(["w"] * (LENGTHS[task] - 2))
        path.write_text(
            "".join(json.dumps({"prompt": "p", "completion": f"{t} {i} {words}"}) + "\n" for i in range(N))
        )
        tasks.append(task_of(task, str(path), a)[0])
    return Plan(tasks=tuple(tasks), draw=draw, convention=convention, average=average, seed=3)


def handed_over(name, plan, tmp_path):
    folder = tmp_path / "out"
    write(STACKS[name], plan, STACKS[name].export(plan, folder), folder, Options(counted={}))
    return folder


def tasks_in(dataset):
    return [int(text.split()[0]) for text in dataset["completion"]]


def counts_in(dataset):
    found = Counter(tasks_in(dataset))
    return np.array([found[t] for t in range(3)])


def module(monkeypatch, name, **attributes):
    """A module of a stack that is not installed, with stand-ins that keep what they are given."""
    parts = name.split(".")
    for i in range(1, len(parts) + 1):
        monkeypatch.setitem(sys.modules, ".".join(parts[:i]), ModuleType(".".join(parts[:i])))
    for key, value in attributes.items():
        setattr(sys.modules[name], key, value)


def run(path):
    namespace = {}
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), namespace)
    return namespace


def shell_array(path):
    """The words of the bash array, as bash gives them to a command."""
    made = subprocess.run(
        ["bash", "-c", 'source "$1"; printf "%s\\0" "${MIXTURE[@]}"', "-", str(path)],
        capture_output=True,
        check=True,
    )
    words = made.stdout.decode().split("\0")[:-1]
    options = [i for i, word in enumerate(words) if word.startswith("--")]
    return {words[i]: words[i + 1 : j] for i, j in zip(options, [*options[1:], None], strict=True)}


# As the stacks read them: the rows of each task ---------------------------------------------------------------------------


def read_datasets(folder, plan, monkeypatch):
    mixture = run(folder / "mixture.py")["mixture"]()
    assert len(mixture) == plan.draw
    return counts_in(mixture)


def read_trl(folder, plan, monkeypatch):
    """trl/scripts/utils.py, get_dataset; the trainer then shuffles and sees num_train_epochs of it."""
    config = yaml.safe_load((folder / "trl.yaml").read_text(encoding="utf-8"))
    entries = config["datasets"]
    parts = [load_dataset(e["path"], data_files=e["data_files"], split=e["split"]) for e in entries]
    weights = [e["fraction"] / sum(e["fraction"] for e in entries) for e in entries]
    total = min(len(part) / w for part, w in zip(parts, weights, strict=True) if w > 0)
    kept = concatenate_datasets(
        [p.select(range(round(w * total))) for p, w in zip(parts, weights, strict=True)]
    )
    return counts_in(kept) * config["num_train_epochs"]


def read_alignment_handbook(folder, plan, monkeypatch):
    """src/alignment/data.py, get_dataset."""
    mixture = yaml.safe_load((folder / "alignment-handbook.yaml").read_text(encoding="utf-8"))[
        "dataset_mixture"
    ]
    parts = []
    for e in mixture["datasets"]:
        assert 0 < e["weight"] <= 1
        ds = load_dataset(e["id"], e.get("config"), split=e["split"])
        parts.append(ds.shuffle(seed=mixture["seed"]).select(range(int(len(ds) * e["weight"]))))
    return counts_in(concatenate_datasets(parts))


def read_open_instruct(folder, plan, monkeypatch):
    """open_instruct/dataset_transformation.py, load_dataset_configs."""
    words = shell_array(folder / "open-instruct.sh")
    assert words["--dataset_mixer_list_splits"] == ["train"]
    mixer, parts = words["--dataset_mixer_list"], []
    for name, amount in zip(mixer[::2], mixer[1::2], strict=True):
        assert Path(name).exists()
        ds = load_dataset("json", data_files=name, split="train")
        size = int(float(amount) * len(ds)) if "." in amount else int(amount)
        rest = np.random.RandomState(42).choice(len(ds), size=size % len(ds), replace=False)
        parts.append(ds.select([*list(range(len(ds))) * (size // len(ds)), *rest]))
    return counts_in(concatenate_datasets(parts))


def read_ms_swift(folder, plan, monkeypatch):
    """swift/dataset/dataset_syntax.py, DatasetSyntax.parse; utils.py, sample_dataset."""
    words, parts = shell_array(folder / "ms-swift.sh"), []
    for entry in words["--dataset"]:
        assert "::" not in entry
        path, count = entry.rsplit("#", 1)
        ds = load_dataset("json", data_files=path, split="train")
        rest = np.random.RandomState(int(words["--data_seed"][0])).permutation(len(ds))[
            : int(count) % len(ds)
        ]
        parts.append(
            ds.select(np.concatenate([np.tile(range(len(ds)), int(count) // len(ds)), rest]).astype(int))
        )
    return counts_in(concatenate_datasets(parts))


def read_llama_factory(folder, plan, monkeypatch):
    """data/loader.py, _load_single_dataset; data/data_utils.py, merge_dataset. The rows, scaled to those planned."""
    config = yaml.safe_load((folder / "llama-factory.yaml").read_text(encoding="utf-8"))
    info = json.loads((Path(config["dataset_dir"]) / "dataset_info.json").read_text(encoding="utf-8"))
    strategies = {"interleave_under": "first_exhausted", "interleave_over": "all_exhausted", "interleave_once": "all_exhausted_without_replacement"}  # fmt: skip
    parts, rng = [], np.random.RandomState(config["seed"])
    for name in (item.strip() for item in config["dataset"].split(",")):
        about = info[name]
        assert about["columns"] == {"prompt": "prompt", "response": "completion"}
        ds = load_dataset("json", data_files=about["file_name"], split="train")
        order = rng.permutation(len(ds))[: about["num_samples"]]
        more = rng.choice(len(ds), about["num_samples"] - len(order))
        parts.append(ds.select(np.concatenate([order, more])))
    drawn = interleave_datasets(
        parts, probabilities=list(map(float, config["interleave_probs"].split(","))), seed=config["seed"],
        stopping_strategy=strategies[config["mix_strategy"]],
    )  # fmt: skip
    assert plan.draw <= len(drawn) < 1.5 * plan.draw
    return counts_in(drawn) * plan.draw / len(drawn)


def blended(weights, size):
    """megatron/core/datasets/helpers.cpp, build_blending_indices: sequences of each data set."""
    w, found = np.array(weights) / sum(weights), np.zeros(len(weights))
    for sample in range(size):
        found[np.argmax(w * max(sample, 1) - found)] += 1
    return found


def read_megatron(folder, plan, monkeypatch):
    """megatron/core/datasets/utils.py, get_blend_from_list(read().split()); sequences -> tokens -> rows."""
    blend = (folder / "megatron.txt").read_text().split()
    assert [Path(p).name for p in blend[1::2]] == ["0_document", "1_document", "2_document"]
    assert all(Path(p).is_absolute() for p in blend[1::2])
    return rows_of_sequences(blended(list(map(float, blend[::2])), 10_000), plan)


def rows_of_sequences(sequences, plan):
    rows = sequences / sequences.sum() / np.array(list(LENGTHS.values()))
    return rows / rows.sum() * plan.draw


def read_nemo(folder, plan, monkeypatch):
    kept = {}
    module(
        monkeypatch,
        "nemo.collections.llm.gpt.data.pre_training",
        PreTrainingDataModule=lambda **given: kept.update(given),
    )
    run(folder / "nemo_mixture.py")["data"](seq_length=64, global_batch_size=8)
    paths = kept["paths"]
    assert [Path(p).name for p in paths[1::2]] == [f"{name}_document" for name in SIZES]
    assert all(isinstance(weight, str) for weight in paths[::2])
    assert (kept["seed"], kept["seq_length"], kept["num_train_samples"]) == (
        3,
        64,
        math.ceil(plan.tokens_drawn / 64),
    )
    return rows_of_sequences(blended(list(map(float, paths[::2])), 10_000), plan)


def read_megatron_bridge(folder, plan, monkeypatch):
    """megatron/bridge/data/sources/hf.py, blend_sft_rows."""
    module(
        monkeypatch, "megatron.bridge.data.builders",
        HFDatasetSourceConfig=lambda **given: SimpleNamespace(**given), DirectHFSFTDatasetConfig=lambda **given: SimpleNamespace(**given),
    )  # fmt: skip
    config = run(folder / "bridge_mixture.py")["dataset"](seq_length=512)
    assert not config.do_validation
    rng, drawn = random.Random(config.blend_seed), []
    for source, weight in zip(config.source, config.source_weights, strict=True):
        rows = load_dataset(source.path_or_dataset, split=source.split, **source.load_kwargs)["completion"]
        assert weight > 0
        drawn += [*rows] * int(weight) + rng.sample([*rows], math.ceil(len(rows) * (weight - int(weight))))
    return counts_in({"completion": drawn})


def read_olmo_core(folder, plan, monkeypatch):
    """src/olmo_core/data/source_mixture.py, SourceMixtureDatasetConfig.build, before rounding to instances."""
    sources = yaml.safe_load((folder / "olmo-core.yaml").read_text(encoding="utf-8"))["sources"]
    assert [s["source_name"] for s in sources] == list(SIZES)
    assert np.allclose(sum(s["target_ratio"] for s in sources), 1.0)
    tokens, requested = [], plan.tokens_drawn
    for s, name in zip(sources, SIZES, strict=True):
        assert s["paths"] == [str(folder_of(folder.parent) / f"{name}*.npy")]
        assert s["max_repetition_ratio"] >= 1
        needed, available = int(requested * s["target_ratio"]), SIZES[name] * LENGTHS[name]
        assert int(available * s["max_repetition_ratio"]) >= needed
        tokens.append(needed)
    return rows_of_sequences(np.array(tokens), plan)


def read_axolotl(folder, plan, monkeypatch):
    (entry,) = yaml.safe_load((folder / "axolotl.yaml").read_text(encoding="utf-8"))["datasets"]
    assert entry["type"]["field_instruction"] == "prompt"
    assert entry["type"]["field_output"] == "completion"
    return counts_in(load_dataset(entry["ds_type"], data_files=entry["path"], split=entry["split"]))


def read_torchtune(folder, plan, monkeypatch):
    entry = yaml.safe_load((folder / "torchtune.yaml").read_text(encoding="utf-8"))["dataset"]
    assert entry.pop("_component_") == "torchtune.datasets.instruct_dataset"
    assert entry.pop("column_map") == {"input": "prompt", "output": "completion"}
    found = load_dataset(entry.pop("source"), **entry)
    assert [list(SIZES).index(name) for name in found["task"]] == tasks_in(found)
    return counts_in(found)


READERS = {
    "datasets": read_datasets, "trl": read_trl, "alignment-handbook": read_alignment_handbook,
    "open-instruct": read_open_instruct, "llama-factory": read_llama_factory, "ms-swift": read_ms_swift,
    "megatron": read_megatron, "nemo": read_nemo, "megatron-bridge": read_megatron_bridge,
    "olmo-core": read_olmo_core, "axolotl": read_axolotl, "torchtune": read_torchtune,
}  # fmt: skip
DRAWN_BY_CHANCE = {"datasets", "llama-factory"}


def test_every_stack_has_a_name_on_the_command_line_and_a_reader_here():
    assert tuple(STACKS) == NAMES
    assert set(READERS) == set(NAMES)


@pytest.mark.parametrize("draw", [30, 160], ids=["a part of each", "several epochs"])
@pytest.mark.parametrize("name", NAMES)
def test_the_stack_reads_the_planned_rows_of_each_task(name, draw, tmp_path, monkeypatch):
    plan = plan_for(name, tmp_path, draw)
    found = READERS[name](handed_over(name, plan, tmp_path), plan, monkeypatch)
    q = plan.shares
    np.testing.assert_allclose(
        q, [0.05 / 0.0975, 0.0075 / 0.0975, 0.04 / 0.0975], rtol=1e-12
    )  # alpha_t / L_t, normalised
    if name in DRAWN_BY_CHANCE:  # five standard deviations
        assert (np.abs(found - draw * q) < 5 * np.sqrt(draw * q * (1 - q))).all()
    elif name in TOKENISED:  # 10 000 sequences, or whole tokens
        np.testing.assert_allclose(found, draw * q, rtol=0.01)
    elif name == "trl" and draw == 30:  # rows of a larger mixture, rounded there, of which a part is seen
        assert (np.abs(found - plan.counts) < 0.5).all()
    else:
        assert found.tolist() == plan.counts.tolist()
        assert (np.abs(found - draw * q) < 1).all()


@pytest.mark.parametrize("name", sorted(set(NAMES) - TOKENISED))
def test_the_stack_follows_summed_losses_too(name, tmp_path, monkeypatch):
    """alpha_t N_t, for rows: another rule than the one above, for its shares are not those."""
    plan = plan_for(name, tmp_path, 300, convention="sum", average="rows")
    found = READERS[name](handed_over(name, plan, tmp_path), plan, monkeypatch)
    q = np.array([25, 6, 1.6]) / 32.6
    slack = 5 * np.sqrt(300 * q * (1 - q)) if name in DRAWN_BY_CHANCE else 1.0
    assert (np.abs(found - 300 * q) < slack).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_task_without_weight_is_not_mentioned(name, tmp_path):
    plan = plan_for(name, tmp_path, 40, alpha=(0.6, 0.0, 0.4))
    made = STACKS[name].export(plan, tmp_path / "out")
    assert list(made.numbers) == ["de", "f[r]"]
    text = "".join(made.files.values())
    assert "ü" not in text
    assert "1.jsonl" not in text


@pytest.mark.parametrize("name", NAMES)
def test_the_same_plan_gives_the_same_bytes_and_only_names_paths_that_hold_anywhere(
    name, tmp_path, monkeypatch
):
    plan = plan_for(name, tmp_path, 40)
    first = STACKS[name].export(plan, tmp_path / "out")
    assert first == STACKS[name].export(plan, tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    tasks = tuple(Task(**{**asdict(t), "path": str(Path(t.path).relative_to(tmp_path))}) for t in plan.tasks)
    relative = Plan(tasks=tasks, draw=40, seed=3)
    assert STACKS[name].export(relative, tmp_path / "out") == first


@pytest.mark.parametrize("name", sorted(set(NAMES) - TOKENISED - MIXED))
def test_names_of_the_hub_stay_as_they_are(name, tmp_path):
    tasks = tuple(Task(t, f"someone/{t}", 50, 9.0, 0.5) for t in ("a", "b"))
    made = STACKS[name].export(Plan(tasks=tasks, draw=20, seed=0), tmp_path)
    text = "".join(made.files.values())
    assert "someone/a" in text
    assert f"{tmp_path}/someone" not in text


def test_floating_point_never_loses_a_row(tmp_path):
    """alignment-handbook rounds down and Megatron-Bridge up: both get k of N rows right, where k / N does not."""
    assert int(49 * (1 / 49)) == 0
    assert 5 * (2.6 - 2) > 3
    for N in (1, 2, 5, 10, 49, 60, 98):
        for k in range(1, 2 * N + 1):
            plan = Plan(tasks=(Task("t", "someone/t", N, 1.0, 1.0),), draw=k)
            text = STACKS["alignment-handbook"].export(plan, tmp_path).files["alignment-handbook.yaml"]
            weights = [float(line.split()[-1]) for line in text.splitlines() if "weight" in line]
            assert [int(N * w) for w in weights] == list(passes(k, N))
            script = STACKS["megatron-bridge"].export(plan, tmp_path).files["bridge_mixture.py"]
            weight = run_text(script)["SOURCES"][0][1]
            assert N * int(weight) + math.ceil(N * (weight - int(weight))) == k


def run_text(script):
    namespace = {}
    exec(script, namespace)
    return namespace


# Traps (METHOD 8), and what is refused ------------------------------------------------------------------------------------


def test_without_replacement_interleaving_forgets_the_mixture_which_is_why_it_is_not_used(tmp_path):
    parts = []
    for t, N in enumerate((1000, 200, 50)):
        path = tmp_path / f"{t}.jsonl"
        path.write_text(f'{{"completion": "{t} x"}}\n' * N)
        parts.append(load_dataset("json", data_files=str(path), split="train"))
    drawn = interleave_datasets(
        parts, [0.5, 0.3, 0.2], seed=0, stopping_strategy="all_exhausted_without_replacement"
    )
    np.testing.assert_allclose(counts_in(drawn) / len(drawn), [0.8, 0.16, 0.04])


def test_trl_says_whose_first_rows_it_takes(tmp_path):
    made = STACKS["trl"].export(plan_for("trl", tmp_path, 30), tmp_path)
    assert "takes the first rows" in made.notes[0]
    whole = Plan(tasks=(Task("a", "someone/a", 10, 1.0, 0.5), Task("b", "someone/b", 10, 1.0, 0.5)), draw=40)
    assert not STACKS["trl"].export(whole, tmp_path).notes


@pytest.mark.parametrize(
    ("name", "task", "path", "said"),
    [
        ("llama-factory", "a,b", "x/y", "takes a list of names apart at commas"),
        ("llama-factory", "a", "a[1].jsonl", r"holds one of the characters \*, \? and \["),
        ("ms-swift", "a", "a::b.jsonl", "would not read .* as one path"),
        ("ms-swift", "a", "a?.jsonl", "takes for a pattern of several files"),
        ("open-instruct", "a", "a.csv", r"reads .jsonl and .parquet files, not a.csv.*--materialise"),
        ("open-instruct", "a", "a\0b", "NUL"),
        ("megatron", "a", "a.jsonl", r"reads tokenised data, not a.jsonl.*preprocess_data.py --input a.jsonl.*--data a="),
        ("megatron", "a", "a b_document", "takes its list of paths apart at blanks"),
        ("nemo", "a", "a.parquet", "NeMo reads tokenised data"),
        ("olmo-core", "a", "a.txt", r"reads .npy files of token numbers, not a.txt.*--rows a=N --tokens a=L"),
    ],
)  # fmt: skip
def test_what_a_stack_would_misread_is_refused(name, task, path, said, tmp_path):
    tasks = (Task(task, path, 10, 5.0, 0.5), Task("other", "some/where", 10, 5.0, 0.5))
    with pytest.raises(InputError, match=f"task '{task}': (?s:.*){said}|{said}"):
        STACKS[name].export(Plan(tasks=tasks, draw=20), tmp_path)


def columns(stack, tmp_path, *kinds):
    weight = 1 / len(kinds)
    tasks = tuple(Task(f"t{i}", f"t{i}.jsonl", 10, 5.0, weight, kind) for i, kind in enumerate(kinds))
    return STACKS[stack].export(Plan(tasks=tasks, draw=20), tmp_path).files


@pytest.mark.parametrize("name", sorted(MIXED))
def test_mixed_data_has_one_layout(name, tmp_path):
    with pytest.raises(
        InputError, match=rf"task 't1' has rows with 'text', but 't0' with 'messages'. {name} reads"
    ):
        columns(name, tmp_path, ("messages",), ("text",))
    with pytest.raises(InputError, match=r"task 't0': .* Found image, label. Rename its columns"):
        columns(name, tmp_path, ("image", "label"))


def test_layouts_are_told_in_each_stacks_words(tmp_path):
    def of(name, kind):
        files = columns(name, tmp_path, kind)
        if name == "llama-factory":
            return json.loads(files["dataset_info.json"])["t0"]
        found = yaml.safe_load(files[f"{name}.yaml"])
        return found["datasets"][0] if name == "axolotl" else found["dataset"]

    assert of("axolotl", ("messages",))["type"] == "chat_template"
    assert of("axolotl", ("conversations",))["message_property_mappings"] == {
        "role": "from",
        "content": "value",
    }
    assert of("axolotl", ("text",)) | {"type": "completion", "field": "text"} == of("axolotl", ("text",))
    assert of("torchtune", ("messages",))["conversation_style"] == "openai"
    assert of("torchtune", ("conversations",))["conversation_style"] == "sharegpt"
    assert of("torchtune", ("text",))["_component_"] == "torchtune.datasets.text_completion_dataset"
    assert of("llama-factory", ("messages",))["tags"]["assistant_tag"] == "assistant"
    assert "tags" not in of("llama-factory", ("conversations",))
    assert of("llama-factory", ("text",))["columns"] == {"prompt": "text"}
    alpaca = of("llama-factory", ("instruction", "input", "output"))
    assert alpaca["columns"] == {"prompt": "instruction", "query": "input", "response": "output"}
    assert "columns" not in of("llama-factory", ("image", "label"))


@pytest.mark.parametrize("name", sorted(set(NAMES) - TOKENISED - MIXED))
def test_folders_are_named_whole(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpus").mkdir()
    task = Task("a", "corpus", 50, 9.0, 1.0)
    text = "".join(STACKS[name].export(Plan(tasks=(task,), draw=20), tmp_path / "out").files.values())
    assert str(tmp_path / "corpus") in text
    assert "hf_hub_url" not in text
