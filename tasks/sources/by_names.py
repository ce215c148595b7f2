"""Questions that say of nobody whom they are about: put down to the name in them that most of the questions hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tasks.naming import proper_names
from tasks.sources.rows import Row

NOBODY = "nobody"
"""Stands for the name in a question that holds none, which is left out for it."""


def rows_by_name(pairs: Sequence[tuple[str, str]], kind: str) -> list[Row]:
    """(question, answer) as rows about entities of that type; each question of an entity is a relation of its own.

    Of the names in a question, told by their capitals, counts the one that most questions hold, then the longest.
    """
    names = [proper_names(question) for question, _ in pairs]
    held = Counter(name for each in names for name in set(each))
    asked: Counter[str] = Counter()
    rows = []
    for line, ((question, answer), each) in enumerate(zip(pairs, names, strict=True), 1):
        name = max(sorted(each), key=lambda name: (held[name], len(name)), default=NOBODY)
        asked[name] += 1
        text, given = " ".join(question.split()), " ".join(answer.split())
        relation = f"question_{asked[name]:02d}"
        rows.append(Row(line, name, name, kind, (), relation, text, (given,) if given else ()))
    return rows
