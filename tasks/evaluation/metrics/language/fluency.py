"""Entropy of the greedy outputs' word bigrams and trigrams, (⅔ H₂ + 4⁄3 H₃) / 2 bits; mean over held-out questions.

[0, log2 of the n-grams), higher is better. Source: RWKU, arXiv 2406.10890. Departs: words and marks are parted by a plain
pattern; undefined below 20 words. Traps: grows with length, so models need the same token limit.
State: outputs under 20 words are left out; `degenerate` where none is left, as where answers are short.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from tasks.evaluation.metric import Case, Measurement, Metric
from tasks.evaluation.statistics.asked import per_text
from tasks.evaluation.statistics.language import fluency


@dataclass(frozen=True)
class Fluency(Metric):
    better: ClassVar = {"": "higher"}

    def measure(self, case: Case) -> Iterator[Measurement]:
        return per_text(case, fluency)
