"""Likeness to the gold twin in what the min-k attack finds, 1 - min(1, |AUC - AUC_gold| / AUC_gold) [0, 1], higher is better.

Source: open-unlearning. Departs: nothing. Traps: it does not say on which side of gold the model is.
State: `missing_reference` without gold; `saturated` where AUC_gold = 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from tasks.evaluation.metric import Case, Measurement, Metric
from tasks.evaluation.statistics.beside_gold import exposed_beside_gold
from tasks.evaluation.statistics.membership import membership_similarity


@dataclass(frozen=True)
class Smia(Metric):
    better: ClassVar = {"": "higher"}

    def measure(self, case: Case) -> Iterator[Measurement]:
        return exposed_beside_gold(case, "min_k", membership_similarity)
