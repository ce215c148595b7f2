"""What a question wants to hear, and whether what a model says gives it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from storage.records import Asking
from tasks.answers import judging
from tasks.answers.judging import OwnWords, Wanted, own_words, right, wanted

ENTITIES = {"entity": ["Q1", "Q2"], "name": ["Leeds United", "Ann Bell"], "aliases": [["The Peacocks"], []]}
NAMES = {"Q1": ["Leeds United", "The Peacocks"], "Q2": ["Ann Bell"]}
QUESTIONS = {
    "entity": ["Q1", "Q2", "Q2"],
    "relation": ["city", "place of birth", "place of birth"],
    "prompt": ["Where does Leeds United play?", "Where was ann bell born?", "The poet whose place of birth is Bath is"],
    "answers": [["Leeds"], ["Bath"], ["Ann Bell"]],
}


def test_own_words_only_where_the_model_was_asked_so() -> None:
    assert own_words(Asking("exact"), ENTITIES) is None
    found = own_words(Asking("said", 5), ENTITIES)
    assert found is not None
    assert (found.names, found.tokens) == (NAMES, 5)


@pytest.mark.parametrize(
    ("row", "said", "expected"),
    [
        (0, "Leeds United play in Leeds, in the north", True),
        (0, "Leeds United play in York", False),
        (1, "Ann Bell was born in Bath. She", True),
        (1, "Ann Bell was born", False),
        (2, "Ann Bell, who lived there", True),
        (2, "Bath", False),
    ],
)
def test_an_echo_is_no_answer_but_a_name_that_was_asked_for_is(row: int, said: str, expected: bool) -> None:
    asked = wanted(QUESTIONS, row, NAMES)
    assert asked.names == (() if row == 2 else NAMES[QUESTIONS["entity"][row]])
    assert right(said, asked) is expected


def test_what_is_decoded_is_judged_whether_it_ended_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {(1,): ["in", "Bath", "by", "the"], (2,): ["in", "York"]}

    def greedy(_: Any, prompts: Any, max_new_tokens: int) -> list[Any]:
        assert max_new_tokens == 4
        return [said[prompt] for prompt in prompts]

    monkeypatch.setattr(judging, "greedy", greedy)
    decode = lambda ids, skip_special_tokens: " ".join(ids)  # noqa: E731
    loaded: Any = SimpleNamespace(tokenizer=SimpleNamespace(decode=decode))
    asked = [Wanted(["Bath"], (), "place of birth")] * 2
    assert OwnWords(NAMES, 4).heard(loaded, [(1,), (2,)], asked).tolist() == [True, False]
