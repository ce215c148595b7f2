"""How far plausible wrong answers are from the right one, r = exp(ℓ(right) - mean ℓ(wrong)), on held-out questions [0, 1].

Forget: mean min(r, 1/r), 1 = neither is preferred. Elsewhere: mean max(0, 1 - r), 1 = the right one by far.
Source:  TOFU, arXiv 2401.06121. Departs: the right answer is the canonical one, which is not put in other words here;
         wrong answers are those of the question set, answers that others give to the same relation.
Traps:   three ratios bear this name; this is the geometric one. Questions without a wrong answer are left out.
State:   `degenerate` where an answer has no scored token or nothing is left; `missing_reference` without options.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tasks.evaluation.metric import Case, Measurement, Metric
from tasks.evaluation.statistics.asked import per_option
from tasks.evaluation.statistics.beside_gold import ratio_of
from tasks.evaluation.statistics.truth import preferred, undecided


@dataclass(frozen=True)
class TruthRatio(Metric):
    better: ClassVar = {"": "higher"}

    def measure(self, case: Case) -> Iterator[Measurement]:
        return per_option(
            case,
            {
                "forget": lambda each: float(undecided(np.array(ratio_of(each)))),
                "": lambda each: float(preferred(np.array(ratio_of(each)))),
            },
        )
