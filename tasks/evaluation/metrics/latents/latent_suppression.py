"""Known-latents suppressed on the target's prompts: 1 - f_K(model) / f_K(base), clipped to [0, 1]; higher is better.

f_K: mean over held-out prompts of the share of the selected known-latents that are on; at sites ending in `:margin`, of
what is positive of their pre-activations, which says more where few latents were selected.

`degenerate` where the known-latents may not fire on the target in the base model at all, or where the autoencoder
leaves more than 1.25 times the base model's variance of the target's states unexplained: a model that was thrown off
is no longer described by latents. `missing_reference` without an autoencoder.

Source:   ours, after arXiv 2509.15631; read beside `latent_suppression_random`, what any latents of like rate lose.
Traps:    a method that trains on these very latents is graded by its own loss.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from tasks.evaluation.internals.latent_shares import suppressed
from tasks.evaluation.metric import Case, Measurement, Metric


@dataclass(frozen=True)
class LatentSuppression(Metric):
    better: ClassVar = {"": "higher"}
    reads: ClassVar = frozenset({"latents"})

    def measure(self, case: Case) -> Iterator[Measurement]:
        return suppressed(case, "known")
