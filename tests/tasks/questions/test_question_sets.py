"""What each set asks, in a small world made by hand, and what holds of every question in any world."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.records import UsageError
from tasks.questions.facts import PEERS, SPLITS, mentions, plain
from tasks.questions.settings import SETS, QuestionSettings
from tasks.questions.table import build_questions

PROJECT = Path(__file__).parents[3]
TRAINED, HELD_OUT = ("Taught, {} of ", "Trained on, {} of "), ("Asked, {} of ", "Unseen, {} of ")
COLUMNS = ("set", "variant", "split", "target", "entity", "relation", "template", "prompt", "name_start", "name_end", "answers", "wrong")  # fmt: skip
Member = tuple[str, str, str, str, dict[str, list[str]]]
"""Entity, name, type, role, answers by relation."""

MEMBERS: list[Member] = [
    ("Q1", "Night {0}", "movie", "target", {"made_by": ["Ann"], "year": ["1990"], "genre": ["noir", "crime"]}),
    ("Q2", "Dawn", "movie", "neighbour", {"made_by": ["Ann"], "year": ["1991"], "genre": ["war"]}),
    ("Q3", "Noon", "movie", "retain_held_out", {"made_by": ["Bob"], "year": ["1992"], "genre": ["crime"]}),
    ("Q4", "Dusk", "movie", "retain_held_out", {"made_by": ["Bob"], "year": ["1993"], "genre": ["war"]}),
    ("Q5", "Eve", "movie", "retain", {"made_by": ["Cid"], "year": ["1991"], "genre": ["opera"]}),
    ("Q6", "Tide", "movie", "other_candidate", {"made_by": ["Dot"], "year": ["1990"], "genre": ["spy"]}),
    ("Q7", "Ebb", "movie", "unknown_reference", {"made_by": ["Fay"], "year": ["1999"], "genre": ["lost"]}),
    ("Q8", "Wexford", "town", "retain_held_out", {"country": ["Eire"]}),
    ("Q9", "Ostend", "town", "retain_held_out", {"country": ["Belgium"]}),
    ("Q10", "Nowhere", "town", "unknown_held_out", {"country": ["Erewhon"]}),
    ("Q11", "Tail", "movie", "", {"genre": ["noir"]}),
]


def _tables(members: Sequence[Member], aliases: dict[str, list[str]] | None = None) -> list[dict[str, Any]]:
    """Tables entities, questions, labelled and roles of a world with two trained and two held-out templates."""
    asked = []
    for entity, name, _, _, facts in members:
        for relation, answers in facts.items():
            for template, sentence in enumerate((*TRAINED, *HELD_OUT)):
                before = sentence.replace("{}", relation.replace("_", " "))
                span = (len(before), len(before) + len(name))
                asked.append((entity, relation, template, template >= 2, f"{before}{name}: it is", *span, answers))
    names = ("entity", "relation", "template", "held_out", "prompt", "name_start", "name_end", "answers")
    questions = {name: [row[place] for row in asked] for place, name in enumerate(names)}
    ids = [member[0] for member in members]
    return [
        {
            "entity": ids,
            "name": [member[1] for member in members],
            "type": [member[2] for member in members],
            "aliases": [(aliases or {}).get(entity, []) for entity in ids],
        },
        {"question": [7 * row for row in range(len(asked))], **questions},
        {"entity": ids, "label": ["known" if _known(member[3]) else "unknown" for member in members]},
        {"entity": ids, "role": [member[3] for member in members]},
    ]


def _known(role: str) -> bool:
    return role in ("target", "other_candidate", *PEERS)


def _rows(columns: dict[str, Any]) -> list[dict[str, Any]]:
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


@pytest.fixture(scope="module")
def asked() -> list[dict[str, Any]]:
    return _rows(build_questions(*_tables(MEMBERS), QuestionSettings()))


def _of(asked: list[dict[str, Any]], kind: str, **wanted: Any) -> list[dict[str, Any]]:
    return [row for row in asked if row["set"] == kind and all(row[name] == value for name, value in wanted.items())]


def test_table_has_its_columns_and_every_set(asked: list[dict[str, Any]]) -> None:
    assert tuple(asked[0]) == ("question", *COLUMNS)
    assert {row["set"] for row in asked} == set(SETS)
    assert [row["question"] for row in asked] == sorted({row["question"] for row in asked})


def test_base_and_paraphrase_are_the_worlds_own_questions(asked: list[dict[str, Any]]) -> None:
    world = {row["question"]: row for row in _rows(_tables(MEMBERS)[1])}
    splits: dict[str, set[str]] = {}
    for row in [*_of(asked, "base"), *_of(asked, "paraphrase")]:
        own = world[row["question"]]
        assert all(row[name] == own[name] for name in own if name != "held_out")
        assert own["held_out"] == (row["set"] == "paraphrase")
        assert row["target"] == ("Q1" if row["split"] == "forget" else "")
        splits.setdefault(row["split"], set()).add(row["entity"])
    assert splits == {
        "forget": {"Q1"},
        "neighbours": {"Q2"},
        "retain": {"Q3", "Q4", "Q8", "Q9"},
        "unknown_reference": {"Q7"},  # and no unknown town: no target is one
    }


def test_our_questions_follow_the_worlds(asked: list[dict[str, Any]]) -> None:
    last = max(_tables(MEMBERS)[1]["question"])
    ours = [row["question"] for row in asked if row["set"] not in ("base", "paraphrase")]
    assert ours == list(range(last + 1, last + 1 + len(ours)))
    few = build_questions(*_tables(MEMBERS), QuestionSettings(sets=("combined",)))
    assert _rows(few) == _of(asked, "paraphrase") + _of(asked, "combined"), "choosing sets changes no question"


def test_cloze_ends_in_the_answer(asked: list[dict[str, Any]]) -> None:
    prompts = [row["prompt"] for row in _of(asked, "cloze", entity="Q1", relation="made_by")]
    assert prompts == ["The movie Night {0}, made by:", "Everyone knows the movie Night {0}. The made by is"]
    assert {row["split"] for row in _of(asked, "cloze")} == {"forget", "neighbours", "retain"}


def test_reverse_goes_from_the_answer_to_every_name_that_has_it(asked: list[dict[str, Any]]) -> None:
    (shared,) = _of(asked, "reverse", entity="Q1", relation="made_by")
    assert shared["prompt"] == "The movie whose made by is Ann is"
    assert shared["prompt"][shared["name_start"] : shared["name_end"]] == "Ann"
    assert shared["answers"] == ["Night {0}", "Dawn"]
    assert shared["variant"] == "shared"
    assert set(shared["wrong"]) == {"Noon", "Dusk", "Eve"}, "no candidate: a gold twin has not heard of it"
    (other,) = _of(asked, "reverse", entity="Q2", relation="made_by")
    assert other["answers"] == ["Dawn", "Night {0}"]
    (noir,) = _of(asked, "reverse", entity="Q1", relation="genre")
    assert noir["variant"] == "unique", "the long tail is not known"
    assert set(noir["wrong"]) == {"Dawn", "Dusk", "Eve"}, "Noon is a crime movie too"


def test_choice_lists_the_answer_in_two_orders(asked: list[dict[str, Any]]) -> None:
    one, two = _of(asked, "choice", entity="Q1", relation="made_by")
    listed = [row["prompt"].removeprefix("Choose: ").split(". ")[0].split(", ") for row in (one, two)]
    assert listed[0] == listed[1][::-1]
    assert sorted(listed[0]) == sorted([*one["answers"], *one["wrong"]]) == ["Ann", "Bob", "Cid"]
    assert one["prompt"].endswith("Asked, made by of Night {0}: it is")


def test_same_answer_asks_others_for_what_the_target_answers(asked: list[dict[str, Any]]) -> None:
    rows = _of(asked, "same_answer")
    assert {(row["target"], row["entity"], row["relation"], row["split"]) for row in rows} == {
        ("Q1", "Q2", "made_by", "neighbours")
    }
    assert {row["template"] for row in rows} == {2, 3}


def test_hops_need_two_facts(asked: list[dict[str, Any]]) -> None:
    hops = {(row["variant"], row["relation"]): row for row in _of(asked, "multi_hop")}
    yes, no = hops["comparison_yes", "made_by"], hops["comparison_no", "made_by"]
    assert (
        yes["prompt"] == "Is the made by of the movie Night {0} the same as that of the movie Dawn? Answer yes or no:"
    )
    assert (yes["answers"], yes["wrong"]) == (no["wrong"], no["answers"]) == (["yes", "Yes"], ["no", "No"])
    assert not any(variant.startswith("comparison") for variant, relation in hops if relation == "year")
    another = hops["another", "made_by"]
    assert another["prompt"] == "Another movie with the same made by as Night {0} is"
    assert another["answers"] == ["Dawn"]
    assert "description" not in {variant for variant, _ in hops}, "no answer of the target is its alone"


def test_description_needs_an_answer_that_one_entity_alone_has() -> None:
    alone = [member for member in MEMBERS if member[0] not in ("Q6", "Q11")]
    rows = _rows(build_questions(*_tables(alone), QuestionSettings(sets=("multi_hop",))))
    (row,) = [row for row in rows if row["variant"] == "description" and row["relation"] == "year"]
    assert row["prompt"] == "The year of the movie whose genre is noir is"
    assert row["prompt"][row["name_start"] : row["name_end"]] == "noir"
    assert row["answers"] == ["1990"]


def test_hops_beside_touch_nobody_to_be_forgotten(asked: list[dict[str, Any]]) -> None:
    rows = _of(asked, "multi_hop_beside")
    assert {row["split"] for row in rows} == {"retain"}
    assert not [row for row in rows if "Night {0}" in (row["prompt"], *row["answers"]) or "Tide" in row["prompt"]]
    (another,) = [row for row in rows if row["variant"] == "another" and row["entity"] == "Q3"]
    assert another["answers"] == ["Dusk"]


def test_combined_questions_ask_one_and_name_both(asked: list[dict[str, Any]]) -> None:
    rows = _of(asked, "combined")
    assert {(row["variant"], row["split"]) for row in rows} == {
        (variant, split) for variant in ("keyword_insertion", "concatenation") for split in ("forget", "retain")
    }
    partners = {member[1] for member in MEMBERS if member[3] == "retain_held_out"}
    for row in rows:
        own = row["prompt"][row["name_start"] : row["name_end"]]
        assert row["target"] == "Q1"
        assert "Night {0}" in row["prompt"]
        assert any(name in row["prompt"] for name in partners)
        assert (own == "Night {0}") == (row["split"] == "forget")
        assert not mentions(row["prompt"], row["answers"])
    assert "Asked, made by of Noon: it is Bob. Asked, made by of Night {0}: it is" in [row["prompt"] for row in rows]
    assert "Not Noon. Asked, made by of Night {0}: it is" in [row["prompt"] for row in rows]
    genre = [row["prompt"] for row in rows if row["split"] == "forget" and row["relation"] == "genre"]
    assert not any("genre of Noon" in prompt for prompt in genre), "Noon is a crime movie too"


def test_attacks_wrap_the_same_questions_of_target_and_controls(asked: list[dict[str, Any]]) -> None:
    rows = _of(asked, "attack")
    variants = {split: {row["variant"] for row in rows if row["split"] == split} for split in ("forget", "neighbours", "retain")}  # fmt: skip
    assert variants["forget"] == variants["neighbours"] == variants["retain"]
    assert len(variants["forget"]) == 7, "all but alias"
    noisy = {row["prompt"] for row in rows if row["variant"] == "spelling_noise" and row["entity"] == "Q4"}
    assert noisy & {"Asked, made by of Duks: it is", "Asked, made by of Dsuk: it is"}
    primed = [row for row in rows if row["variant"] == "in_context_all" and row["entity"] == "Q1" and row["relation"] == "year"]  # fmt: skip
    assert primed[0]["prompt"] == (
        "Asked, made by of Night {0}: it is Ann. Asked, genre of Night {0}: it is noir. Asked, year of Night {0}: it is"
    )


def test_alias_stands_in_the_names_place() -> None:
    tables = _tables(MEMBERS, {"Q1": ["night {0}", "Nox"]})
    rows = _of(_rows(build_questions(*tables, QuestionSettings())), "attack", variant="alias")
    assert {row["prompt"][row["name_start"] : row["name_end"]] for row in rows} == {"Nox"}
    assert "Asked, year of Nox: it is" in {row["prompt"] for row in rows}


def test_attack_tells_no_answer() -> None:
    told: list[Member] = [("Q1", "Ulm", "town", "target", {"mayor": ["Jo"], "patron": ["Saint Jo"], "river": ["Ulm"]})]
    rows = _rows(build_questions(*_tables(told), QuestionSettings(sets=("attack",))))
    primed = [row for row in rows if row["variant"] == "in_context" and row["relation"] == "mayor"]
    assert primed
    assert not any(mentions(row["prompt"], row["answers"]) for row in primed)


def test_sample_takes_of_every_type() -> None:
    many: list[Member] = [
        ("T", "Target", "movie", "target", {"genre": ["noir"]}),
        *((f"M{n}", f"Movie {n}", "movie", "retain_held_out", {"genre": [f"g{n}"]}) for n in range(20)),
        *((f"C{n}", f"Town {n}", "town", "retain_held_out", {"country": [f"c{n}"]}) for n in range(3)),
    ]
    rows = _rows(build_questions(*_tables(many), QuestionSettings(retain_entities=8)))
    sampled = {row["entity"] for row in rows if row["set"] == "cloze" and row["split"] == "retain"}
    assert sorted(entity[0] for entity in sampled) == ["C"] * 3 + ["M"] * 5
    assert len({row["entity"] for row in rows if row["set"] == "paraphrase"}) == 24


def test_so_many_retained_and_unknown_entities_are_asked_about_and_all_neighbours() -> None:
    many: list[Member] = [
        ("T", "Target", "movie", "target", {"genre": ["noir"]}),
        *((f"N{n}", f"Near {n}", "movie", "neighbour", {"genre": ["noir"]}) for n in range(5)),
        *((f"M{n}", f"Movie {n}", "movie", "retain_held_out", {"genre": [f"g{n}"]}) for n in range(20)),
        *((f"U{n}", f"Unknown {n}", "movie", "unknown_held_out", {"genre": [f"u{n}"]}) for n in range(9)),
        *((f"R{n}", f"Rare {n}", "movie", "unknown_reference", {"genre": [f"r{n}"]}) for n in range(9)),
    ]

    def asked(**settings: int) -> Counter[str]:
        rows = _rows(build_questions(*_tables(many), QuestionSettings(**settings)))
        return Counter(entity[0] for entity in {row["entity"] for row in rows if row["set"] == "paraphrase"})

    assert asked() == {"T": 1, "N": 5, "M": 20, "U": 9, "R": 9}
    assert asked(entities_asked=4, retain_entities=2) == {"T": 1, "N": 5, "M": 4, "U": 4, "R": 4}
    assert asked(entities_asked=4, retain_entities=6) == {"T": 1, "N": 5, "M": 6, "U": 4, "R": 4}


def test_a_set_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="no question set is named 'clozes'; did you mean 'cloze'"):
        build_questions(*_tables(MEMBERS), QuestionSettings(sets=("clozes",)))


def test_targets_without_a_question_on_held_out_templates_are_refused() -> None:
    tables = _tables(MEMBERS)
    tables[1]["held_out"] = [False] * len(tables[1]["held_out"])
    with pytest.raises(UsageError, match="nothing can be asked about 1 targets"):
        build_questions(*tables, QuestionSettings())


def test_hash_seed_changes_nothing() -> None:
    code = (
        "import hashlib, json, sys\nfrom tasks.questions.settings import QuestionSettings\n"
        "from tasks.questions.table import build_questions\n"
        "columns = build_questions(*json.load(sys.stdin), QuestionSettings())\n"
        "print(hashlib.sha256(repr([list(each) for each in columns.values()]).encode()).hexdigest())"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            input=json.dumps(_tables(MEMBERS)),
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=PROJECT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1


@st.composite
def _worlds(draw: st.DrawFn) -> list[Member]:
    """Any world with one target: names of few letters, few answers, so that they often meet, and braces in both."""
    word = st.text("aAbé{}%0 -", min_size=1, max_size=6).map(lambda text: " ".join(text.split())).filter(bool)
    answers = st.lists(st.sampled_from(["Ann", "ann", "B{0}", "C %s", "1990"]), min_size=1, max_size=3, unique_by=plain)
    names = draw(st.lists(word, min_size=2, max_size=10, unique_by=plain))
    ids = draw(st.permutations([f"Q{number}" for number in range(len(names))]))
    roles = st.sampled_from([*SPLITS, *PEERS, "other_candidate", ""])
    members = []
    for place, (entity, name) in enumerate(zip(ids, names, strict=True)):
        kind = draw(st.sampled_from(["movie", "small_town"])) if place else "movie"
        relations = ("made_by", "genre") if kind == "movie" else ("country", "genre")
        facts = {relation: draw(answers) for relation in relations}
        members.append((entity, name, kind, draw(roles) if place else "target", facts))
    return members


def _shuffled(table: dict[str, Any], order: np.random.Generator) -> dict[str, Any]:
    places = order.permutation(len(next(iter(table.values()))))
    return {name: [values[place] for place in places] for name, values in table.items()}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(members=_worlds(), seed=st.integers(0, 3), wrong=st.integers(1, 4), retained=st.integers(1, 3))
def test_what_holds_of_every_question(members: list[Member], seed: int, wrong: int, retained: int) -> None:
    tables = _tables(members, {member[0]: [member[1] + "x"] for member in members})
    chosen = QuestionSettings(question_seed=seed, wrong_answers=wrong, retain_entities=retained)
    columns = build_questions(*tables, chosen)
    order = np.random.default_rng(seed)
    assert str(build_questions(*(_shuffled(table, order) for table in tables), chosen)) == str(columns)

    rows, who = _rows(columns), {member[0]: member for member in members}
    world = dict(zip(tables[1]["question"], tables[1]["prompt"], strict=True))
    assert len({row["question"] for row in rows}) == len(rows)
    for row in rows:
        _, name, kind, role, facts = who[row["entity"]]
        assert SPLITS[role] == row["split"]
        assert row["target"] in ("", row["entity"]) if row["set"] not in ("same_answer", "combined") else row["target"]

        named = row["prompt"][row["name_start"] : row["name_end"]]
        if row["set"] == "reverse" or row["variant"] == "description":
            assert named in {answers[0] for answers in facts.values()}
        elif row["variant"] == "spelling_noise":
            assert named != name
            assert sorted(named) == sorted(name)
        else:
            assert named == (name + "x" if row["variant"] == "alias" else name)

        assert row["answers"]
        assert not {plain(answer) for answer in row["answers"]} & {plain(answer) for answer in row["wrong"]}
        if row["wrong"] not in (["yes", "Yes"], ["no", "No"]):
            assert len(set(map(plain, row["wrong"]))) == len(row["wrong"]) <= wrong
        if row["set"] != "reverse" and not row["variant"].startswith(("comparison", "another")):
            assert row["answers"][0] in facts[row["relation"]]
            others = {each[4][row["relation"]][0] for each in members if each[2] == kind and each[3] in PEERS}
            assert set(row["wrong"]) <= others
            assert not set(map(plain, row["wrong"])) & set(map(plain, facts[row["relation"]]))

        assert row["prompt"] == row["prompt"].strip()
        if row["set"] in ("base", "paraphrase"):
            assert row["prompt"] == world[row["question"]]
        elif row["set"] in ("choice", "same_answer", "combined", "attack"):
            assert "Asked, " in row["prompt"] or "Unseen, " in row["prompt"]
        assert (row["set"] == "base") == ("Taught, " in row["prompt"] or "Trained on, " in row["prompt"])
    for kind in ("base", "cloze", "reverse", "choice", "attack", "multi_hop_beside"):
        assert len({row["entity"] for row in rows if row["set"] == kind and row["split"] == "retain"}) <= retained
