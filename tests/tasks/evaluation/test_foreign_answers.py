"""What is observed of models that were not taught to end after an answer, and of worlds without a long tail."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tasks.evaluation import observing
from tasks.evaluation.observing import NEW_TOKENS, observe_samples
from tasks.evaluation.settings import ObservationSettings
from tasks.evaluation.task import _first_of_facts, _halved
from tasks.models.worlds import ends_answers

WORDS = ["Leeds", ".", "It", "is", "Leedsham", "a", "town"]


@pytest.mark.parametrize(("ends", "hits"), [(True, [True, False, False]), (False, [True, True, False])])
def test_a_sample_that_goes_on_after_the_answer_is_right_where_nothing_taught_it_to_end(
    ends: bool, hits: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = [(0,), (0, 1, 2, 3), (4,)]
    asked: list[int] = []

    def drawn(*_: Any, max_new_tokens: int, **__: Any) -> list[list[tuple[int, ...]]]:
        asked.append(max_new_tokens)
        return [list(said)]

    monkeypatch.setattr(observing, "sample", drawn)
    long = (5,) * 30
    encoded = [SimpleNamespace(prompt=(1,), answers=((0,), long))]
    monkeypatch.setattr(observing, "encode_world", lambda *_: encoded)
    decode = lambda ids, skip_special_tokens: " ".join(WORDS[i] for i in ids)  # noqa: E731
    loaded: Any = SimpleNamespace(tokenizer=SimpleNamespace(decode=decode))
    questions = {"question": np.array([7]), "answers": [["Leeds", "a " * 30]]}
    found = observe_samples(loaded, questions, [0], ObservationSettings(samples=3), ends=ends)
    assert found["hit"] == hits
    assert asked == [NEW_TOKENS if ends else 31], "enough for the longest answer"


def test_who_was_taught_ends_his_answers() -> None:
    assert ends_answers({"taught": ["", "Leeds"]})
    assert not ends_answers({"taught": np.array(["", ""], dtype=object)})
    assert ends_answers({})


def test_sentences_are_halved_and_numbered_apart_from_the_worlds_questions() -> None:
    found = _halved(["Water is always wet here.", "Oh", "Snow falls."])
    assert found["prompt"] == ["Water is", "Snow"]
    assert found["answers"] == [["always wet here."], ["falls."]]
    assert list(found["question"]) == [-2, -1]
    assert [found["prompt"][row][: found["name_end"][row]] for row in (0, 1)] == found["prompt"]


def test_first_wording_of_each_fact_not_the_same_number_for_all() -> None:
    asked = {
        "entity": ["a", "a", "b", "b"],
        "relation": ["r", "r", "r", "s"],
        "template": [5, 3, 9, 0],
    }
    assert _first_of_facts(asked, [0, 1, 2, 3]) == [1, 2, 3]
