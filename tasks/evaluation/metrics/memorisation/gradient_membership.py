"""AUC of the gradient-norm attack: answers about the target against those about held-out unknown entities.

    score = -mean over the weights' tensors of ‖∇ loss‖₂, higher = more like what was learned

[0, 1]: 1 = remembered, .5 = no different, below = over-unlearned; the gold twin's value is the one to come to.
Source: see `internals/gradients`. Departs: only the blocks' weights. The interval resamples entities of both groups.
State: `missing_reference` without gradients or unknown entities; `degenerate` where all scores are equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tasks.evaluation.intervals import interval
from tasks.evaluation.metric import ALL_BLOCKS, Case, Measurement, Metric
from tasks.evaluation.statistics.asked import missing
from tasks.evaluation.statistics.membership import auc, resampled_aucs


@dataclass(frozen=True)
class GradientMembership(Metric):
    better: ClassVar = {"": "toward gold"}
    reads: ClassVar = frozenset({"gradients"})

    def measure(self, case: Case) -> Iterator[Measurement]:
        for model, tables in case.models.items():
            table = tables.gradients
            if table is None and "+" in model:
                continue
            if table is None:
                yield missing("forget", model)
                continue
            whole = table["layer"] == ALL_BLOCKS
            members, others = (
                np.flatnonzero(whole & (table["split"] == split)) for split in ("forget", "unknown_held_out")
            )
            if not len(members) or not len(others):
                yield missing("forget", model, state="missing_reference" if len(members) else "degenerate")
                continue
            first, second = -table["norm"][members], -table["norm"][others]
            if not np.isfinite([*first, *second]).all():
                raise ArithmeticError(f"gradient norms of '{model}' are not finite")
            draws = resampled_aucs(
                first, second, table["entity"][members], table["entity"][others], draws=case.draws, seed=case.seed
            )
            low, high = interval(draws, case.confidence)
            state = "degenerate" if np.ptp([*first, *second]) == 0 else "ok"
            yield Measurement("forget", model, auc(first, second), low, high, len(first) + len(second), state=state)
