"""The door: what a file or a data set becomes, when it is made anew, and that the stages behind can use it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prefect import flow

from storage.artifacts import building, folder_of
from storage.records import Asking, EntitySet, UsageError, World
from storage.tables import read_table, write_table
from tasks.caching import Pending, journal
from tasks.entities.settings import RoleSettings
from tasks.entities.task import choose_roles
from tasks.questions.settings import SETS, QuestionSettings
from tasks.questions.table import build_questions
from tasks.sources.kinds.popqa import PopQA
from tasks.sources.settings import SourceSettings
from tasks.sources.task import gather_world, pinned

Rows = list[dict[str, Any]]


def gather(settings: SourceSettings) -> World:
    made: World = flow(name="gather")(lambda: gather_world(*pinned(settings)))()
    return made


def refused(settings: SourceSettings) -> str:
    with pytest.raises(UsageError) as caught:
        pinned(settings)
    return str(caught.value)


def test_a_file_becomes_a_world_once_wherever_it_lies(
    people: Rows, write: Callable[..., Path], own_home: Path, prefect_session: None, tmp_path: Path
) -> None:
    people[0]["passages"] = ["Ann Bellwood throws pots.", "She keeps a dog."]
    path = write(people)
    with journal() as log:
        world = gather(SourceSettings(source="facts_file", path=str(path)))
        moved = path.rename(tmp_path / "moved.jsonl")
        assert gather(SourceSettings(source="facts_file", path=str(moved))) == world
        write([*people[:-1], people[-1] | {"answers": "hen"}], "moved.jsonl")
        assert gather(SourceSettings(source="facts_file", path=str(moved))) != world
    assert [run.state for run in log.runs] == ["computed", "cached", "computed"]
    assert {run.stage for run in log.runs} == {"world"}
    folder = folder_of(world.artifact)
    assert (world.entities, world.questions) == (40, 200)
    assert sorted(each.name for each in folder.glob("*.parquet")) == [
        "entities.parquet", "general.parquet", "general_held_out.parquet", "passages.parquet", "questions.parquet",
    ]  # fmt: skip
    passages = read_table(folder / "passages.parquet")
    assert list(passages["entity"]) == ["Ann Bellwood"] * 2
    assert list(passages["text"]) == ["Ann Bellwood throws pots.", "She keeps a dog."]
    seen, measured = (set(read_table(folder / f"{name}.parquet")["text"]) for name in ("general", "general_held_out"))
    assert min(len(seen), len(measured)) > 45
    assert not seen & measured, "what a loss has seen says nothing about what was kept"
    origin = json.loads((folder / "source.json").read_text())
    assert (origin["source"], origin["licence"], origin["left_out"]) == ("facts_file", "the user's own", {})
    assert world.source == f"facts_file {origin['content'][:12]}"
    assert str(tmp_path) not in (folder / "source.json").read_text()


def test_own_neutral_sentences_are_in_the_key(
    people: Rows, write: Callable[..., Path], own_home: Path, prefect_session: None, tmp_path: Path
) -> None:
    general = tmp_path / "general.txt"
    settings = SourceSettings(source="facts_file", path=str(write(people)), general=str(general))
    assert 'general.txt" is no file' in refused(settings)
    general.write_bytes(b"Water is wet.\n\xff")
    assert "general.txt is no UTF-8 at byte 15" in refused(settings)
    general.write_text("".join(f"This is line {number}.\n" for number in range(9)))
    world = gather(settings)
    assert len(read_table(folder_of(world.artifact) / "general.parquet")["text"]) == 5
    assert len(read_table(folder_of(world.artifact) / "general_held_out.parquet")["text"]) == 4
    before = pinned(settings)[1]
    general.write_text(general.read_text() + "One more.\n")
    assert pinned(settings)[1] != before


def test_what_cannot_be_pinned(tmp_path: Path, people: Rows, write: Callable[..., Path]) -> None:
    assert refused(SourceSettings(source="tofuu")) == "no kind is named 'tofuu'; did you mean 'tofu'?"
    assert "facts_file reads a file; give one" in refused(SourceSettings(source="facts_file"))
    assert 'path: "missing.jsonl" is not there' in refused(SourceSettings(source="facts_file", path="missing.jsonl"))
    assert "facts_file wants a file" in refused(SourceSettings(source="facts_file", path=str(tmp_path)))
    path = str(write(people))
    assert "tofu wants a folder with the data set's files" in refused(SourceSettings(source="tofu", path=path))
    assert 'revision: "v1" is a data set\'s on the hub' in refused(
        SourceSettings(source="facts_file", path=path, revision="v1")
    )


def test_a_file_that_changes_after_it_was_pinned_is_refused(
    people: Rows, write: Callable[..., Path], own_home: Path, prefect_session: None
) -> None:
    settings, content = pinned(SourceSettings(source="facts_file", path=str(write(people))))
    write(people[:90])
    with pytest.raises(UsageError, match="changed while the run was starting; run again"):
        flow(name="gather")(lambda: gather_world(settings, content))()


def test_a_data_set_of_the_hub_is_pinned_to_its_commit_and_gathered_once(
    hub: Any, tmp_path: Path, own_home: Path, prefect_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets.config
    from huggingface_hub import constants

    folder = tmp_path / "popqa"
    (folder / "data").mkdir(parents=True)

    def publish(town: str) -> str:
        names = [f"{first} {last}" for first in ("Ann", "Carl", "Dora") for last in ("Bellwood", "Mossman", "Fincham")]
        rows = [
            (name, prop, answer, f"http://w/Q{number}", "[]", 100 - number, question.format(name), json.dumps([answer]))
            for number, name in enumerate(names)
            for prop, answer, question in (
                ("occupation", ("poet", "baker")[number % 2], "What is {}'s occupation?"),
                ("place of birth", town if number % 2 else "Bath", "In what city was {} born?"),
            )
        ]
        columns = ("subj", "prop", "obj", "s_uri", "s_aliases", "s_pop", "question", "possible_answers")
        write_table(
            folder / "data" / "test.parquet", dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True))
        )
        return str(hub.publish(PopQA.repository, folder, "dataset"))

    commit = publish("Leeds")
    settings = SourceSettings(source="popqa", revision="main")
    assert pinned(settings)[0].revision == commit
    with journal() as log:
        world = gather(settings)
        assert gather(SourceSettings(source="popqa", revision=commit)) == world
        assert world.source == f"popqa {commit[:12]}"
        assert pinned(settings)[0].revision != publish("Turin") != commit
        assert gather(settings) != world
        hub.stop()
        for module in (constants, datasets.config):
            monkeypatch.setattr(module, "HF_HUB_OFFLINE", True)
        again = gather(SourceSettings(source="popqa", revision=commit))
        with journal(planning=True):
            assert not isinstance(gather_world(*pinned(settings)), Pending), "the branch as was last heard, and kept"
    assert again == world
    assert [run.state for run in log.runs] == ["computed", "cached", "computed", "cached"]
    entities = read_table(folder_of(world.artifact) / "entities.parquet")
    assert set(entities["entity"][entities["exposure"] == "given"]) == {f"Q{number}" for number in range(9)}


def test_roles_and_questions_can_be_made_of_it(
    people: Rows, write: Callable[..., Path], own_home: Path, prefect_session: None
) -> None:
    world = gather(SourceSettings(source="facts_file", path=str(write(people))))
    source = folder_of(world.artifact)
    entities, questions = (read_table(source / f"{name}.parquet") for name in ("entities", "questions"))
    known = entities["exposure"] == "given"
    columns = {name: entities[name] for name in ("entity", "name", "type", "exposure", "candidate")}
    columns["label"] = np.where(known, "known", "unknown").astype(object)
    columns["half"] = np.array(["fit", "report"] * (len(known) // 2), dtype=object)
    columns["recall"] = np.where(known, 1.0, 0.0)
    with building("entities", "made", {}) as build:
        write_table(build.folder / "entities.parquet", columns)
    labelled = EntitySet(build.artifact, 20, 20, 0, Asking("exact"))
    settings = RoleSettings(targets=("Clara Dunmore",), retain=8)
    chosen = flow(name="choose")(lambda: choose_roles(world, labelled, settings))()
    assert chosen.asking == labelled.asking
    roles = read_table(folder_of(chosen.artifact) / "roles.parquet")
    counts = {role: list(roles["role"]).count(role) for role in set(roles["role"])}
    assert counts["target"] == 1
    assert "other_candidate" not in counts, "there is no gold twin that went without the others"
    assert counts["retain"] > 0
    assert counts["retain_held_out"] > 0
    assert counts["unknown_reference"] == counts["unknown_held_out"] == 10
    made = build_questions(entities, questions, columns, roles, QuestionSettings())
    assert set(made["set"]) == set(SETS)
    assert "description" in {row for row, kind in zip(made["variant"], made["set"], strict=True) if kind == "multi_hop"}
