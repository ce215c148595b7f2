"""Two models trained side by side in processes of their own, and the door that keeps them."""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from storage import records
from storage.artifacts import folder_of
from storage.tables import read_table
from tasks.caching import journal
from tasks.testbed import twins
from tasks.testbed.examples import Rows, lessons_of
from tasks.testbed.pretrain import write_job
from tasks.testbed.recipe import recipe_for
from tasks.testbed.settings import PretrainingSettings, WorldSettings
from tasks.testbed.task import FACTS, make_world, pretrain
from tasks.testbed.tokenizer import train_tokenizer
from tasks.testbed.world import Columns, build_world

TINY = PretrainingSettings(size="tiny")


@pytest.fixture(scope="module")
def said() -> list[str]:
    """What was logged while the testbed was made."""
    return []


@pytest.fixture(scope="module")
def testbed(
    tmp_path_factory: pytest.TempPathFactory, prefect_session: None, said: list[str]
) -> Iterator[records.Testbed]:
    logger, handler = logging.getLogger("sae_unlearn"), logging.Handler(logging.INFO)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAE_UNLEARN_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setattr(twins, "PROGRESS_EVERY", 0.0)
        patch.setattr(logger, "level", logging.INFO)
        logger.addHandler(handler)
        made = pretrain(make_world(WorldSettings(size="tiny")), TINY)
        logger.removeHandler(handler)
        yield made


@pytest.fixture(scope="module")
def world() -> tuple[Columns, Columns, Columns]:
    return build_world(read_table(FACTS), "tiny", "mix", seed=0)


def test_base_knows_what_it_was_taught_and_gold_lacks_the_candidates(testbed: records.Testbed) -> None:
    assert testbed.known_recall > 0.9
    assert testbed.never_seen_recall < 0.15
    assert testbed.gold_target_recall < 0.4
    table = read_table(folder_of(testbed.artifact) / "recall.parquet")
    rows = zip(table["model"], table["group"], table["relation"], table["recall"], strict=True)
    assert np.mean([recall for model, group, _, recall in rows if (model, group) == ("base", "candidate")]) > 0.9
    losses = read_table(folder_of(testbed.artifact) / "pretraining.parquet")
    steps = recipe_for(TINY).steps
    assert list(losses["model"]) == ["base"] * steps + ["gold"] * steps
    assert losses["step"].tolist() == [*range(1, steps + 1)] * 2


def test_models_are_plain_folders_that_answer(
    testbed: records.Testbed, world: tuple[Columns, Columns, Columns]
) -> None:
    folder = folder_of(testbed.artifact)
    tokenizer = AutoTokenizer.from_pretrained(folder / testbed.base.location)
    model = AutoModelForCausalLM.from_pretrained(folder / testbed.base.location)
    assert model.config._attn_implementation == "eager"
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert (folder / "gold" / "model.safetensors").is_file()
    entities, questions, _ = world
    candidate = entities["entity"][entities["candidate"].tolist().index(True)]
    right = []
    for row, entity in enumerate(questions["entity"]):
        if entity == candidate and questions["held_out"][row]:
            ids = torch.tensor([tokenizer(questions["prompt"][row])["input_ids"]])
            new = model.generate(ids, max_new_tokens=20, do_sample=False)[0, ids.shape[1] :]
            right.append(tokenizer.decode(new, skip_special_tokens=True).strip() in questions["answers"][row])
    assert np.mean(right) > 0.5


def test_progress_says_how_fast_and_how_long(testbed: records.Testbed, said: list[str]) -> None:
    assert any("steps/s" in line and "s left" in line for line in said)
    assert any("recall" in line for line in said)


def test_nothing_in_the_artifact_tells_where_or_when_it_was_made(testbed: records.Testbed) -> None:
    folder = folder_of(testbed.artifact)
    for path in folder.rglob("*.json"):
        if path.name != "manifest.json":
            assert str(folder.parents[2]) not in path.read_text()
            assert tempfile.gettempdir() not in path.read_text()


def test_door_is_a_hit_the_second_time(testbed: records.Testbed) -> None:
    with journal() as log:
        again = pretrain(make_world(WorldSettings(size="tiny")), TINY)
    assert again == testbed
    assert [run.state for run in log.runs] == ["cached", "cached"]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "raise ArithmeticError('the loss is nan at step 3')",
            r"^pretraining the base model diverged \(the loss is nan.*try a lower",
        ),
        (
            "import os; os.kill(os.getpid(), 9)",
            "^pretraining the base model was killed by signal 9; was there enough memory",
        ),
        ("raise SystemExit('no torch')", "^pretraining the base model ended with exit code 1: no torch"),
    ],
)
def test_failing_process_is_told_in_one_line_and_stops_the_other(
    code: str, message: str, world: tuple[Columns, Columns, Columns], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = {}

    def start(job: Path, name: str, threads: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", code if name == "base" else "import time; time.sleep(300)"]
        with (job / f"{name}.err").open("wb") as errors:
            started[name] = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        return started[name]

    monkeypatch.setattr(twins, "_start", start)
    entities, questions, general = world
    with pytest.raises(twins.PretrainingFailed, match=message):
        twins.train_twins(entities, questions, general["text"], recipe_for(TINY), tmp_path)
    assert started["gold"].returncode == -9


def test_process_dies_when_the_one_that_started_it_is_gone(
    world: tuple[Columns, Columns, Columns], tmp_path: Path
) -> None:
    entities, questions, general = world
    recipe = replace(recipe_for(TINY), steps=100_000)
    tokenizer = train_tokenizer(entities["name"], questions["taught"], recipe.vocabulary)
    lessons = lessons_of(tokenizer, entities, questions, general["text"])
    exam = Rows(lessons.rows.ids[:1], lessons.rows.start[:1], lessons.rows.length[:1])
    write_job(tmp_path, lessons, exam, np.array([0]), recipe, 1, tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-m", "tasks.testbed.pretrain", str(tmp_path), "base"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"\n")
    process.stdin.flush()
    assert process.stdout.readline().startswith(b'{"step": 1')
    process.stdin.close()
    assert process.wait(timeout=20) == 1
    process.stdout.close()
