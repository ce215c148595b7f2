"""Which prompts are read, at which positions, in which shard each lands, and what a shard holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from storage.records import Site
from tasks.models.forward import read_sites
from tasks.models.load import LoadedModel
from tasks.models.prompts import Question
from tasks.models.states import to_stored

TRAINING_TEMPLATES = 3
"""Beside all held-out templates, so many of a relation's training templates are read: more adds rows, hardly variety."""


@dataclass(frozen=True)
class Passage:
    """A token sequence and the first position that is wanted; all after it are wanted too."""

    ids: tuple[int, ...]
    first: int
    name_last: int
    """Position of the name's last token; -1 for neutral text."""
    source: int
    """Row of the question table; -1 for neutral text."""


def rows_to_read(questions: Mapping[str, Any], entities: Collection[str]) -> list[int]:
    """Rows of the question table about these entities: all held-out ones, and the first training ones of each fact."""
    training: Counter[tuple[str, str]] = Counter()
    rows = []
    for row, entity in enumerate(questions["entity"]):
        if entity not in entities:
            continue
        if not questions["held_out"][row]:
            fact = entity, questions["relation"][row]
            training[fact] += 1
            if training[fact] > TRAINING_TEMPLATES:
                continue
        rows.append(row)
    return rows


def passages_of(encoded: Sequence[Question], rows: Sequence[int]) -> list[Passage]:
    """One passage a question: from the name's first token to the last prompt token."""
    return [
        Passage(question.prompt, question.name_first, question.name_last, row)
        for question, row in zip(encoded, rows, strict=True)
    ]


def general_passages(texts: Sequence[tuple[int, ...]]) -> list[Passage]:
    """Neutral text, every token but the beginning-of-sequence one."""
    return [Passage(ids, 1, -1, -1) for ids in texts if len(ids) > 1]


def shards(passages: Sequence[Passage], size: int) -> list[list[Passage]]:
    """Passages in the order of their tokens, so that a shard shares as many prefixes as it can."""
    ordered = sorted(passages, key=lambda passage: (passage.ids, passage.source))
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def read_passages(
    loaded: LoadedModel, passages: Sequence[Passage], sites: Sequence[Site], dtype: str, token_budget: int
) -> dict[str, np.ndarray]:
    """The columns of a shard: of every wanted position, passage by passage, what it is, and its state at each site."""
    wanted = [list(range(passage.first, len(passage.ids))) for passage in passages]
    states = read_sites(loaded, [passage.ids for passage in passages], wanted, sites, budget=token_budget)
    counts = np.array([len(each) for each in wanted])
    position = np.concatenate([np.array(each, dtype=np.int64) for each in wanted])
    length = np.repeat([len(passage.ids) for passage in passages], counts)
    name_last = np.repeat([passage.name_last for passage in passages], counts)
    index = {
        "question": np.repeat([passage.source for passage in passages], counts).astype(np.int64),
        "after_name": np.where(name_last < 0, 0, position - name_last),
        "before_end": length - 1 - position,
    }
    return index | {site.name: to_stored(state, dtype) for site, state in states.items()}
