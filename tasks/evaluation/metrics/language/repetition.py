"""Longest stretch of an output that repeats one cycle of words, as a share of it; mean over held-out questions [0, 1].

Lower is better. Source: ours. Traps: an output of few words repeats nothing, so those under 8 words are left out.
State: `degenerate` where none is left, as where answers are short.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from tasks.evaluation.metric import Case, Measurement, Metric
from tasks.evaluation.statistics.asked import per_text
from tasks.evaluation.statistics.language import FLAG_FROM, repetition, words


@dataclass(frozen=True)
class Repetition(Metric):
    better: ClassVar = {"": "lower"}

    def measure(self, case: Case) -> Iterator[Measurement]:
        return per_text(case, lambda text: repetition(said) if len(said := words(text)) >= FLAG_FROM else math.nan)
