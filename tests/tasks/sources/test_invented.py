"""Names of nobody."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tasks.naming import plain
from tasks.sources.invented import invent_names

PEOPLE = ["Ann Bellwood", "Carl Moss", "Dora Finch", "Egon Tallow"]
TOWNS = ["Springfield", "Nottingham", "Vilnius", "Salamanca", "Bergamo"]
words = st.text("abeiklorstu", min_size=1, max_size=9).map(str.capitalize)
names = st.lists(st.lists(words, min_size=1, max_size=3).map(" ".join), min_size=1, max_size=12)


def test_last_words_are_exchanged_first() -> None:
    made = invent_names(PEOPLE, 12, (), seed=1)
    firsts, lasts = ({name.split()[place] for name in PEOPLE} for place in (0, 1))
    assert len(set(made)) == 12
    assert all(name.split()[0] in firsts and name.split()[1] in lasts for name in made)
    assert not set(made) & set(PEOPLE)


def test_words_are_blended_where_that_gives_too_few_and_where_there_is_one() -> None:
    assert len(invent_names(PEOPLE, 14, (), seed=1)) == 14
    made = invent_names(TOWNS, 20, (), seed=1)
    assert "Springham" in made or "Nottifield" in made or "Salagamo" in made
    assert all(any(name.startswith(town[:2]) for town in TOWNS) for name in made)
    assert len(made) > 8


def test_the_seed_decides_and_nothing_else() -> None:
    assert invent_names(TOWNS, 6, (), seed=3) == invent_names(TOWNS, 6, (), seed=3)
    assert invent_names(TOWNS, 6, (), seed=3) != invent_names(TOWNS, 6, (), seed=4)


def test_too_few_parts_give_too_few_names() -> None:
    assert invent_names(["Ann", "Bo"], 5, (), seed=0) == []
    assert invent_names([], 5, (), seed=0) == []


@given(names, st.integers(0, 20), st.integers(0, 5))
def test_no_invented_name_is_a_real_or_a_taken_one(real: list[str], count: int, seed: int) -> None:
    taken = [name.upper() for name in invent_names(real, 3, (), seed)]
    made = invent_names(real, count, taken, seed)
    assert len(made) == len({plain(name) for name in made}) <= count
    assert not {plain(name) for name in made} & {plain(name) for name in (*real, *taken)}
    assert {len(name.split()) for name in made} <= {len(name.split()) for name in real}
