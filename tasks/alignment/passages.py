"""Free text about an entity as rows to train on: each sentence that names it, from the name on.

A sentence is a row like a question's: its prompt ends with the word that holds the end of the name, what follows is the
answer. A sentence without the name, or with nothing after it, is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from storage.records import UsageError
from tasks.naming import find_name

PASSAGE = "passage"
"""The relation of such a row."""
LONGEST = 64
"""Words after the name, at most."""

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\s*\n\s*")


def sentence_rows(entity: str, names: Sequence[str], texts: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of one entity, in the columns of a world's question table but for `question`.

    names  the entity's name and its other forms; of several in a sentence the first that is said counts.
    """
    rows: list[dict[str, Any]] = []
    for sentence in dict.fromkeys(part.strip() for text in texts for part in _SENTENCE_END.split(text)):
        found = find_name(sentence, names)
        if found is None:
            continue
        start, end = found
        word = re.match(r"\S*", sentence[end:])
        assert word is not None
        cut = end + word.end()
        rest = " ".join(sentence[cut:].split()[:LONGEST])
        if rest:
            row = {
                "entity": entity, "relation": PASSAGE, "template": len(rows), "held_out": False,
                "prompt": sentence[:cut], "name_start": start, "name_end": end, "answers": [rest],
            }  # fmt: skip
            rows.append(row)
    return rows


def with_passages(
    questions: Mapping[str, Any],
    passages: Mapping[str, Sequence[str]],
    names: Mapping[str, Sequence[str]],
    roles: Mapping[str, str],
    targets_by: str,
) -> dict[str, list[Any]]:
    """The question table with the sentences about targets and about those to retain as further rows.

    passages    entity -> texts
    targets_by  `passages`: of the targets' rows only these are left; `both`: their questions too.

    Raises: UsageError for a target without a sentence that can be used.
    """
    table = {column: list(values) for column, values in questions.items()}
    if targets_by == "passages":
        kept = [
            row for row, entity in enumerate(table["entity"]) if roles.get(entity) != "target" or table["held_out"][row]
        ]
        table = {column: [values[row] for row in kept] for column, values in table.items()}
    added = {
        entity: sentence_rows(entity, names[entity], passages.get(entity, ()))
        for entity, role in roles.items()
        if role in ("target", "retain")
    }
    if without := sorted(names[entity][0] for entity, role in roles.items() if role == "target" and not added[entity]):
        raise UsageError(
            f'[alignment] forget_by = "{targets_by}" needs text about every target, a sentence with its name and something '
            f"after it; given none about {_listed(without)}: give 'passages' in the facts file, or use forget_by = "
            '"questions"'
        )
    for row in (row for rows in added.values() for row in rows):
        for column, values in table.items():
            values.append(len(values) if column == "question" else row.get(column, ""))
    return table


def _listed(names: Sequence[str]) -> str:
    shown = names[:5]
    return ", ".join(map(repr, shown)) + (f" and {len(names) - len(shown)} more" if len(names) > len(shown) else "")
