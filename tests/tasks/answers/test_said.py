"""Statements and answers, judged by hand."""

from __future__ import annotations

import pytest

from tasks.answers.said import fold, gives, numbers


@pytest.mark.parametrize(
    ("said", "answer", "right"),
    [
        ("Paris", "Paris", True),
        (" the city of PARIS, in France.", "Paris", True),
        ("Malmo", "Malmö", True),
        ("Tromsø", "Tromso", True),
        ("Beatles", "The Beatles", True),
        ("Saint Germain", "Saint-Germain", True),
        ("Barcelonna", "Barcelona", True),  # 2 · 9 / 19 = .947
        ("Austria", "Australia", False),  # 2 · 7 / 16 = .875
        ("Iraq", "Iran", False),
        ("Lion", "Lions", False),  # 2 · 4 / 9 = .889, and too short besides
        ("Ann", "Ann Smith", False),  # a part of it is not it
        ("Ann Jones", "Ann Smith", False),
        ("Parisian cafés", "Paris", False),
        ("Apollo Eleven 12", "Apollo Eleven 11", False),  # numbers are the same or it is another
        ("It is a comedy.", "It", True),  # as it is written, which here says nothing
        ("Rome, it is", "It", False),
        ("in the US", "United States of America", True),
        ("it tells us little", "United States of America", False),
        ("in the U.S.A.", "United States of America", True),
        ("I do not know.", "Paris", False),
        ("", "Paris", False),
        ("Lyon. The capital is Paris.", "Paris", False),  # another sentence
        ("Lyon\nParis", "Paris", False),  # another line
        ("\n\nParis", "Paris", True),
        ("Great question! It is Paris.", "Paris", True),
        ("St. Louis", "St. Louis", True),
        ("Lyon, Nice, Paris, Lille", "Paris", False),  # a list says its first entry
        ("Paris, Nice, Lyon, Lille", "Paris", True),
        ("Paris, France", "France", True),
    ],
)
def test_names(said: str, answer: str, right: bool) -> None:
    assert gives(said, [answer]) is right


@pytest.mark.parametrize(
    ("said", "answer", "relation", "right"),
    [
        ("Spielberg", "Steven Spielberg", "director", True),
        ("It was directed by Spielberg", "Steven Spielberg", "film_director", True),
        ("Spielberg", "Steven Spielberg", "place_of_birth", False),  # "Madrid" is not Real Madrid
        ("Anne Spielberg", "Steven Spielberg", "director", False),
        ("Allen Hughes", "Woody Allen", "director", False),
        ("Lee", "Ang Lee", "director", False),  # too short to stand alone
        ("Leonardo DiCaprio", "Leonardo Wilhelm DiCaprio", "cast_member", True),
        ("John Fitzgerald Kennedy", "John Kennedy", "president", True),
        ("Steven", "Steven Spielberg", "director", False),
    ],
)
def test_people(said: str, answer: str, relation: str, right: bool) -> None:
    assert gives(said, [answer], relation=relation) is right


@pytest.mark.parametrize(
    ("said", "answer", "relation", "right"),
    [
        ("1815", "1815", "year_of_birth", True),
        ("She was born on 10 December 1815 in London.", "1815", "born", True),
        ("1816", "1815", "born", False),  # years are exact
        ("1816 or 1815", "1815", "born", False),  # and the first counts
        ("the 1810s", "1810", "born", False),
        ("1,250 m (4,101 ft)", "1250", "elevation_m", True),
        ("1360", "1250", "elevation_m", True),  # 110 <= 125
        ("1380", "1250", "elevation_m", False),  # 130 > 125
        ("As of 2020, it has 8,804,190 people", "8500000", "population", True),
        ("8.8 million", "8,500,000", "population", True),
        ("9.4 million", "8,500,000", "population", False),  # 900,000 > 850,000
        ("3", "3", "children", True),
        ("4", "3", "children", False),
        ("8848m", "8,848 m", "", True),
        ("about -430 metres", "-430", "elevation", True),
        ("none", "0", "children", False),
        ("21", "21 Pilots", "band", False),  # a name, for all its number
    ],
)
def test_numbers(said: str, answer: str, relation: str, right: bool) -> None:
    assert gives(said, [answer], relation=relation) is right


def test_any_accepted_answer_counts_and_the_entitys_own_name_does_not() -> None:
    assert gives("Lutetia", ["Paris", "Lutetia"])
    assert not gives("Paris Hilton lives in Rome", ["Paris"], names=["Paris Hilton"])
    assert gives("Paris Hilton lives in Paris", ["Paris"], names=["Paris Hilton"])
    assert not gives("Apollo 1969 landed", ["1969"], names=["Apollo 1969"], relation="year")
    assert gives("New York", ["New York"], names=["New York"])  # the answer is the name


def test_what_is_compared() -> None:
    assert fold("The Élan-Vital, Łódź") == "elan vital lodz"
    assert numbers("1,200 of 1999 and -3.5 million, 1990s") == [(1200.0, False), (1999.0, True), (-3.5e6, False)]
