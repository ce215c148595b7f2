"""Labels from answers, roles from labels."""

import numpy as np
import pytest

from storage.records import UsageError
from tasks.entities.labels import halves, label_entities
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
