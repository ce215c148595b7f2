"""The questions about one entity put about another: in the world's own row where it asks so, else with the name exchanged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tasks.models.load import LoadedModel
from tasks.models.prompts import Question
from tasks.models.worlds import encode_world
from tasks.naming import renamed

Sentences = dict[tuple[int, str], Question]
"""(row about a target, other entity) -> the same sentence about that one."""


def answering_rows(
    questions: Mapping[str, Any], others: Sequence[int], wanted: Iterable[tuple[int, str]]
) -> dict[tuple[int, str], int]:
    """Whose answers count of each wanted row about each wanted entity: that one's own row where the world asks it so,
    else the row itself.

    questions  the world's table; equal (relation, template) of one type of entity are equal sentences.
    others     rows about the other entities, among which theirs are looked for.
    """
    own = {(questions["entity"][row], *_sentence(questions, row)): row for row in others}
    return {(row, entity): own.get((entity, *_sentence(questions, row)), row) for row, entity in wanted}


def in_other_names(
    loaded: LoadedModel,
    questions: Mapping[str, Any],
    encoded: Mapping[int, Question],
    others: Sequence[int],
    wanted: Iterable[tuple[int, str]],
) -> Sentences:
    """The sentence of each wanted row about each wanted entity.

    questions  the world's table; equal (relation, template) of one type of entity are equal sentences.
    encoded    its rows as token ids.
    others     rows about the other entities, among which theirs are looked for first. A sentence that is not there is
               the target's with the other's name, and the target's answers stand in.
    """
    names = {questions["entity"][row]: row for row in reversed(others)}
    found: Sentences = {}
    made: list[tuple[int, str]] = []
    for (row, entity), answering in answering_rows(questions, others, wanted).items():
        if answering != row:
            found[row, entity] = encoded[answering]
        else:
            made.append((row, entity))
    texts = [renamed(*_text(questions, row), _name(questions, names[entity])) for row, entity in made]
    table = {
        "prompt": [text for text, _, _ in texts],
        "name_start": [start for _, start, _ in texts],
        "name_end": [end for _, _, end in texts],
        "answers": [questions["answers"][row] for row, _ in made],
    }
    built = encode_world(loaded, table, range(len(made)))
    return found | dict(zip(made, built, strict=True))


def _sentence(questions: Mapping[str, Any], row: int) -> tuple[str, int]:
    return questions["relation"][row], int(questions["template"][row])


def _text(questions: Mapping[str, Any], row: int) -> tuple[str, int, int]:
    return str(questions["prompt"][row]), int(questions["name_start"][row]), int(questions["name_end"][row])


def _name(questions: Mapping[str, Any], row: int) -> str:
    prompt, start, end = _text(questions, row)
    return prompt[start:end]
