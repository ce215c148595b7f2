"""Share of held-out questions whose greedy answer is right [0, 1], by the rule by which the entities were labelled.

The testbed's model must give an accepted answer to the letter, and then end; one that answers in its own words must give
one in what it says, ended or not.
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
