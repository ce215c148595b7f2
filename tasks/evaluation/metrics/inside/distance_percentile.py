"""d(target, centre) as a percentile of d(e, centre) over held-out unknown entities e, in the same sentences [0, 1].

The centre is the mean of the unknown reference entities in the model's own space, so no direction is needed; toward .5.
Near 0 the target has collapsed onto the mean, where no unknown entity sits; near 1 it stands apart, as a known entity
or one thrown out of the distribution does. `typicality` is the same as a ratio.

The interval resamples prompts and the unknown entities. `saturated` at 0 or 1, `degenerate` without unknown entities
in the target's sentences.

Source:   ours.
Traps:    high for a known target as well as for one that was expelled: `knownness_percentile` tells which.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from tasks.evaluation.internals.calibration import distance_pools, place_among_unknown
from tasks.evaluation.metric import Case, Measurement, Metric
from tasks.evaluation.probing import places


@dataclass(frozen=True)
class DistancePercentile(Metric):
    better: ClassVar = {"": "toward 0.5"}

    def measure(self, case: Case) -> Iterator[Measurement]:
        for model, tables in case.models.items():
            for place in places(tables):
                yield place_among_unknown(case, model, place, distance_pools(case, tables, place))
