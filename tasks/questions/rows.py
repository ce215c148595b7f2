"""One question as a row of `questions.parquet`, and the text it is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

NEW = -1
"""Stands for the id of a question that the world does not have, until it is numbered."""


class Text(NamedTuple):
    """A prompt that ends where its answer begins; characters [start, end) name who or what it is about."""

    prompt: str
    start: int
    end: int


class Row(NamedTuple):
    """A question. Texts of the user's are only ever joined, never read as a format."""

    question: int
    set: str
    variant: str
    """The wording or the wrapper, within the set."""
    split: str
    """Whose knowledge the answer shows."""
    target: str
    """The target that the question is about, or put beside; "" if none."""
    entity: str
    """Whose fact is asked for."""
    relation: str
    template: int
    """Of the world where its wording is used, else of the set."""
    prompt: str
    name_start: int
    name_end: int
    answers: tuple[str, ...]
    """Accepted; the first is the canonical one."""
    wrong: tuple[str, ...]
    """Plausible and not accepted."""


def naming(before: str, name: str, after: str) -> Text:
    """A text that is about `name`."""
    return Text(before + name + after, len(before), len(before) + len(name))


def within(before: str, text: Text, after: str = "") -> Text:
    """The same question with words before and after it."""
    return Text(before + text.prompt + after, text.start + len(before), text.end + len(before))


def columns_of(rows: Sequence[Row]) -> dict[str, Any]:
    """Rows as the columns of a table: int64 arrays, texts, and lists of texts."""
    columns: dict[str, Any] = {}
    for name in Row._fields:
        values = [getattr(row, name) for row in rows]
        if name in ("answers", "wrong"):
            columns[name] = [list(each) for each in values]
        elif name in ("question", "template", "name_start", "name_end"):
            columns[name] = np.array(values, dtype=np.int64)
        else:
            columns[name] = np.array(values, dtype=object)
    return columns
