"""What changed in the latents of others: mean over live latents of |f_j(model) - f_j(base)| [0, 1]; lower is better.

f_j: share of the rows of a split's entities, on held-out prompts, on which latent j is on; live: on anywhere in either
model. `neighbours` and `retain` are entities that no loss has seen.

The interval resamples entities. `degenerate` where the autoencoder no longer describes these states (see
`latent_suppression`), `missing_reference` without an autoencoder.

Source:   ours.
Departs:  the same between two seeds of training that changes nothing is not subtracted: compare with other methods.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from tasks.evaluation.internals.latent_shares import looked_at, places_of, spilled, without_views
from tasks.evaluation.metric import SPLITS, Case, Measurement, Metric


@dataclass(frozen=True)
class LatentSpill(Metric):
    better: ClassVar = {"": "lower"}
    reads: ClassVar = frozenset({"latents"})

    def measure(self, case: Case) -> Iterator[Measurement]:
        for model in looked_at(case):
            for split in ("neighbours", "retain"):
                if missing := without_views(case, model, split):
                    yield missing
                    continue
                for place in places_of(case.models["base"]):
                    yield spilled(case, model, place, split, SPLITS[split])
