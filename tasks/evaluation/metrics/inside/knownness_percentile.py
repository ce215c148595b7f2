"""The target's percentile among held-out unknown entities by how known it looks in the same sentences [0, 1].

Every unknown entity is taken for the target in turn: its share of wins against the others, by the projection on the
knownness direction (see `knownness_auroc`), mean over prompts; the value is the share of these below the target's.
Inside .025 to .975 the target cannot be told from an unknown entity; toward .5. Where an AUROC has no null of its own,
this has: a single name may lie off .5 without being odd.

The interval resamples prompts and the unknown entities. `degenerate` where the base model's own A is below .7,
`saturated` at 0 or 1, `missing_reference` without the base model's population.

Source:   ours; a permutation null with the entity as the unit.
Traps:    with E unknown entities it is known to 1/E.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from tasks.evaluation.internals.calibration import (
    directions,
    knownness_pools,
    place_among_unknown,
    powered,
    unreferenced,
)
from tasks.evaluation.metric import Case, Measurement, Metric


@dataclass(frozen=True)
class KnownnessPercentile(Metric):
    better: ClassVar = {"": "toward 0.5"}

    def measure(self, case: Case) -> Iterator[Measurement]:
        if case.models["base"].population is None:
            yield from unreferenced(case)
        for place, direction in directions(case):
            for model, tables in case.models.items():
                pools = knownness_pools(case, tables, place, direction.score(model))
                yield powered(place_among_unknown(case, model, place, pools), direction.power)
