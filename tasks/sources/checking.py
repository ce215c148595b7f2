"""What is wrong with rows: each by itself, and beside the rows before it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from storage.records import UsageError
from tasks.naming import find_name, plain
from tasks.sources.rows import Row

SHOWN = 20
"""Complaints that one message lists at most."""
LONGEST = 1000
"""Characters of a question."""


class Complaint(NamedTuple):
    """Why a row cannot be used."""

    line: int
    """0 for the file as a whole."""
    reason: str
    """In short, the same for all rows with this fault."""
    message: str
    """What was expected, what was given, what to do."""


def complaints_about(rows: Sequence[Row]) -> list[Complaint]:
    """One complaint at most for each row, in the order of the rows."""
    before = _Before()
    names = {plain(row.name): row for row in reversed(rows)}
    found = []
    for row in rows:
        fault = next(_faults(row), None) or next(before.faults(row, names), None)
        if fault is None:
            before.add(row)
        else:
            found.append(Complaint(row.line, *fault))
    return found


def refuse(what: str, complaints: Sequence[Complaint], rows: int) -> None:
    """Say all that is wrong with a file at once, at most `SHOWN` rows of it.

    Raises: UsageError where there are complaints.
    """
    lines = [f"line {each.line}: {each.message}" if each.line else each.message for each in complaints[:SHOWN]]
    if len(complaints) == 1:
        raise UsageError(f"{what}, {lines[0]}" if complaints[0].line else f"{what}: {lines[0]}")
    if complaints:
        more = f"\n  and {len(complaints) - SHOWN} more" if len(complaints) > SHOWN else ""
        raise UsageError(f"{what}: {len(complaints)} of {rows} rows cannot be used\n  " + "\n  ".join(lines) + more)


Fault = tuple[str, str]
"""(reason, message)."""


def _faults(row: Row) -> Iterator[Fault]:
    forms = (row.name, *row.aliases)
    if find_name(row.question, forms) is None:
        yield (
            "the question does not name the entity",
            f"the question {row.question!r} holds neither '{row.name}' nor an alias; write the name into it",
        )
    if not row.answers:
        yield "no answer", f"no answer to {row.question!r}; give at least one"
    for answer in row.answers:
        if plain(answer) in map(plain, forms):
            yield (
                "the answer is the name",
                f"the answer '{answer}' is the entity's own name; ask for something else than the name",
            )
    if len(row.question) > LONGEST:
        yield (
            "the question is too long",
            f"the question has {len(row.question)} characters, at most {LONGEST} are expected; put text into 'passages'",
        )


class _Before:
    """What the rows so far have said."""

    def __init__(self) -> None:
        self.entities: dict[str, Row] = {}
        self.spelled: dict[str, Row] = {}
        self.asked: dict[tuple[str, str], Row] = {}
        self.facts: dict[tuple[str, str], Row] = {}

    def add(self, row: Row) -> None:
        self.entities.setdefault(row.entity, row)
        self.spelled.setdefault(plain(row.entity), row)
        self.asked[row.entity, plain(row.question)] = row
        self.facts.setdefault((row.entity, row.relation), row)

    def faults(self, row: Row, names: dict[str, Row]) -> Iterator[Fault]:
        """`names`: every name of the file as it is compared -> a row of its."""
        known = self.entities.get(row.entity)
        if known and known.type != row.type:
            yield (
                "the entity has two types",
                f"'{row.name}' is a '{row.type}' here and a '{known.type}' in line {known.line}; give it one type",
            )
        alike = self.spelled.get(plain(row.entity))
        if alike and alike.entity != row.entity:
            yield (
                "the name is spelled in two ways",
                f"'{row.entity}' stands as '{alike.entity}' in line {alike.line}; spell it the same everywhere",
            )
        for alias in row.aliases:
            other = names.get(plain(alias))
            if other and other.entity != row.entity:
                yield (
                    "the alias is somebody else's name",
                    f"the alias '{alias}' of '{row.name}' is the name of the entity in line {other.line}; remove it",
                )
        yield from self._about_answers(row)

    def _about_answers(self, row: Row) -> Iterator[Fault]:
        same = self.asked.get((row.entity, plain(row.question)))
        mine = {plain(answer) for answer in row.answers}
        if same and same.relation == row.relation and mine == {plain(answer) for answer in same.answers}:
            yield "a duplicate", f"the same as line {same.line}; remove one of them"
        elif same:
            yield (
                "the question was answered otherwise",
                f"{row.question!r} is answered by {_listed(same)} in line {same.line} and by {_listed(row)} here; "
                "keep one, or put all accepted answers into one row",
            )
        fact = self.facts.get((row.entity, row.relation))
        if fact and not same and not mine & {plain(answer) for answer in fact.answers}:
            yield (
                "the relation was answered otherwise",
                f"relation '{row.relation}' of '{row.name}' is {_listed(fact)} in line {fact.line} and {_listed(row)} "
                "here; give different facts different relations",
            )


def _listed(row: Row) -> str:
    return " or ".join(f"'{answer}'" for answer in row.answers[:3])
