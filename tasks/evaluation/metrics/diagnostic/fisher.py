"""Trace of the Fisher information of the answers in each block, over the base model's [0, ∞); 1 = as before.

Diagnostic, no part of any verdict: a model that is sure of an answer, right or silenced, has gradients of another size
for many reasons. A site a block (`block_l`); splits forget and neighbours; gold is shown beside.
Source, departs: see `internals/gradients`. The interval resamples entities. `missing_reference` without gradients.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tasks.evaluation.metric import ALL_BLOCKS, Case, Measurement, Metric, mean_measurement
from tasks.evaluation.statistics.asked import missing


@dataclass(frozen=True)
class Fisher(Metric):
    better: ClassVar = {"forget": "toward gold", "": "toward 1"}
    reads: ClassVar = frozenset({"gradients"})

    def measure(self, case: Case) -> Iterator[Measurement]:
        base = case.models["base"].gradients
        for model, tables in case.models.items():
            mine = tables.gradients
            if base is None or mine is None:
                if "+" not in model:
                    yield missing("forget", model)
                continue
            for split in ("forget", "neighbours"):
                for layer in sorted({int(each) for each in mine["layer"]} - {ALL_BLOCKS}):
                    before, after = (
                        np.flatnonzero((each["split"] == split) & (each["layer"] == layer)) for each in (base, mine)
                    )
                    typical = float(base["squared"][before].mean()) if len(before) else 0.0
                    values = mine["squared"][after] / typical if typical else np.array([])
                    clusters = mine["entity"][after] if typical else np.array([])
                    yield mean_measurement(case, split, model, values, clusters, site=f"block_{layer}")
