"""Two-sided permutation p of "the target is one more unknown entity", by how known it looks (0, 1]; higher is better.

    p = share of {target, unknown entities} whose |A_e - 1/2| is at least the target's

A_e: share of wins of entity e against the others in the same sentences, by the projection on the knownness direction.
Exact for one target; for several, unknown entities are drawn in their places. It has no interval.

`degenerate` where the base model's own A is below .7, `missing_reference` without the base model's population.

Source:   ours; see `knownness_percentile`.
Traps:    at least 1 / (E + 1); a high p says that nothing was found, not that there is nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tasks.evaluation.internals.calibration import directions, knownness_pools, permutation_p, powered, unreferenced
from tasks.evaluation.metric import Case, Measurement, Metric


@dataclass(frozen=True)
class KnownnessP(Metric):
    better: ClassVar = {"": "higher"}

    def measure(self, case: Case) -> Iterator[Measurement]:
        if case.models["base"].population is None:
            yield from unreferenced(case)
        for place, direction in directions(case):
            for model, tables in case.models.items():
                pools = knownness_pools(case, tables, place, direction.score(model))
                value = permutation_p(pools, case.draws, case.seed) if pools else np.nan
                count = sum(pool.shape[1] - 1 for pool in pools)
                state = "ok" if pools else "degenerate"
                found = Measurement("forget", model, value, np.nan, np.nan, count, place.name, state)
                yield powered(found, direction.power)
