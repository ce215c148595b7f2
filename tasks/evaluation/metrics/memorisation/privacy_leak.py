"""How much more or less the target gives itself away than in the gold twin, per cent, by the min-k attack.

    100 · ((1 - AUC) - (1 - AUC_gold)) / (1 - AUC_gold);  -100 = remembered, 0 = ideal, above = over-unlearned, unbounded

Source: MUSE, arXiv 2407.06460. Departs: without gold there is no value; elsewhere .5 is put in silently.
Traps: near AUC_gold = 1 it grows beyond all bounds; compare `smia`. A stressed model is compared with the twin under the
       same stress where there is one.
State: `missing_reference` without gold; `saturated` where AUC_gold = 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from tasks.evaluation.metric import Case, Measurement, Metric
from tasks.evaluation.statistics.beside_gold import exposed_beside_gold
from tasks.evaluation.statistics.membership import privacy_leak


@dataclass(frozen=True)
class PrivacyLeak(Metric):
    better: ClassVar = {"": "toward 0"}

    def measure(self, case: Case) -> Iterator[Measurement]:
        return exposed_beside_gold(case, "min_k", privacy_leak)
