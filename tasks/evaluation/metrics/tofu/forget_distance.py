"""Kolmogorov-Smirnov distance D between the truth ratios of a model and of the gold twin on the target's questions [0, 1].

0 = cannot be told apart, lower is better; unlike its p-value (`forget_quality`) it does not depend on how many were asked.
Source, departs, traps: see `statistics/forget_quality`; the interval's lower end is never 0.
State:   as `forget_quality`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from tasks.evaluation.metric import Case, Measurement, Metric
from tasks.evaluation.statistics.beside_gold import separations


@dataclass(frozen=True)
class ForgetDistance(Metric):
    better: ClassVar = {"": "lower"}

    def measure(self, case: Case) -> Iterator[Measurement]:
        for model, found in separations(case):
            if isinstance(found, Measurement):
                yield found
            else:
                yield Measurement(
                    "forget", model, found.distance, found.low, found.high, found.count, state=found.state
                )
