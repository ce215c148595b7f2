"""UDS without a retrained model: the reference is what an unknown entity's state, in the same sentence, costs [0, 1].

    Δ^null_l = mean over at least eight unknown entities of the drop of log p of the *target's* answer in the base model
               when its state after block l is the base model's own of that entity

then as UDS with Δ^null for Δ^gold. 1: the state carries no more of the answer than an unknown's; 0 intact; higher is
better. The base model is the floor; the gold twin, where there is one, says how much a model that never knew loses,
which is less than 1 where it guesses well.

Source:   ours, after arXiv 2605.24614.
Traps:    depends on which unknown entities are drawn: the interval resamples them with the questions. Unknown
          entities that the base model refuses to answer for lose more than one it has never been taught about.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from tasks.evaluation.internals.depth import erasure_by_unknown
from tasks.evaluation.metric import Case, Measurement, Metric


@dataclass(frozen=True)
class UdsNull(Metric):
    better: ClassVar = {"": "higher"}
    reads: ClassVar = frozenset({"traces"})

    def measure(self, case: Case) -> Iterator[Measurement]:
        return erasure_by_unknown(case, "patched")
