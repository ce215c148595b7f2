"""Unknown-latents adopted by the target's prompts [0, 1.5]; toward 1.

    (f_U(model) - f_U(base)) / (f_U(unknown entities) - f_U(base)),  clipped

f_U: mean over held-out prompts of the share of the selected unknown-latents that are on (at sites ending in `:margin`,
of what is positive of their pre-activations). The unknown entities are held-out ones of the target's type in the same
sentences, in the base model. 0: as before; 1: as on an unknown entity; above, they are overdone.

`degenerate` where unknown entities may not fire them more than the target did, or where the autoencoder no longer
describes the target's states (see `latent_suppression`); `missing_reference` without an autoencoder.

Source:   ours, after arXiv 2509.15631.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tasks.evaluation.internals.latent_shares import (
    described,
    firing,
    looked_at,
    of_unknown,
    ratio_measurement,
    readings,
    without_views,
)
from tasks.evaluation.metric import Case, Measurement, Metric


@dataclass(frozen=True)
class LatentAdoption(Metric):
    better: ClassVar = {"": "toward 1"}
    reads: ClassVar = frozenset({"latents"})

    def measure(self, case: Case) -> Iterator[Measurement]:
        for model in looked_at(case):
            if missing := without_views(case, model):
                yield missing
                continue
            for place, by, site in readings(case):
                before, after = (firing(case, name, "unknown", place, by=by) for name in ("base", model))
                yield ratio_measurement(
                    case,
                    model,
                    site,
                    [before, after, of_unknown(case, "unknown", place, by)],
                    lambda means: np.clip((means[1] - means[0]) / (means[2] - means[0]), 0, 1.5),
                    lambda means: means[2] - means[0],
                    described(case, model, place),
                )
