"""Share of the canonical answer's tokens that are the most likely ones, given all before them; mean over held-out questions.

[0, 1]. Source, departs, traps: see `statistics/memorisation`; answers here are entities and numbers, no framing words.
State: `missing_reference` without tokens; answers without a scored token are left out, never 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from tasks.evaluation.metric import Case, Measurement, Metric
from tasks.evaluation.statistics.asked import per_answer
from tasks.evaluation.statistics.memorisation import exact_memorisation


@dataclass(frozen=True)
class ExactMemorisation(Metric):
    better: ClassVar = {"forget": "lower", "": "higher"}

    def measure(self, case: Case) -> Iterator[Measurement]:
        return per_answer(case, lambda tokens: exact_memorisation(tokens["hit"]))
