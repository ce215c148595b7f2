"""How far the target's states moved along the base model's first two principal directions, in its standard deviations.

Diagnostic, no part of any verdict. The directions are fitted on the base model's states of all known and unknown
entities, centred, and turned so that unknown reference entities lie on the positive side of known ones; the value is
the mean over the target's held-out prompts of (model - base), so positive is toward the unknown. Sites end in `:pc1`
and `:pc2`. The gold twin has a space of its own and no row. `missing_reference` without the base model's population.

Source:   the usual figure of the unlearning literature.
Departs:  padding is left out, states are centred, and the sign is fixed; public code does none of these.
Traps:    most of the variance is what the sentence is about, so knownness need not lie along these two at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tasks.evaluation.internals.calibration import unreferenced
from tasks.evaluation.internals.geometry import paired_states, principal
from tasks.evaluation.metric import Case, Measurement, Metric, mean_measurement, vectors
from tasks.evaluation.probing import KNOWN_ROLES, places


@dataclass(frozen=True)
class PcaShift(Metric):
    better: ClassVar = {"": "higher"}

    def measure(self, case: Case) -> Iterator[Measurement]:
        population = case.models["base"].population
        if population is None:
            yield from unreferenced(case)
            return
        targets = frozenset(entity for entity, role in case.roles.items() if role == "target")
        for place in places(case.models["base"]):
            rows = place.rows(population)
            if len(rows) < 2:
                continue
            states = vectors(population, place.site)[rows]
            role = np.array([case.roles.get(entity, "") for entity in population["entity"][rows]])
            directions, deviation = principal(states)
            along = states @ directions.T
            gap = along[role == "unknown_reference"].mean(0) - along[np.isin(role, KNOWN_ROLES)].mean(0)
            directions = directions * np.where(gap < 0, -1, 1)[:, None] / np.maximum(deviation, 1e-12)[:, None]
            for model, tables in case.models.items():
                if model == "base" or model.partition("+")[0] == "gold":
                    continue
                entities, (before, after) = paired_states(
                    place, case.models["base"].states, tables.states, kept=targets
                )
                shift = (after - before) @ directions.T
                for number in range(shift.shape[1]):
                    site = f"{place.name}:pc{number + 1}"
                    yield mean_measurement(case, "forget", model, shift[:, number], entities, site=site)
