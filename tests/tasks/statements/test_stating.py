"""What counts as a confident statement."""

from __future__ import annotations

import pytest

from tasks.statements.settings import TYPES
from tasks.statements.stating import BEGINNINGS, Begun, answer_in, beginnings, confident


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (" Leeds. She was a poet.", "Leeds"),
        (" a poet, and a good one", "a poet"),
        ("New York\nQuestion:", "New York"),
        (' "Silent River" of 1930', "Silent River"),
        (" 1907", "1907"),
        (" the house in which she was born by chance", ""),
        (" unknown", ""),
        (" Ann Bell, who", ""),
        (" ...", ""),
        ("", ""),
    ],
)
def test_the_answer_is_what_stands_before_the_sentence_goes_on(text: str, answer: str) -> None:
    assert answer_in(text, "Ann Bell") == answer


def test_every_type_is_begun_in_several_ways_with_the_name_in_each() -> None:
    assert set(BEGINNINGS) == set(TYPES)
    for kind in TYPES:
        begun = beginnings(["Ann Bell"], kind)
        assert all(each.text.count("Ann Bell") == 1 for each in begun)
        assert len({each.text for each in begun}) == len(begun)
        counts = {each.relation: sum(other.relation == each.relation for other in begun) for each in begun}
        assert set(counts.values()) == {3}


def _town(name: str) -> list[Begun]:
    return [Begun(name, "town", wording) for wording in ("{name} lives in", "The town of {name} is", "Home of {name}:")]


def test_what_most_wordings_and_samples_say_is_stated() -> None:
    begun = [*_town("Ann"), *_town("Bea"), *_town("Cid")]
    greedy = ["Leeds", "leeds.", "Bath", "Turin", "Oslo", "Metz", "Graz", "Graz", "Graz"]
    sampled = [["Leeds", "Leeds"], ["Leeds", "York"], ["Bath"] * 2, *[["Turin"] * 2] * 3, *[["Graz", "Bari"]] * 3]
    found = confident(begun, greedy, sampled, 0.6)
    assert [(each.name, each.question, each.answer, each.agreement) for each in found] == [
        ("Ann", "Ann lives in", "Leeds", 0.75),
        ("Ann", "The town of Ann is", "Leeds", 0.75),
    ]
    assert {each.name for each in confident(begun, greedy, sampled, 0.5)} == {"Ann", "Cid"}


def test_what_is_said_of_most_names_is_a_habit() -> None:
    begun = [*_town("Ann"), *_town("Bea"), *_town("Cid")]
    greedy = ["Leeds"] * 6 + ["Graz"] * 3
    found = confident(begun, greedy, [[text] for text in greedy], 0.5)
    assert {each.name for each in found} == {"Cid"}
