"""Share of held-out questions whose greedy answer is an accepted one, ended where it should [0, 1].

Read from teacher forcing, which is exact: every token of the answer and the end after it must be the most likely one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from tasks.evaluation.metric import Case, Measurement, Metric, per_question


@dataclass(frozen=True)
class Recall(Metric):
    better: ClassVar = {"forget": "lower", "": "higher"}

    def measure(self, case: Case) -> Iterator[Measurement]:
        return per_question(case, lambda answers: answers["hit"])
