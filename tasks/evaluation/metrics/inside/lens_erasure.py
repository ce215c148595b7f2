"""Share of what the logit lens reads of the answer that is gone, weighted over layers as in UDS [0, 1].

    d_l = k_l(base) - k_l(model),   d°_l = k_l(base) - k_l(reference)

0 intact, 1 as unreadable as in the reference; higher is better. Site `gold`: the reference is the gold twin
(`missing_reference` without one); site `null`: the base model's own states of unknown entities in the same sentence.

Source:   UDS' weights (arXiv 2605.24614) on the logit lens.
Departs:  the last layer is left out; the null is ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from tasks.evaluation.internals.depth import erasure_by_gold, erasure_by_unknown
from tasks.evaluation.metric import Case, Measurement, Metric


@dataclass(frozen=True)
class LensErasure(Metric):
    better: ClassVar = {"": "higher"}
    reads: ClassVar = frozenset({"traces"})

    def measure(self, case: Case) -> Iterator[Measurement]:
        yield from erasure_by_gold(case, "lens", "gold")
        yield from erasure_by_unknown(case, "lens", "null")
