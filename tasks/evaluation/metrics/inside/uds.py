"""UDS: how much of the answer a model's states have lost when put into the base model, beside the gold twin's [0, 1].

    UDS = mean over questions of  Σ_KE Δ^gold_l · clip(Δ_l / Δ^gold_l, 0, 1) / Σ_KE Δ^gold_l
    Δ_l = drop of log p of the answer in the base model when its state after block l is the model's
    KE  = {l : Δ^gold_l > 0.05 nats per token}, per question

0 intact, 1 as erased as in the twin that never saw the target; higher is better. The base model's own value is the
floor, 0. Questions without any knowledge layer have no value: `count` says how many have one. `missing_reference`
without a gold twin, `degenerate` where no question has a value.

Source:   arXiv 2605.24614.
Departs:  the last layer is left out, where the state is the answer itself (public code patches a normed state there);
          on held-out templates.
Traps:    clipped at 1, so a model that is thrown off altogether scores 1 as well: read it beside what others lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from tasks.evaluation.internals.depth import erasure_by_gold
from tasks.evaluation.metric import Case, Measurement, Metric


@dataclass(frozen=True)
class Uds(Metric):
    better: ClassVar = {"": "higher"}
    reads: ClassVar = frozenset({"traces"})

    def measure(self, case: Case) -> Iterator[Measurement]:
        return erasure_by_gold(case, "patched")
