"""ROUGE of the greedy answer against the accepted one it is most like, on held-out questions [0, 1].

Sites: `rouge1_recall`, `rougeL_recall` (TOFU's), `rouge1_f1`, `rougeL_f1` (MUSE's).
Source:  see `statistics/rouge`. Departs: best of the accepted answers, and the token limit is the observation's.
Traps:   recall rewards length.
State:   `degenerate` where the base model itself answers less than half, or where more than a fifth of a model's outputs
         about the target (elsewhere half) are no language; `missing_reference` without options.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from tasks.evaluation.metric import Case, Measurement, Metric
from tasks.evaluation.statistics.asked import per_output
from tasks.evaluation.statistics.rouge import rouge

_SITES = {"rouge1_recall": "recall_1", "rougeL_recall": "recall_l", "rouge1_f1": "f1_1", "rougeL_f1": "f1_l"}


@dataclass(frozen=True)
class Rouge(Metric):
    better: ClassVar = {"forget": "lower", "": "higher"}

    def measure(self, case: Case) -> Iterator[Measurement]:
        for site, measure in _SITES.items():

            def best(said: str, accepted: list[str], relation: str, measure: str = measure) -> float:
                return max(getattr(rouge(answer, said), measure) for answer in accepted)

            yield from per_output(case, best, site=site)
