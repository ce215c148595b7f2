"""Share of greedy outputs that are no language: without a word, or repeating themselves; held-out questions [0, 1].

Lower is better. Source: ours, see `statistics/language`. Departs: the flag there has no part that looks at token entropies.
Traps: refusals and wrong answers are language. Beyond a fifth on the target's questions, no score of them shows forgetting.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from tasks.evaluation.metric import Case, Measurement, Metric
from tasks.evaluation.statistics.asked import per_text
from tasks.evaluation.statistics.language import broken


@dataclass(frozen=True)
class Degeneration(Metric):
    better: ClassVar = {"": "lower"}

    def measure(self, case: Case) -> Iterator[Measurement]:
        return per_text(case, broken)
