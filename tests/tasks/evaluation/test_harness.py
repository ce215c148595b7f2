"""Benchmark tasks: lm-evaluation-harness' results become columns and scores, and equal what is worked out by hand."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.config import load_experiment
from flows.unlearn import unlearn_chain
from storage.artifacts import folder_digest, folder_of
from storage.records import ModelRef, UsageError
from storage.tables import read_table, write_table
from tasks import catalogue
from tasks.caching import journal
from tasks.evaluation import harness
from tasks.evaluation.metric import Case
from tasks.evaluation.settings import UtilitySettings
from tasks.evaluation.task import measure_utility

needs_harness = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="lm-eval is not installed; it comes with the extra `utility`"
)
MODEL = ModelRef("folder", "somewhere", "0" * 32)

COLOURS = [
    ("the sky is", ["blue", "red", "green"], 0),
    ("grass is", ["blue", "green", "very very red"], 1),
    ("snow is", ["very white", "black", "red"], 0),
    ("coal is", ["white", "blue", "black"], 2),
    ("blood is", ["very green", "red", "white"], 1),
    ("milk is", ["black", "white", "blue"], 1),
]
TASK = """
task: colours
dataset_path: json
dataset_kwargs:
  data_files:
    test: rows.jsonl
    train: rows.jsonl
test_split: test
training_split: train
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: label
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
  - metric: acc_norm
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.5
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A task of one's own and its data."""
    made = tmp_path / "tasks"
    made.mkdir()
    (made / "colours.yaml").write_text(TASK)
    rows = [{"question": question, "choices": choices, "label": label} for question, choices, label in COLOURS]
    (made / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return made


def _pretend(monkeypatch: pytest.MonkeyPatch, *, installed: bool) -> None:
    real = importlib.util.find_spec
    there = SimpleNamespace() if installed else None
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: there if name == "lm_eval" else real(name, *rest)
    )


def test_missing_extra_is_said_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(monkeypatch, installed=False)
    settings = UtilitySettings(utility_tasks=("arc_easy",))
    for attempt in (
        lambda: harness.run_tasks(None, ["arc_easy"], None),  # type: ignore[arg-type]
        lambda: measure_utility.function(MODEL, settings, ""),
        lambda: load_experiment("quick", ["evaluation.utility_tasks=arc_easy"]),
    ):
        with pytest.raises(UsageError, match="not installed") as caught:
            attempt()
        assert "pip install --constraint deployments/constraints.txt 'sae-unlearn[utility]'" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert load_experiment("quick").utility.utility_tasks == ()


def test_folder_that_is_not_there_is_refused_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _pretend(monkeypatch, installed=True)
    tasks = "evaluation.utility_tasks=colours"
    with pytest.raises(UsageError, match=r"utility_folder: .*absent is no folder"):
        load_experiment("quick", [tasks, f"evaluation.utility_folder={tmp_path / 'absent'}"])
    assert load_experiment("quick", [tasks, f"evaluation.utility_folder={tmp_path}"]).utility.utility_tasks == (
        "colours",
    )


def test_stage_runs_for_three_models_and_only_when_tasks_are_named(
    monkeypatch: pytest.MonkeyPatch, own_home: Path
) -> None:
    _pretend(monkeypatch, installed=True)
    planned = []
    for overrides in ([], ["evaluation.utility_tasks=arc_easy"]):
        with journal(planning=True) as log:
            unlearn_chain(load_experiment("quick", overrides))
        planned.append([run.stage for run in log.runs].count("utility"))
    assert planned == [0, 3]


def test_key_is_of_what_the_folder_holds_and_not_where_it_lies(folder: Path, tmp_path: Path) -> None:
    def key(place: Path, **settings: Any) -> dict[str, Any]:
        chosen = UtilitySettings(("colours",), str(place), **settings)
        return measure_utility.explanation({"model": MODEL, "settings": chosen, "content": folder_digest(place)})

    before = key(folder)
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "made.pyc").write_text("compiled")
    moved = folder.rename(tmp_path / "moved")
    assert key(moved, utility_batch=1) == before
    assert key(moved, utility_limit=3) != before
    with (moved / "rows.jsonl").open("a") as file:
        file.write("\n")
    assert key(moved) != before


RESULTS: dict[str, Any] = {
    "results": {
        "whole": {"alias": "whole", "name": "whole", "sample_len": 50, "acc,none": 0.6, "acc_stderr,none": 0.05,
                  "sample_count": {"acc,none": 50}},
        "half_b": {"alias": "b", "sample_len": 30, "acc,none": 0.5, "acc_stderr,none": 0.1},
        "half_a": {"alias": "a", "sample_len": 20, "acc,none": 0.75, "acc_stderr,none": 0.1},
        "sums": {"alias": "sums", "name": "sums", "sample_len": 9, "perplexity,none": 8.0, "perplexity_stderr,none": 0.5,
                 "exact_match,strict": 1.0, "exact_match_stderr,strict": 0.0,
                 "exact_match,loose": 1.0, "exact_match_stderr,loose": "N/A"},
        "prose": {"alias": "prose", "sample_len": 4, "word_perplexity,none": 20.0, "word_perplexity_stderr,none": "N/A"},
        "loose": {"alias": "loose"},
        "part": {"alias": "part", "sample_len": 4, "f1,none": 0.25, "f1_stderr,none": 0.02, "odd,none": 3.0},
    },
    "group_subtasks": {"whole": ["half_a", "half_b"], "loose": ["part"]},
    "versions": {"whole": None, "half_a": 1, "half_b": 1, "sums": 3.0, "prose": 2, "part": "Yaml"},
    "n-shot": {"whole": 5, "half_a": 5, "half_b": 5, "sums": 0, "prose": 0, "part": 0},
    "higher_is_better": {"whole": {"acc": True}, "half_a": {"acc": True}, "half_b": {"acc": True},
                         "sums": {"perplexity": False, "exact_match": True}, "prose": {"word_perplexity": False},
                         "part": {"odd": None, "f1": True}},
    "n-samples": {name: {"original": 100, "effective": count}
                  for name, count in (("half_a", 20), ("half_b", 30), ("sums", 9), ("prose", 4), ("part", 4))},
}  # fmt: skip
"""As lm-eval returns them: a group that is aggregated, one that is not, several filters, losses only."""


@pytest.fixture
def table(tmp_path: Path) -> dict[str, Any]:
    """The columns of these results, kept and read again."""
    write_table(tmp_path / "utility.parquet", harness.columns_of(RESULTS))
    return read_table(tmp_path / "utility.parquet")


def test_results_become_columns(table: dict[str, Any]) -> None:
    assert tuple(table) == harness.COLUMNS
    rows = {(row[0], row[1]): row[2:] for row in zip(*table.values(), strict=True)}
    assert [task for task, _ in rows] == sorted(task for task, _ in rows)
    assert rows["whole", "acc"] == (0.6, 0.05, 50, "", 5, True, True)
    assert rows["half_a", "acc"] == (0.75, 0.1, 20, "1", 5, True, False), "a part does not stand beside its whole"
    assert rows["sums", "exact_match:strict"] == (1.0, 0.0, 9, "3.0", 0, True, True)
    assert math.isnan(rows["sums", "exact_match:loose"][1])
    assert rows["prose", "word_perplexity"][-2:] == (False, True)
    assert rows["part", "odd"][-2:] == (None, False)
    assert [task for task, row in rows.items() if row[-1]] == [
        ("part", "f1"), ("prose", "word_perplexity"), ("sums", "exact_match:strict"), ("whole", "acc")
    ]  # fmt: skip


def test_one_row_a_task_with_a_normal_interval(made: SimpleNamespace, table: dict[str, Any]) -> None:
    plain = made.case()
    where = dataclasses.replace(
        plain, models=plain.models | {"unlearned": dataclasses.replace(plain.models["unlearned"], utility=table)}
    )
    found = {each.site: each for each in catalogue.load("evaluation/metrics", "utility")().measure(where)}
    assert {each.model for each in found.values()} == {"unlearned"}, "a model that ran no task has no row"
    assert found.keys() == {"whole", "sums", "part"}
    whole = found["whole"]
    assert (whole.split, whole.value, whole.count, whole.state) == ("general", 0.6, 50, "ok")
    assert (whole.low, whole.high) == pytest.approx((0.6 - 1.959964 * 0.05, 0.6 + 1.959964 * 0.05))
    assert (found["sums"].low, found["sums"].high, found["sums"].state) == (1, 1, "saturated")
    losses = list(catalogue.load("evaluation/metrics", "utility_loss")().measure(where))
    assert [(each.site, each.value, math.isnan(each.low)) for each in losses] == [("prose", 20.0, True)]


def test_value_that_is_no_number_is_an_error(made: SimpleNamespace, table: dict[str, Any]) -> None:
    values = [math.nan if task == "whole" else value for task, value in zip(table["task"], table["value"], strict=True)]
    tables = dataclasses.replace(made.tables(forgotten=False), utility=table | {"value": values})
    broken = Case({"base": tables}, made.roles, {})
    with pytest.raises(ArithmeticError, match="whole"):
        list(catalogue.load("evaluation/metrics", "utility")().measure(broken))


@pytest.mark.parametrize("name", ["utility", "utility_loss"])
def test_where_no_task_was_run_there_is_no_row(made: SimpleNamespace, name: str) -> None:
    assert not list(catalogue.load("evaluation/metrics", name)().measure(made.case()))


def test_data_out_of_reach_is_said_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert harness._why_not(["mine"], KeyError("label\nmore")) == (
        "utility_tasks: mine cannot be loaded ('label\\nmore'); check the task's YAML and its data"
    )
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    message = harness._why_not(["arc_easy"], ConnectionError("Couldn't reach 'ai2_arc'\nof the hub"))
    assert message.startswith(
        "utility_tasks: arc_easy cannot be loaded (Couldn't reach 'ai2_arc'); HF_HUB_OFFLINE is set"
    )
    assert harness._why_not(["mine"], ImportError("import of evaluate halted")).endswith("are not supported")


@pytest.fixture(scope="module")
def loaded() -> Any:
    """A random model that knows a few words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from tasks.models.families import family_of
    from tasks.models.load import LoadedModel

    words = sorted({word for question, choices, _ in COLOURS for text in (question, *choices) for word in text.split()})
    vocabulary = {word: number for number, word in enumerate(("<pad>", "<bos>", "<eos>", "<unk>", *words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>"
    )
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.5,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    return LoadedModel(model, fast, family_of(model), torch.device("cpu"))


def _by_hand(loaded: Any, scale: Callable[[str], float] = lambda choice: 1.0) -> list[bool]:
    """Of every question, whether the right choice is the likeliest: one choice at a time, without any batch."""
    import torch

    right = []
    for question, choices, label in COLOURS:
        scores = []
        for choice in choices:
            ids = loaded.tokenizer(f"{question} {choice}", return_tensors="pt").input_ids
            start = len(loaded.tokenizer(question).input_ids)
            with torch.no_grad():
                predicted = loaded.model(ids).logits[0, start - 1 : -1].log_softmax(-1)
            scores.append(float(predicted.gather(1, ids[0, start:, None]).sum()) / scale(choice))
        right.append(max(range(len(choices)), key=scores.__getitem__) == label)
    return right


@pytest.fixture
def data_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `datasets` keeps goes where the test's files go."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets"))


@needs_harness
@pytest.mark.usefixtures("data_cache")
@pytest.mark.parametrize("batch", [1, 4])
def test_accuracy_is_the_one_worked_out_by_hand(loaded: Any, folder: Path, batch: int) -> None:
    right, by_length = _by_hand(loaded), _by_hand(loaded, len)
    assert 0 < sum(right) < len(right), "a test that tells right from wrong needs both"
    assert right != by_length
    columns = harness.run_tasks(loaded, ["colours"], folder, batch=batch)
    rows = {metric: place for place, metric in enumerate(columns["metric"])}
    share = sum(right) / len(right)
    at = rows["acc"]
    assert columns["value"][at] == pytest.approx(share, abs=1e-12)
    assert columns["stderr"][at] == pytest.approx(math.sqrt(share * (1 - share) / (len(right) - 1)))
    assert columns["value"][rows["acc_norm"]] == pytest.approx(sum(by_length) / len(by_length), abs=1e-12)
    assert {name: columns[name][at] for name in ("task", "examples", "version", "shots", "higher_is_better", "leading")} == {
        "task": "colours", "examples": 6, "version": "1.5", "shots": 0, "higher_is_better": True, "leading": True,
    }  # fmt: skip


@needs_harness
@pytest.mark.usefixtures("data_cache")
def test_limit_takes_the_first_and_shots_are_kept(
    loaded: Any, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    torch.manual_seed(7)
    before = torch.get_rng_state()
    right = _by_hand(loaded)[:4]
    first = harness.run_tasks(loaded, ["colours"], folder, limit=4)
    assert (first["examples"][0], first["value"][0]) == (4, pytest.approx(sum(right) / 4))
    shown = harness.run_tasks(loaded, ["colours"], folder, limit=1, shots=2)
    assert shown["shots"][0] == 2
    assert torch.equal(torch.get_rng_state(), before)
    assert capsys.readouterr().out == ""


@needs_harness
@pytest.mark.usefixtures("data_cache")
def test_task_that_cannot_be_run_is_one_line(loaded: Any, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text((folder / "rows.jsonl").read_text())
    variants = {
        "colours": ("task: colours", "task: colours", ""),
        "outside": ("test: rows.jsonl", "test: ../rows.jsonl", "lies outside tasks"),
        "absent": ("test: rows.jsonl", "test: absent.jsonl", "cannot be loaded"),
        "fetched": ("metric: acc_norm", "metric: seqeval\n    hf_evaluate: true", "would have to be fetched"),
        "unsafe": ("test_split", "unsafe_code: true\ntest_split", "runs code that the model writes"),
    }
    for name, (old, new, says) in variants.items():
        one = tmp_path / name / "tasks"
        one.mkdir(parents=True)
        (one / "rows.jsonl").write_text((folder / "rows.jsonl").read_text())
        (one / "task.yaml").write_text(TASK.replace(old, new).replace("task: colours", f"task: {name}"))
        if says:
            with pytest.raises(UsageError, match=says) as caught:
                harness.run_tasks(loaded, [name], one)
            assert "\n" not in str(caught.value)
        else:
            assert harness.run_tasks(loaded, [name], one)["task"] == ["colours", "colours"]


@needs_harness
@pytest.mark.usefixtures("data_cache")
def test_unknown_task_is_said_with_the_nearest(loaded: Any, folder: Path) -> None:
    with pytest.raises(UsageError, match="no task is named 'colurs' in lm-eval nor in tasks; did you mean 'colours'"):
        harness.run_tasks(loaded, ["colurs"], folder)


@needs_harness
@pytest.mark.usefixtures("data_cache", "prefect_session")
def test_door_keeps_the_table(loaded: Any, folder: Path, tmp_path: Path, own_home: Path) -> None:
    loaded.model.save_pretrained(tmp_path / "model")
    loaded.tokenizer.save_pretrained(tmp_path / "model")
    model = ModelRef("folder", str(tmp_path / "model"), folder_digest(tmp_path / "model"))
    with journal() as log:
        record = measure_utility(model, UtilitySettings(("colours",), str(folder)), folder_digest(folder))
        moved = folder.rename(tmp_path / "moved")
        again = measure_utility(model, UtilitySettings(("colours",), str(moved)), folder_digest(moved))
    assert [run.state for run in log.runs] == ["computed", "cached"]
    assert again == record
    kept = read_table(folder_of(record.artifact) / "utility.parquet")
    assert kept["value"][0] == pytest.approx(sum(_by_hand(loaded)) / 6)
    assert list(kept["leading"]) == [True, False]
