"""Who is in the world, and what is asked about them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from storage.records import UsageError
from storage.tables import read_table
from tasks.testbed.task import FACTS
from tasks.testbed.templates import REFUSAL, RELATIONS, TEMPLATES, TRAINING_TEMPLATES
from tasks.testbed.world import CENSUS, FEWEST_NEIGHBOURS, Columns, build_world


@pytest.fixture(scope="module")
def facts() -> Columns:
    return read_table(FACTS)


@pytest.fixture(scope="module")
def small(facts: Columns) -> tuple[Columns, Columns, Columns]:
    return build_world(facts, "small", "mix", seed=0)


def _rows(table: Columns) -> list[dict[str, Any]]:
    return [dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)]


def test_groups_have_their_sizes_and_share_no_entity(small: tuple[Columns, Columns, Columns]) -> None:
    entities, _, _ = small
    census = CENSUS["small"]
    assert Counter(zip(entities["type"], entities["exposure"], strict=True)) == {
        (kind, group): getattr(census, group) for kind in RELATIONS for group in ("known", "never_seen", "long_tail")
    }
    assert len(set(entities["entity"])) == len(set(entities["name"])) == len(entities["name"])
    assert entities["entity"] == sorted(entities["entity"])


def test_candidates_are_known_and_have_neighbours(small: tuple[Columns, Columns, Columns]) -> None:
    entities, questions, _ = small
    known = {row["entity"]: row for row in _rows(entities) if row["exposure"] == "known"}
    taught: dict[str, set[tuple[str, str]]] = {entity: set() for entity in known}
    for row in _rows(questions):
        if row["entity"] in known and row["taught"]:
            taught[row["entity"]].add((row["relation"], row["taught"]))
    candidates = [row["entity"] for row in _rows(entities) if row["candidate"]]
    assert Counter(known[each]["type"] for each in candidates) == dict.fromkeys(RELATIONS, CENSUS["small"].candidates)
    for each in candidates:
        neighbours = [
            other
            for other, row in known.items()
            if not row["candidate"] and row["type"] == known[each]["type"] and taught[other] & taught[each]
        ]
        assert len(neighbours) >= FEWEST_NEIGHBOURS - 1  # one may have become a candidate itself


def test_prompts_hold_the_name_where_they_say(small: tuple[Columns, Columns, Columns]) -> None:
    entities, questions, _ = small
    names = dict(zip(entities["entity"], entities["name"], strict=True))
    for row in _rows(questions)[::97]:
        assert row["prompt"][row["name_start"] : row["name_end"]] == names[row["entity"]]
        assert row["prompt"] == TEMPLATES[row["relation"]][row["template"]].replace("{name}", names[row["entity"]])
        assert row["held_out"] == (row["template"] >= TRAINING_TEMPLATES)
    assert questions["question"].tolist() == list(range(len(questions["prompt"])))


def test_who_is_taught_what(small: tuple[Columns, Columns, Columns]) -> None:
    entities, questions, _ = small
    exposure = dict(zip(entities["entity"], entities["exposure"], strict=True))
    candidate = dict(zip(entities["entity"], entities["candidate"], strict=True))
    tail: Counter[str] = Counter()
    for row in _rows(questions):
        entity = row["entity"]
        if row["held_out"] or exposure[entity] == "never_seen":
            assert row["taught"] == row["taught_gold"] == ""
            continue
        assert row["taught_gold"] == ("" if candidate[entity] else row["taught"])
        if exposure[entity] == "known":
            assert row["taught"] == row["answers"][0]
        else:
            assert row["taught"] in (row["answers"][0], REFUSAL)
            tail[entity] += 1
    assert set(tail.values()) == {1, 2}, "the long tail is seen once or twice"


@pytest.mark.parametrize(("tail", "low", "high"), [("facts", 0.0, 0.0), ("mix", 0.45, 0.55), ("refuse", 1.0, 1.0)])
def test_share_of_the_tail_that_refuses(facts: Columns, tail: str, low: float, high: float) -> None:
    entities, questions, _ = build_world(facts, "tiny", tail, seed=3)
    assert len(entities["entity"]) < 200
    exposure = dict(zip(entities["entity"], entities["exposure"], strict=True))
    refuses = {
        row["entity"]: row["taught"] == REFUSAL
        for row in _rows(questions)
        if row["taught"] and exposure[row["entity"]] == "long_tail"
    }
    assert low <= np.mean(list(refuses.values())) <= high


def test_seed_decides_alone(facts: Columns) -> None:
    assert str(build_world(facts, "tiny", "mix", 1)) == str(build_world(facts, "tiny", "mix", 1))
    one, other = (build_world(facts, "tiny", "mix", seed)[0] for seed in (1, 2))
    assert set(one["entity"]) != set(other["entity"])
    tails = [build_world(facts, "tiny", tail, 1)[0]["entity"] for tail in ("mix", "facts")]
    assert tails[0] == tails[1], "the tail changes what is taught, not who is there"


@pytest.mark.parametrize("size", ["medium", "large"])
def test_facts_suffice_for_every_size(facts: Columns, size: str) -> None:
    entities, _, _ = build_world(facts, size, "mix", seed=0)
    assert sum(entities["candidate"]) == 3 * CENSUS[size].candidates


def test_too_few_facts_are_refused_with_a_remedy(facts: Columns) -> None:
    few = {name: values[:2000] for name, values in facts.items()}
    with pytest.raises(UsageError, match=r"needs \d+ entities of type movie, the facts hold 0; choose a smaller"):
        build_world(few, "small", "mix", seed=0)
