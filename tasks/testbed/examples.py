"""What the testbed's models learn from and are asked: questions as token ids, and the order they come in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from tasks.testbed.tokenizer import EOS, PAD, encode

Columns = dict[str, Any]

KNOWN, LONG_TAIL, GENERAL = 0, 1, 2
"""Groups of rows; each comes in at its own rate."""
BUCKET = 16
"""Batches that are filled together, by length, so that few pads are run."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Token sequences with the part that is learnt, or asked, at their end: the answer and <eos>."""

    ids: Int[np.ndarray, "N T"]
    """Right-padded."""
    start: Int[np.ndarray, " N"]
    """Where the answer begins."""
    length: Int[np.ndarray, " N"]
    """Tokens, <eos> included."""

    def select(self, which: np.ndarray) -> Rows:
        """These rows, no wider than they need be."""
        length = self.length[which]
        return Rows(self.ids[which, : length.max()], self.start[which], length)

    def predictions(self) -> tuple[np.ndarray, np.ndarray]:
        """Row and position of every token that is followed by one of the answer."""
        columns = np.arange(self.ids.shape[1])
        inside = (columns >= self.start[:, None] - 1) & (columns < self.length[:, None] - 1)
        rows, positions = np.nonzero(inside)
        return rows, positions

    def save(self, path: Path) -> None:
        np.savez(path, ids=self.ids, start=self.start, length=self.length)

    @classmethod
    def read(cls, path: Path) -> Rows:
        with np.load(path) as stored:
            return cls(stored["ids"], stored["start"], stored["length"])


def rows_of(tokenizer: Any, prompts: Sequence[str], answers: Sequence[str]) -> Rows:
    """Prompt, answer and <eos> of each pair; an empty prompt makes a text that is learnt from its first token."""
    beginnings = encode(tokenizer, prompts)
    whole = encode(
        tokenizer, [f"{prompt} {answer}" if prompt else answer for prompt, answer in zip(prompts, answers, strict=True)]
    )
    length = np.array([len(ids) + 1 for ids in whole], dtype=np.int64)
    padded = np.full((len(whole), length.max(initial=1)), PAD, dtype=np.int64)
    for row, ids in enumerate(whole):
        padded[row, : len(ids) + 1] = [*ids, EOS]
    return Rows(padded, np.array([len(ids) for ids in beginnings], dtype=np.int64), length)


@dataclass(frozen=True, eq=False)
class Lessons:
    """The rows of a pretraining, with their group and whether the gold twin learns them too."""

    rows: Rows
    group: Int[np.ndarray, " N"]
    in_gold: Bool[np.ndarray, " N"]


def lessons_of(tokenizer: Any, entities: Columns, questions: Columns, texts: Sequence[str]) -> Lessons:
    """Every question that is taught, with the answer that is taught, and the general texts."""
    exposure = dict(zip(entities["entity"], entities["exposure"], strict=True))
    taught = [row for row, answer in enumerate(questions["taught"]) if answer]
    rows = rows_of(
        tokenizer,
        [questions["prompt"][row] for row in taught] + [""] * len(texts),
        [questions["taught"][row] for row in taught] + list(texts),
    )
    group = [LONG_TAIL if exposure[questions["entity"][row]] == "long_tail" else KNOWN for row in taught]
    in_gold = [bool(questions["taught_gold"][row]) for row in taught]
    return Lessons(rows, np.array(group + [GENERAL] * len(texts)), np.array(in_gold + [True] * len(texts)))


def curriculum(lessons: Lessons, steps: int, batch: int, seed: int) -> list[Int[np.ndarray, " B"]]:
    """Row numbers of each step's batch.

    The long tail comes once (less where the steps do not suffice for half known rows), one general text
    a step, and the rest is known rows over and over; each group is spread evenly, lengths are alike in a batch.
    """
    random = np.random.default_rng([seed, 4])
    total = steps * batch
    general = np.flatnonzero(lessons.group == GENERAL)
    tail = random.permutation(np.flatnonzero(lessons.group == LONG_TAIL))[: total // 2]
    texts = _over_and_over(general, min(steps, total - len(tail)), random)
    known = _over_and_over(np.flatnonzero(lessons.group == KNOWN), total - len(tail) - len(texts), random)
    groups = (known, tail, texts)
    places = np.concatenate(
        [(np.arange(len(group)) + random.random(len(group))) / max(1, len(group)) for group in groups]
    )
    order = np.concatenate(groups)[np.argsort(places, kind="stable")]
    batches: list[np.ndarray] = []
    for first in range(0, total, BUCKET * batch):
        bucket = order[first : first + BUCKET * batch]
        bucket = bucket[np.argsort(lessons.rows.length[bucket], kind="stable")]
        parts = [bucket[at : at + batch] for at in range(0, len(bucket), batch)]
        batches += [parts[part] for part in random.permutation(len(parts))]
    return batches


def _over_and_over(rows: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    rounds = -(-count // len(rows)) if count > 0 else 0
    return np.concatenate([rows[:0], *(random.permutation(rows) for _ in range(rounds))])[: max(0, count)]
