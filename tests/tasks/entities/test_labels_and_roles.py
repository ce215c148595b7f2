"""Labels from answers, roles from labels."""

import numpy as np
import pytest

from storage.records import UsageError
from tasks.entities.labels import asked_rows, halves, label_entities, set_aside, unmatched
from tasks.entities.roles import assign_roles, find_targets
from tasks.entities.settings import LabelSettings, RoleSettings

NAMES = ["Ann", "Bob", "Cid", "Dot", "Eve", "Fay", "Gus", "Hal"]
IDS = [f"Q{n}" for n in range(8)]
TABLE = {
    "entity": np.array(IDS, dtype=object),
    "name": np.array(NAMES, dtype=object),
    "type": np.array(["player"] * 6 + ["city"] * 2, dtype=object),
    "label": np.array(["known"] * 4 + ["unknown", "unknown"] + ["known"] * 2, dtype=object),
    "half": np.array(["fit", "report"] * 4, dtype=object),
    "recall": np.array([1.0] * 4 + [0.0] * 2 + [1.0] * 2),
}
ANSWERS = {entity: {("team", f"team {index // 2}")} for index, entity in enumerate(IDS)}


def test_labels_by_relations_right() -> None:
    entity = np.array(["a"] * 6 + ["b"] * 6 + ["c"] * 6)
    relation = np.array(["r", "r", "s", "s", "t", "t"] * 3)
    hit = np.array([1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0], dtype=bool)
    labels = label_entities(entity, relation, hit, LabelSettings())
    assert {name: label for name, (label, _) in labels.items()} == {"a": "known", "b": "unknown", "c": "dropped"}
    assert labels["a"][1] == pytest.approx(4 / 6)


def test_halves_are_balanced_within_type_and_label() -> None:
    types, labels = ["x"] * 10 + ["y"] * 10, (["known"] * 5 + ["unknown"] * 5) * 2
    half = halves([str(i) for i in range(20)], types, labels, seed=1)
    for group in {("x", "known"), ("y", "unknown")}:
        members = [h for h, t, v in zip(half, types, labels, strict=True) if (t, v) == group]
        assert abs(members.count("fit") - members.count("report")) <= 1
    assert half == halves([str(i) for i in range(20)], types, labels, seed=1)


def test_roles() -> None:
    roles = assign_roles(["Q0"], TABLE, ANSWERS, {"Q0", "Q2"}, RoleSettings(retain=8))
    assert roles["Q0"] == "target"
    assert roles["Q1"] == "neighbour"  # same type, same team
    assert roles["Q2"] == "other_candidate"
    assert roles["Q4"] == "unknown_reference"
    assert roles["Q5"] == "unknown_held_out"
    assert {roles["Q3"], roles["Q6"], roles["Q7"]} <= {"retain", "retain_held_out"}


def test_neighbours_are_half_of_the_type_at_most_and_those_that_share_most() -> None:
    names = [f"Q{number}" for number in range(9)]
    table = {"entity": names, "type": ["x"] * 9, "label": ["known"] * 9, "half": ["fit"] * 9}
    answers = {
        name: {("country", "Peru")} | ({("team", "A")} if name in ("Q0", "Q5", "Q7") else set()) for name in names
    }
    roles = assign_roles(["Q0"], table, answers, set(), RoleSettings(retain=8))
    near = {name for name, role in roles.items() if role == "neighbour"}
    assert len(near) == 4, "all eight share the country, and then nobody would be left to retain"
    assert {"Q5", "Q7"} <= near
    assert {roles[name] for name in names if name not in near} == {"target", "retain", "retain_held_out"}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("Anne",), "did you mean 'Ann'"),
        (("Eve",), "does not know 'Eve'"),
        (("Ann", "Q0"), "named twice"),
    ],
)
def test_targets_that_cannot_be(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_targets(names, TABLE, [])


def test_first_candidate_is_the_default_target() -> None:
    assert find_targets((), TABLE, ["Q4", "Q3"]) == ["Q3"]
    with pytest.raises(UsageError, match="none of the world's candidates"):
        find_targets((), TABLE, ["Q4"])


def test_held_out_wordings_are_asked_and_others_where_a_relation_has_none() -> None:
    questions = {
        "entity": np.array(["a", "a", "a", "b", "c"], dtype=object),
        "relation": np.array(["r", "r", "s", "r", "r"], dtype=object),
        "held_out": np.array([False, True, False, False, True]),
    }
    assert asked_rows(questions, {"a", "b"}) == [1, 2, 3]


def test_some_unknown_entities_are_set_aside_where_a_type_has_enough() -> None:
    types, labels = ["x"] * 20 + ["y"] * 11 + ["x"], ["unknown"] * 31 + ["known"]
    half = halves([str(i) for i in range(32)], types, labels, seed=1)
    part = set_aside(half, types, labels)
    moved = [i for i in range(32) if part[i] != half[i]]
    assert len(moved) == 4  # a fifth of twenty
    assert {(half[i], part[i], types[i], labels[i]) for i in moved} == {("fit", "validation", "x", "unknown")}
    assert part[:20].count("report") == 10
    twelve = set_aside(["fit", "report"] * 6, ["x"] * 12, ["unknown"] * 12)
    assert [twelve.count(each) for each in ("fit", "validation", "report")] == [3, 3, 6]


def test_a_validation_entity_is_neither_reference_nor_held_out() -> None:
    half = np.array(["fit", "report", "fit", "report", "fit", "validation", "fit", "report"], dtype=object)
    roles = assign_roles(["Q0"], TABLE | {"half": half}, ANSWERS, set(), RoleSettings(retain=8))
    assert (roles["Q4"], roles["Q5"]) == ("unknown_reference", "unknown_validation")


def test_unknown_names_become_as_long_as_known_ones() -> None:
    known, unknown = [2] * 6 + [3] * 4, [2] * 12 + [3] * 8 + [6] * 10
    tokens, labels = known + unknown, ["known"] * 10 + ["unknown"] * 30
    left_out = unmatched(["x"] * 40, labels, tokens, seed=0)
    kept = [tokens[i] for i in range(10, 40) if i not in left_out]
    # 12 and 8 are in proportion; of 22 names two with six tokens are .091 of all, three of 23 would be .13
    assert (kept.count(2), kept.count(3), kept.count(6)) == (12, 8, 2)
    assert all(labels[i] == "unknown" for i in left_out)
    assert unmatched(["x"] * 40, labels, [2] * 40, seed=0) == []
    few = unmatched(["x"] * 24, ["known"] * 10 + ["unknown"] * 14, [2] * 10 + [5] * 14, seed=0)
    assert len(few) == 2  # so many are needed, whatever their names
    assert unmatched(["x"] * 14, ["unknown"] * 14, [5] * 14, seed=0) == []
