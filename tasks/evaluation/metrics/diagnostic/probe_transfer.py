"""AUROC on one type's held-out entities of a knownness probe trained on the other types [0, 1]; higher is better.

Diagnostic, no part of any verdict: whether knownness is one direction for all types, or each type has its own. Sites are
`<site>@<position>:<type>`. It has no interval.

Source:   ours; the protocol is in `tasks/evaluation/internals/probes.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tasks.evaluation.internals.probes import transfer
from tasks.evaluation.metric import Case, Measurement, Metric
from tasks.evaluation.probing import places


@dataclass(frozen=True)
class ProbeTransfer(Metric):
    better: ClassVar = {"": "higher"}

    def measure(self, case: Case) -> Iterator[Measurement]:
        for model, tables in case.models.items():
            for place in places(tables) if tables.population is not None else ():
                for kind, (value, count) in transfer(case, model, place).items():
                    site = f"{place.name}:{kind}"
                    yield Measurement("general", model, value, np.nan, np.nan, count, site)
