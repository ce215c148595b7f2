"""The same sentence about somebody else: the world's own where it has one, else the target's with the name exchanged."""

from __future__ import annotations

from typing import Any

from tasks.alignment.sentences import in_other_names
from tasks.models.worlds import encode_world


def test_a_sentence_of_the_world_is_taken_and_a_missing_one_is_made(small: Any) -> None:
    questions, loaded = small.facts.questions, small.model()
    rows = range(len(questions["question"]))
    encoded = dict(zip(rows, encode_world(loaded, questions, rows), strict=True))
    (asked,) = [row for row in rows if questions["prompt"][row] == "Lund has the river"]
    others = [row for row in rows if questions["entity"][row] in ("Zol", "Qua Bin")]
    found = in_other_names(loaded, questions, encoded, others, [(asked, "Zol"), (asked, "Qua Bin")])
    (own,) = [row for row in others if questions["prompt"][row] == "Zol has the river"]
    assert found[asked, "Zol"] is encoded[own]
    fewer = [row for row in others if row != own]
    made = in_other_names(loaded, questions, encoded, fewer, [(asked, "Zol"), (asked, "Qua Bin")])
    assert made[asked, "Zol"].prompt == encoded[own].prompt
    assert (made[asked, "Zol"].name_first, made[asked, "Zol"].name_last) == (
        encoded[own].name_first, encoded[own].name_last,
    )  # fmt: skip
    assert made[asked, "Zol"].answers == encoded[asked].answers, "the target's answers stand in"
    assert made[asked, "Qua Bin"] == found[asked, "Qua Bin"]
