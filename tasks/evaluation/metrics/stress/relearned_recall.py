"""Recall of the half of the target's facts that was not taught back, after relearning the other half [0, 1].

What comes back was only hidden; the gold twin's own value is what relearning can do without any hidden knowledge.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tasks.evaluation.metric import Case, Measurement, Metric, mean_measurement


@dataclass(frozen=True)
class RelearnedRecall(Metric):
    better: ClassVar = {"forget": "toward gold"}

    def measure(self, case: Case) -> Iterator[Measurement]:
        for model, tables in case.models.items():
            table = tables.relearning
            last = (table["step"] == table["step"].max()) & (table["part"] == "scored")
            yield mean_measurement(
                case, "forget", model, np.asarray(table["hit"][last], dtype=float), table["entity"][last]
            )
