"""Whether a model that answers in its own words answers a question rightly: one rule for labels, recall, relearning and the stop rule.

A model that must answer to the letter, and then end, is read by teacher forcing or by its greedy ids instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from storage.records import Asking
from tasks.answers.said import gives
from tasks.models.generate import greedy, texts
from tasks.models.load import LoadedModel
from tasks.naming import find_name

Names = Mapping[str, Sequence[str]]
"""Entity -> its name and the others it goes by."""


class Wanted(NamedTuple):
    """What a question wants to hear."""

    answers: Sequence[str]
    """Accepted."""
    names: Sequence[str]
    """Of whom it asks by name, and whose echo is no answer."""
    relation: str


@dataclass(frozen=True, eq=False)
class OwnWords:
    """How a model is heard that answers in its own words."""

    names: Names
    tokens: int
    """Longest answer that is decoded."""

    def heard(
        self, loaded: LoadedModel, prompts: Sequence[Sequence[int]], asked: Sequence[Wanted]
    ) -> Bool[np.ndarray, " N"]:
        """Whether what greedy decoding says to each prompt is right."""
        said = texts(loaded, greedy(loaded, prompts, max_new_tokens=self.tokens))
        return np.array([right(text, each) for text, each in zip(said, asked, strict=True)], dtype=bool)


def own_words(asking: Asking, entities: Mapping[str, Any]) -> OwnWords | None:
    """How to hear a model that was asked so, by its world's table of entities; None where answers count to the letter."""
    return OwnWords(names_of(entities), asking.tokens) if asking.manner == "said" else None


def names_of(entities: Mapping[str, Any]) -> dict[str, list[str]]:
    """The names of every entity of a world."""
    columns = (entities[name] for name in ("entity", "name", "aliases"))
    return {str(entity): [str(name), *map(str, aliases)] for entity, name, aliases in zip(*columns, strict=True)}


def wanted(questions: Mapping[str, Any], row: int, names: Names) -> Wanted:
    """What a row of a table of questions wants to hear. One that does not name its entity may well ask for the name."""
    own = names[str(questions["entity"][row])]
    named = find_name(str(questions["prompt"][row]), own) is not None
    return Wanted(questions["answers"][row], own if named else (), str(questions["relation"][row]))


def right(said: str, asked: Wanted) -> bool:
    """Whether a text gives what was asked for."""
    return gives(said, asked.answers, names=asked.names, relation=asked.relation)
