"""Share of held-out questions in whose greedy answer an accepted one occurs, as whole words [0, 1].

Departs: nothing. Traps: an output that lists many names passes.
State:   `degenerate` where the base model itself answers less than half, or where more than a fifth of a model's outputs
         about the target (elsewhere half) are no language; `missing_reference` without options.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from tasks.answers.matching import contains
from tasks.evaluation.metric import Case, Measurement, Metric
from tasks.evaluation.statistics.asked import per_output


@dataclass(frozen=True)
class Contains(Metric):
    better: ClassVar = {"forget": "lower", "": "higher"}

    def measure(self, case: Case) -> Iterator[Measurement]:
        return per_output(case, lambda said, accepted, relation: contains(said, accepted))
