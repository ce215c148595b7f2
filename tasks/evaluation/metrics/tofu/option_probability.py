"""Probability of the canonical answer among the options, e^-ℓ(right) / Σ e^-ℓ, on held-out questions [0, 1].

Chance is 1 / (1 + wrong options). Source: TOFU, arXiv 2401.06121. Departs: nothing.
Traps:   public code zips filtered values with unfiltered indices; questions without a wrong answer are left out here.
State:   as `truth_ratio`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from tasks.evaluation.metric import Case, Measurement, Metric
from tasks.evaluation.statistics.asked import per_option
from tasks.evaluation.statistics.truth import option_probability


@dataclass(frozen=True)
class OptionProbability(Metric):
    better: ClassVar = {"forget": "lower", "": "higher"}

    def measure(self, case: Case) -> Iterator[Measurement]:
        return per_option(case, {"": lambda each: option_probability(each.right, each.wrong)})
