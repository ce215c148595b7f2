"""The null of `latent_suppression`: how far random latents of like firing rate are suppressed on the target [0, 1].

Diagnostic, no part of any verdict. As `latent_suppression`, of as many latents that were not selected and fire about as
often in the base model: what a change that spares no latent does.

Source:   ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from tasks.evaluation.internals.latent_shares import suppressed
from tasks.evaluation.metric import Case, Measurement, Metric


@dataclass(frozen=True)
class LatentSuppressionRandom(Metric):
    better: ClassVar = {"": "lower"}
    reads: ClassVar = frozenset({"latents"})

    def measure(self, case: Case) -> Iterator[Measurement]:
        return suppressed(case, "random")
