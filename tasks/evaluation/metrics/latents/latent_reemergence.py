"""Known-latents that a stress brings back on the target's prompts [0, 1]; lower is better.

    (f_K(stressed) - f_K(model)) / (f_K(base) - f_K(model)),  clipped

for every model under stress whose latents were looked at; f_K as in `latent_suppression`. 0: they stay off; 1: they fire
as in the base model. Facts that the stress itself taught are left out.

`degenerate` where the model had not suppressed them, or where the autoencoder no longer describes the stressed model's
states of the target (see `latent_suppression`).

Source:   ours.
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
    ratio_measurement,
    readings,
    without_views,
)
from tasks.evaluation.metric import Case, Measurement, Metric


@dataclass(frozen=True)
class LatentReemergence(Metric):
    better: ClassVar = {"": "lower"}
    reads: ClassVar = frozenset({"latents"})

    def measure(self, case: Case) -> Iterator[Measurement]:
        for stressed in looked_at(case):
            model = stressed.partition("+")[0]
            if model in (stressed, "base") or model not in case.models:
                continue
            if missing := without_views(case, model):
                yield Measurement(**{**vars(missing), "model": stressed})
                continue
            for place, by, site in readings(case):
                parts = [firing(case, name, "known", place, by=by) for name in ("base", model, stressed)]
                yield ratio_measurement(
                    case,
                    stressed,
                    site,
                    parts,
                    lambda means: np.clip((means[2] - means[1]) / (means[0] - means[1]), 0, 1),
                    lambda means: means[0] - means[1],
                    described(case, stressed, place),
                )
