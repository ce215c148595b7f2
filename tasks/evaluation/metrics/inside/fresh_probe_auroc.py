"""P(the target looks more known than an unknown entity in the same sentence), by a probe of the model's own [0, 1]; toward .5.

As `probe_auroc`, but the probe is trained anew on the scored model's own known and unknown entities: what it still
finds in the target was moved to where the frozen probe does not look. For the base model and the gold twin the two are
one. A model under stress has no population and no row.

`degenerate` where the model's own probe is not admitted (AUROC on held-out entities below .7, or selectivity below .1)
or where the base model's own value is below .7; `missing_reference` without a population.

Source:   ours; the protocol is in `tasks/evaluation/internals/probes.py`.
Traps:    entities of a retain loss are among the known ones it is trained on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from tasks.evaluation.internals.calibration import unreferenced
from tasks.evaluation.internals.probed import probed
from tasks.evaluation.metric import Case, Measurement, Metric


@dataclass(frozen=True)
class FreshProbeAuroc(Metric):
    better: ClassVar = {"": "toward 0.5"}

    def measure(self, case: Case) -> Iterator[Measurement]:
        if case.models["base"].population is None:
            return unreferenced(case)
        return probed(case, {model: model for model in case.models if "+" not in model})
