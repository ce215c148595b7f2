"""P(the target looks more known than an unknown entity in the same sentence), by a frozen probe [0, 1]; toward .5.

The score is the logit of a logistic probe trained on the base model's population (the gold twin's, for the twin: it
has a space of its own), the target left out. Above .5 the target still looks known, below it was pushed past the
unknown ones, which can be told as well. The base model's own value is the ceiling.

The interval resamples prompts and unknown entities. `degenerate` where the probe is not admitted (AUROC on held-out
entities below .7, or selectivity below .1) or where the base model's own value is below .7; `missing_reference`
without a population. A model under stress is read by the same probe.

Source:   ours; the protocol is in `tasks/evaluation/internals/probes.py`.
Traps:    a target that fools only this probe was moved, not forgotten: read `fresh_probe_auroc` beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from tasks.evaluation.internals.calibration import unreferenced
from tasks.evaluation.internals.probed import probed
from tasks.evaluation.internals.probes import home_of
from tasks.evaluation.metric import Case, Measurement, Metric


@dataclass(frozen=True)
class ProbeAuroc(Metric):
    better: ClassVar = {"": "toward 0.5"}

    def measure(self, case: Case) -> Iterator[Measurement]:
        if case.models["base"].population is None:
            return unreferenced(case)
        return probed(case, {model: home_of(model) for model in case.models})
