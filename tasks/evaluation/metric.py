"""What a metric is: a pure NumPy function of stored observations, with a version, a direction and failure states.

A metric never runs a model and never fills in a number: without its reference it says `missing_reference`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tasks.evaluation.intervals import mean_interval

SPLITS = {"forget": "target", "neighbours": "neighbour", "retain": "retain_held_out"}
"""Split -> role of the entities it is scored on. No loss has seen the last two."""


ALL_BLOCKS = -1
"""In a table of gradients, the layer of the rows that stand for all blocks together."""


@dataclass(frozen=True, eq=False)
class Tables:
    """What was observed of one model; see the observation stage for the columns."""

    answers: Mapping[str, Any]
    """A row a question: what was asked (`set`, `variant`, `split`, `target`, `entity`, …) and how it was answered."""
    states: Mapping[str, Any]
    """Of set `paraphrase`; bfloat16 vectors as uint16, which `vectors` reads."""
    distributions: Mapping[str, Any]
    general: Mapping[str, Any]
    options: Mapping[str, Any] | None = None
    """Accepted and wrong answers of a question, each with its log-probability."""
    tokens: Mapping[str, Any] | None = None
    """The canonical answer's tokens, of sets `base` and `paraphrase`."""
    samples: Mapping[str, Any] | None = None
    """Sampled answers about the target."""
    population: Mapping[str, Any] | None = None
    """States of all known and unknown entities; None for a model under stress."""
    relearning: Mapping[str, Any] | None = None
    traces: Mapping[str, Any] | None = None
    utility: Mapping[str, Any] | None = None
    """Scores on benchmark tasks, where some were asked for; see `harness`."""
    gradients: Mapping[str, Any] | None = None
    latents: Mapping[str, Any] | None = None
    """The states as latents; under `quality` and `active` two more tables, see `latent_views`."""


COSTLY = frozenset({"relearning", "traces", "gradients", "latents"})
"""Tables that cost a stage of their own: where no metric that is asked for reads one, it is not made."""


def vectors(table: Mapping[str, Any], site: str) -> np.ndarray:
    """float32 [N, D] of a site's column."""
    stored = table[site]
    return (stored.astype(np.uint32) << 16).view(np.float32) if stored.dtype == np.uint16 else stored


@dataclass(frozen=True, eq=False)
class Case:
    """All that a metric may look at: `base`, `unlearned`, where there is one `gold`, and each `<model>+<stress>`."""

    models: Mapping[str, Tables]
    roles: Mapping[str, str]
    types: Mapping[str, str]
    draws: int = 2000
    confidence: float = 0.95
    seed: int = 0

    def rows(self, table: Mapping[str, Any], split: str) -> np.ndarray:
        """Rows of a table (with an `entity` column) whose entity belongs to a split."""
        return np.flatnonzero([self.roles.get(entity) == SPLITS[split] for entity in table["entity"]])

    def asked(self, model: str, split: str, kind: str = "paraphrase") -> np.ndarray:
        """Rows of a model's answers: the questions of one set (`paraphrase`: held-out templates) about one split."""
        answers = self.models[model].answers
        return np.flatnonzero((np.asarray(answers["set"]) == kind) & (np.asarray(answers["split"]) == split))


@dataclass(frozen=True)
class Measurement:
    """One line of `scores.parquet`."""

    split: str
    model: str
    value: float
    low: float
    high: float
    count: int
    site: str = ""
    state: str = "ok"


class Metric(ABC):
    """Subclasses are final; the metric's name is its file's."""

    version: ClassVar[int] = 1
    better: ClassVar[Mapping[str, str]]
    """Split -> `lower`, `higher` or `toward <reference>`; the key `""` stands for the others."""
    reads: ClassVar[frozenset[str]] = frozenset()
    """Which of the tables `COSTLY` it reads."""

    @abstractmethod
    def measure(self, case: Case) -> Iterator[Measurement]:
        """Every split, site and model this metric applies to."""

    def direction(self, split: str) -> str:
        return self.better.get(split, self.better.get("", "higher"))


def mean_measurement(
    case: Case, split: str, model: str, values: np.ndarray, clusters: np.ndarray, **more: str
) -> Measurement:
    """A mean with its interval over entities; no row at all is `degenerate`, a value that is not finite an error."""
    if len(values) == 0:
        return Measurement(split, model, math.nan, math.nan, math.nan, 0, state="degenerate", **more)
    if not np.isfinite(values).all():
        raise ArithmeticError(
            f"{int((~np.isfinite(values)).sum())} of {len(values)} observations of '{split}' are not finite"
        )
    low, high = mean_interval(values, list(clusters), draws=case.draws, confidence=case.confidence, seed=case.seed)
    return Measurement(split, model, float(np.mean(values)), low, high, len(values), **more)


def per_question(case: Case, column) -> Iterator[Measurement]:  # type: ignore[no-untyped-def]
    """The mean of `column(answers table)` over held-out templates, for every model and split."""
    for model, tables in case.models.items():
        values = np.asarray(column(tables.answers), dtype=float)
        for split in SPLITS:
            rows = case.asked(model, split)
            yield mean_measurement(case, split, model, values[rows], tables.answers["entity"][rows])
