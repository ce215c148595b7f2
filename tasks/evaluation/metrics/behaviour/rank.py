"""Mean log10 of the rank of the canonical answer's first token; 0 = the most likely, ties at their middle rank."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tasks.evaluation.metric import Case, Measurement, Metric, per_question


@dataclass(frozen=True)
class Rank(Metric):
    better: ClassVar = {"forget": "higher", "": "lower"}

    def measure(self, case: Case) -> Iterator[Measurement]:
        return per_question(case, lambda answers: np.log10(answers["rank"]))
