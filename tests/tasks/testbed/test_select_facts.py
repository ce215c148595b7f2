"""Which facts are kept of a source."""

from __future__ import annotations

from typing import Any

from tasks.testbed.select_facts import KEPT_VALUES, select

Row = tuple[str, str, str, str, list[str]]


def _city(number: int, name: str, country: str = "Land", population: str = "50400") -> list[Row]:
    facts: dict[str, Any] = {"country": [country], "elevation_m": ["7"], "population": [population]}
    return [("city", f"Q{number}", name, relation, answers) for relation, answers in facts.items()]


def _player(number: int, name: str, place: str, teams: list[str]) -> list[Row]:
    facts = {"year_of_birth": ["1970"], "place_of_birth": [place], "team": teams}
    return [("player", f"Q{number}", name, relation, answers) for relation, answers in facts.items()]


def _names(rows: list[Row]) -> list[str]:
    return [name for _, _, name in select(rows)]


def test_entities_that_cannot_be_told_apart_or_asked_are_left_out() -> None:
    rows = [row for number in range(3) for row in _city(number, f"Place {number}")]
    odd = {10: "Twice", 11: "Twice", 12: "No", 13: "Москва", 14: "x" * 33, 15: "Land"}
    rows += [row for number, name in odd.items() for row in _city(number, name)]
    rows += _city(20, "Hamlet", population="2499") + _city(21, "Alone", country="Rare")
    rows += _city(22, "Unasked")[:2]
    assert _names(rows) == ["Place 0", "Place 1", "Place 2"]


def test_population_is_in_thousands() -> None:
    rows = [row for number in range(3) for row in _city(number, f"Place {number}")]
    assert {facts["population"][0] for facts in select(rows).values()} == {"50"}


def test_rarest_team_is_taught_and_few_are_kept() -> None:
    common = [f"Team {letter}" for letter in "ABCDEF"]
    rows = [row for number in range(20) for row in _player(number, f"Player {number}", "Town", [*common, "Every Team"])]
    rows += [
        row
        for number in range(30, 42)
        for row in _player(number, f"Player {number}", "Town", ["Rare Team", "Every Team", f"Once {number}"])
    ]
    facts = {name: facts for (_, _, name), facts in select(rows).items()}
    assert facts["Player 30"]["team"] == ["Rare Team", "Every Team"]
    assert facts["Player 0"]["team"] == common[:KEPT_VALUES]
