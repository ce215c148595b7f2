"""The questions of a world as a model reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.models.load import LoadedModel
from tasks.models.prompts import Question, encode_answers, encode_questions


def encode_world(loaded: LoadedModel, questions: Mapping[str, Any], rows: Sequence[int]) -> list[Question]:
    """The chosen rows of a world's question table as token ids, in the order given."""
    return encode_questions(
        loaded.tokenizer,
        loaded.family,
        [str(questions["prompt"][row]) for row in rows],
        [(int(questions["name_start"][row]), int(questions["name_end"][row])) for row in rows],
        [list(questions["answers"][row]) for row in rows],
        loaded.chat,
    )


def encode_other_answers(loaded: LoadedModel, prompts: Sequence[str], texts: Sequence[str]) -> list[tuple[int, ...]]:
    """Each text as an answer to the prompt at the same place."""
    return encode_answers(loaded.tokenizer, prompts, texts, loaded.chat)
