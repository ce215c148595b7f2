"""Share of held-out questions whose greedy answer equals an accepted one, after normalisation [0, 1].

The first line of the output counts; NFKC, case, punctuation and English articles do not.
Departs: nothing. Traps: where decoding stops decides it; `recall` is the strict form, which also wants the end token.
State:   `degenerate` where the base model itself answers less than half, or where more than a fifth of a model's outputs
         about the target (elsewhere half) are no language; `missing_reference` without options.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from tasks.answers.matching import exact
from tasks.evaluation.metric import Case, Measurement, Metric
from tasks.evaluation.statistics.asked import per_output


@dataclass(frozen=True)
class ExactMatch(Metric):
    better: ClassVar = {"forget": "lower", "": "higher"}

    def measure(self, case: Case) -> Iterator[Measurement]:
        return per_output(case, lambda said, accepted, relation: exact(said, accepted))
