"""Free text about an entity becomes rows: sentences with its name, from the name on; what cannot be used is said."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from storage.artifacts import building
from storage.records import Asking, ForgetSet, UsageError, World
from storage.tables import write_table
from tasks.alignment.material import gather_material
from tasks.alignment.methods.latent.sae_guided import SaeGuided
from tasks.alignment.methods.likelihood.grad_diff import GradDiff
from tasks.alignment.passages import LONGEST, PASSAGE, sentence_rows, with_passages
from tasks.alignment.settings import AlignmentSettings
from tasks.alignment.task import _facts
from tasks.alignment.training import align_model

TEXT = "Ada Berg has the cup . It is red . Of Ada Berg the table is at the end .\nThe man is Ada Berg .\nBerg's end is at the table"


def named(small: Any) -> dict[str, list[str]]:
    return {name: [name] for name in small.facts.roles}


def test_a_sentence_is_cut_after_the_word_that_holds_the_name() -> None:
    rows = sentence_rows("Q1", ["Ada Berg", "Berg"], [TEXT])
    assert [(row["prompt"], row["answers"]) for row in rows] == [
        ("Ada Berg", ["has the cup ."]),
        ("Of Ada Berg", ["the table is at the end ."]),
        ("The man is Ada Berg", ["."]),
        ("Berg's", ["end is at the table"]),
    ]
    assert [row["prompt"][row["name_start"] : row["name_end"]] for row in rows] == ["Ada Berg"] * 3 + ["Berg"]
    assert [row["template"] for row in rows] == [0, 1, 2, 3]


def test_what_ends_with_the_name_or_says_it_twice_gives_no_row_more() -> None:
    assert sentence_rows("Q1", ["Bo"], ["Here is Bo", "Bo sat.", "Bo sat.", "Bob sat."]) == [
        {
            "entity": "Q1", "relation": PASSAGE, "template": 0, "held_out": False, "prompt": "Bo",
            "name_start": 0, "name_end": 2, "answers": ["sat."],
        }
    ]  # fmt: skip
    (long,) = sentence_rows("Q1", ["Bo"], ["Bo " + "on " * 200])
    assert long["answers"][0].split() == ["on"] * LONGEST


@pytest.mark.parametrize("by", ["passages", "both"])
def test_targets_have_their_sentences_and_others_keep_their_questions(small: Any, by: str) -> None:
    passages = {
        "Ada Berg": [TEXT],
        "Lund": ["Lund has a cup ."],
        "Rome": ["Of Rome it is the end ."],
        "Oslo": ["Oslo has it ."],
    }
    table = with_passages(small.facts.questions, passages, named(small), small.facts.roles, by)
    assert set(map(len, table.values())) == {len(table["question"])}
    facts = dataclasses.replace(small.facts, questions=table)
    before = gather_material(small.model(), small.facts, SaeGuided(), small.settings())
    made = gather_material(small.model(), facts, SaeGuided(), small.settings())
    questions = len(before.groups["forget"]) if by == "both" else 0
    assert len(made.groups["forget"]) == 3 + 1 + questions
    assert len(made.groups["retain"]) == len(before.groups["retain"]) + 1, "neighbours are no entities to retain"
    assert len(made.unknown) == len(made.groups["forget"])
    said = [[small.tokenizer.decode(each.prompt, skip_special_tokens=True) for each in row] for row in made.unknown]
    (beginning_with_of,) = [
        row for row in said if all(prompt.split()[0] == "Of" and len(prompt.split()) < 4 for prompt in row)
    ]
    assert {prompt.removeprefix("Of ") for prompt in beginning_with_of} <= {"Zol", "Qua Bin", "Vex", "Yrr"}


def test_the_stop_rule_asks_questions_and_no_sentences(small: Any) -> None:
    passages = {"Ada Berg": [TEXT], "Lund": ["Lund has a cup ."]}
    table = with_passages(small.facts.questions, passages, named(small), small.facts.roles, "both")
    settings = small.settings(stop="recall")
    plain = gather_material(small.model(), small.facts, GradDiff(), settings).validation
    made = gather_material(
        small.model(), dataclasses.replace(small.facts, questions=table), GradDiff(), settings
    ).validation
    assert [each.target for each in made] == [each.target for each in plain]


def test_what_a_passage_says_is_forgotten(small: Any) -> None:
    passages = {"Ada Berg": [TEXT], "Lund": ["Lund has a cup ."]}
    table = with_passages(small.facts.questions, passages, named(small), small.facts.roles, "passages")
    facts, student = dataclasses.replace(small.facts, questions=table), small.model()
    settings = small.settings(steps=6, learning_rate=3e-3)
    material = gather_material(student, facts, GradDiff(), settings)
    history = align_model(student, GradDiff(), material, small.autoencoders, small.latents, settings).history
    assert history[-1]["forget"] < history[0]["forget"]


def test_a_target_without_a_sentence_is_refused(small: Any) -> None:
    with pytest.raises(UsageError, match=r"forget_by = \"both\" needs text about every target.*'Lund'.*\"questions\"$"):
        with_passages(
            small.facts.questions, {"Ada Berg": [TEXT], "Lund": ["Lund"]}, named(small), small.facts.roles, "both"
        )


def test_the_door_reads_the_passages_of_the_world(small: Any, own_home: Path) -> None:
    names = list(small.facts.roles)
    with building("world", "made", {}) as world:
        write_table(world.folder / "questions.parquet", small.facts.questions)
        kinds = {"entity": names, "name": names, "type": [small.facts.types[name] for name in names]}
        write_table(
            world.folder / "entities.parquet",
            kinds | {"aliases": [["Berg"] if name == "Ada Berg" else [] for name in names]},
        )
        write_table(world.folder / "general.parquet", {"text": list(small.facts.general)})
        texts = {"entity": ["Ada Berg", "Lund"], "text": ["So Berg has it .", "Lund has a cup ."]}
        write_table(world.folder / "passages.parquet", texts)
    with building("targets", "made", {}) as build:
        write_table(build.folder / "roles.parquet", {"entity": names, "role": list(small.facts.roles.values())})
    forget_set = ForgetSet(build.artifact, ("Ada Berg", "Lund"), Asking("exact"))
    record = World(world.artifact, "test", len(names), 1)
    facts = _facts(record, forget_set, AlignmentSettings(forget_by="both"))
    prompts = [
        p
        for p, relation in zip(facts.questions["prompt"], facts.questions["relation"], strict=True)
        if relation == PASSAGE
    ]
    assert prompts == ["So Berg", "Lund"]
    assert PASSAGE not in _facts(record, forget_set, AlignmentSettings()).questions["relation"]
