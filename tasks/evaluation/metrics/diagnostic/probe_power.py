"""AUROC of each model's own knownness probe on entities held out from it, mean over types [0, 1]; higher is better.

Diagnostic, no part of any verdict, but below .7 the probe is not admitted to `probe_auroc` and `fresh_probe_auroc`
(`degenerate`). Known entities are a quarter kept out of training, unknown ones the held-out ones; the target is in
neither. It has no interval. After unlearning a fall says that the model can tell known from unknown no more, which is
damage, not forgetting.

Source:   ours; the protocol is in `tasks/evaluation/internals/probes.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tasks.evaluation.internals.probes import LEAST_AUROC, fitted
from tasks.evaluation.metric import Case, Measurement, Metric
from tasks.evaluation.probing import places


@dataclass(frozen=True)
class ProbePower(Metric):
    better: ClassVar = {"": "higher"}

    def measure(self, case: Case) -> Iterator[Measurement]:
        for model, tables in case.models.items():
            for place in places(tables) if tables.population is not None else ():
                found = fitted(case, model, place)
                value = found.auroc if found else np.nan
                state = "ok" if value >= LEAST_AUROC else "degenerate"
                yield Measurement(
                    "general", model, value, np.nan, np.nan, found.held_out if found else 0, place.name, state
                )
