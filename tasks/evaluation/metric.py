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


@dataclass(frozen=True, eq=False)
class Tables:
    """What was observed of one model; see the observation stage for the columns."""

    answers: Mapping[str, Any]
    states: Mapping[str, Any]
    """bfloat16 vectors as uint16; `vectors` reads them."""
    distributions: Mapping[str, Any]
    general: Mapping[str, Any]
    relearning: Mapping[str, Any]

    def vectors(self, site: str) -> np.ndarray:
        """float32 [N, D] of a site's column."""
        stored = self.states[site]
        return (stored.astype(np.uint32) << 16).view(np.float32) if stored.dtype == np.uint16 else stored


@dataclass(frozen=True, eq=False)
class Case:
    """All that a metric may look at: `base`, `unlearned` and, where there is one, `gold`."""

    models: Mapping[str, Tables]
    roles: Mapping[str, str]
    types: Mapping[str, str]
    draws: int = 2000
    confidence: float = 0.95
    seed: int = 0

    def rows(self, table: Mapping[str, Any], split: str) -> np.ndarray:
        """Rows of a table (with an `entity` column) that belong to a split."""
        return np.flatnonzero([self.roles.get(entity) == SPLITS[split] for entity in table["entity"]])


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
    """The mean of `column(answers table)` for every model and split."""
    for model, tables in case.models.items():
        values = np.asarray(column(tables.answers), dtype=float)
        for split in SPLITS:
            rows = case.rows(tables.answers, split)
            yield mean_measurement(case, split, model, values[rows], tables.answers["entity"][rows])
