"""Names in texts."""

from __future__ import annotations

import pytest

from tasks.naming import begins_with, find_name, proper_names, renamed, replace_name, shared_name


@pytest.mark.parametrize(
    ("text", "forms", "found"),
    [
        ("Where was Ann Bell born?", ("Ann Bell",), "Ann Bell"),
        ("Is Ann Bell's mother Ann Bellow?", ("Ann Bell",), "Ann Bell"),
        ("Is Annex near Ann?", ("Ann",), "Ann"),
        ("Ann, or Ann Bell?", ("Ann", "Ann Bell"), "Ann Bell"),
        ("where was ann bell born?", ("Ann Bell",), "ann bell"),
        ("ann bell or Ann Bell?", ("Ann Bell",), "Ann Bell"),
        ("Who directed What?", ("What?",), "What?"),
        ("Is Annex a town?", ("Ann",), None),
    ],
)
def test_the_first_mention_of_the_longest_form(text: str, forms: tuple[str, ...], found: str | None) -> None:
    span = find_name(text, forms)
    assert (text[slice(*span)] if span else None) == found


def test_every_mention_is_replaced_and_nothing_else() -> None:
    text = "Ann Bell, whom we call Ann, met ANN BELL at the Annex."
    assert replace_name(text, ("Ann", "Ann Bell"), r"Bo \1") == r"Bo \1, whom we call Bo \1, met Bo \1 at the Annex."


def test_names_by_their_capitals() -> None:
    assert proper_names("What did Basil Mahfouz Al-Kuwaiti write in Paris?") == ["Basil Mahfouz Al-Kuwaiti", "Paris"]
    assert proper_names("Was Ludwig van Beethoven's teacher kind?") == ["Ludwig van Beethoven"]
    assert proper_names("Who is she?") == []


def test_the_name_that_most_questions_share() -> None:
    texts = [
        "Where was Ann Bell born?",
        "Which prize did Ann Bell win for Silent River?",
        "Is Silent River by Ann Bell's hand?",
        "What is the author's full name?",
    ]
    assert shared_name(texts) == "Ann Bell"
    assert shared_name(["Who was it?"]) == ""


@pytest.mark.parametrize(
    ("text", "name", "made"),
    [
        ("Where was Ann Bell born?", "Ann Bell", "Where was Carl Moss born?"),
        ("Ann Bell is who? Ann Bell is", "Ann Bell", "Carl Moss is who? Carl Moss is"),
        ("Who directed the movie It? It is", "It", "Who directed the movie Carl Moss? It is"),
        ("Is Ann Bell at Ann Bellwood's?", "Ann Bell", "Is Carl Moss at Ann Bellwood's?"),
    ],
)
def test_a_sentence_about_somebody_else(text: str, name: str, made: str) -> None:
    start = text.index(name)
    found, first, end = renamed(text, start, start + len(name), "Carl Moss")
    assert found == made
    assert found[first:end] == "Carl Moss"


def test_a_name_further_on_is_where_it_says() -> None:
    text = "Ann Bell or not, Ann Bell is"
    assert renamed(text, 17, 25, "Bo") == ("Bo or not, Bo is", 11, 13)


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ("Leeds", True),
        (" leeds, where", True),
        ("Leedsham", False),
        ("in Leeds", False),
        ("", False),
        ("New  York.", True),
    ],
)
def test_an_answer_may_be_gone_on_from(said: str, right: bool) -> None:
    assert begins_with(said, ["Leeds", "New York"]) is right
