"""Right / (right + wrong) in geometric mean probabilities, 1 / (1 + r), on held-out questions [0, 1]; .5 = undecided.

Source:  open-unlearning's meta-evaluation, there the most faithful of the behavioural scores.
Departs: wrong is the geometric mean, so this orders models as `truth_ratio`'s r does. Traps: below .5 the right answer is
         avoided, which tells as much.
State:   as `truth_ratio`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tasks.evaluation.metric import Case, Measurement, Metric
from tasks.evaluation.statistics.asked import per_option
from tasks.evaluation.statistics.beside_gold import ratio_of
from tasks.evaluation.statistics.truth import truth_share


@dataclass(frozen=True)
class TruthShare(Metric):
    better: ClassVar = {"forget": "toward 0.5", "": "higher"}

    def measure(self, case: Case) -> Iterator[Measurement]:
        return per_option(case, {"": lambda each: float(truth_share(np.array(ratio_of(each))))})
