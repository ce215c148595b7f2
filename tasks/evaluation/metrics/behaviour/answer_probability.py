"""Geometric mean of the probabilities of the canonical answer's tokens, exp(Λ / T) [0, 1]."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tasks.evaluation.metric import Case, Measurement, Metric, per_question


@dataclass(frozen=True)
class AnswerProbability(Metric):
    better: ClassVar = {"forget": "lower", "": "higher"}

    def measure(self, case: Case) -> Iterator[Measurement]:
        return per_question(case, lambda answers: np.exp(answers["log_probability"] / answers["tokens"]))
