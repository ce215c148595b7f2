"""D: the target's distance from the centroid of unknown entities over that of a typical unknown entity, per sentence.

[0, ∞), 1 is ideal: near 0 the target has collapsed onto the mean, where no unknown entity sits; well above 1 it was
thrown out of the distribution. The centroid is of reference entities, the typical one of held-out entities.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tasks.evaluation.metric import Case, Measurement, Metric, mean_measurement
from tasks.evaluation.probing import panels, places


@dataclass(frozen=True)
class Typicality(Metric):
    better: ClassVar = {"forget": "toward 1"}

    def measure(self, case: Case) -> Iterator[Measurement]:
        for model, tables in case.models.items():
            for place in places(tables):
                ratios, targets = [], []
                for panel in panels(case, tables, place):
                    own = np.linalg.norm(panel.target_states - panel.centre, axis=-1)
                    typical = np.linalg.norm(panel.unknown_states - panel.centre[:, None], axis=-1).mean(1)
                    ratios += list(own / typical)
                    targets += [panel.target] * len(own)
                yield mean_measurement(case, "forget", model, np.array(ratios), np.array(targets), site=place.name)
