"""The door: from artifacts to an artifact, once."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prefect import flow

from storage.artifacts import building, folder_of
from storage.records import Artifact, Asking, EntitySet, ForgetSet, QuestionSet, World
from storage.tables import read_table, write_table
from tasks.caching import journal
from tasks.entities.roles import assign_roles
from tasks.entities.settings import RoleSettings
from tasks.questions.settings import SETS, QuestionSettings
from tasks.questions.task import make_question_set
from tasks.testbed.task import FACTS
from tasks.testbed.world import build_world


def _kept(stage: str, tables: dict[str, dict[str, Any]]) -> Artifact:
    with building(stage, "made", {}) as build:
        for name, columns in tables.items():
            write_table(build.folder / f"{name}.parquet", columns)
    return build.artifact


@pytest.fixture
def asked_for(own_home: Path) -> tuple[World, EntitySet, ForgetSet]:
    """The tiny testbed's world, all its known entities labelled so, its first candidate to be forgotten."""
    entities, questions, _ = build_world(read_table(FACTS), "tiny", "mix", seed=0)
    rows = [row for row, exposure in enumerate(entities["exposure"]) if exposure != "long_tail"]
    table = {name: np.array([entities[name][row] for row in rows]) for name in ("entity", "name", "type", "exposure")}
    table["label"] = np.where(table.pop("exposure") == "known", "known", "unknown")
    table["half"] = np.array(["fit", "report"] * (len(rows) // 2))
    answers: dict[str, set[tuple[str, str]]] = {}
    for entity, relation, accepted in zip(
        *(questions[name] for name in ("entity", "relation", "answers")), strict=True
    ):
        answers.setdefault(entity, set()).add((relation, accepted[0]))
    candidates = {entity for entity, chosen in zip(entities["entity"], entities["candidate"], strict=True) if chosen}
    target = min(candidates)
    roles = assign_roles([target], table, answers, candidates, RoleSettings(retain=8))
    world = _kept("world", {"entities": entities, "questions": questions})
    labelled = _kept("entities", {"entities": table})
    parts = _kept("targets", {"roles": {"entity": sorted(roles), "role": [roles[entity] for entity in sorted(roles)]}})
    asking = Asking("said", 7)
    return World(world, "testbed", 0, 0), EntitySet(labelled, 0, 0, 0, asking), ForgetSet(parts, (target,), asking)


def test_question_set_is_made_once_and_counted(
    asked_for: tuple[World, EntitySet, ForgetSet], prefect_session: None, caplog: pytest.LogCaptureFixture
) -> None:
    run = flow(name="ask")(lambda: make_question_set(*asked_for, QuestionSettings()))
    with journal() as log, caplog.at_level(logging.INFO, logger="sae_unlearn"):
        first, second = run(), run()
    assert first == second
    assert [each.state for each in log.runs] == ["computed", "cached"]
    made = read_table(folder_of(first.artifact) / "questions.parquet")
    assert isinstance(first, QuestionSet)
    assert first.questions == len(made["question"])
    assert first.asking == Asking("said", 7)
    assert set(made["set"]) == set(SETS)
    assert made["question"].dtype == made["name_end"].dtype == np.int64
    assert all(answers and isinstance(answers, list) for answers in made["answers"])
    counted = {
        message.split()[0]: int(message.split()[1]) for message in caplog.messages if message.endswith("questions")
    }
    assert counted == {name: list(made["set"]).count(name) for name in SETS}
