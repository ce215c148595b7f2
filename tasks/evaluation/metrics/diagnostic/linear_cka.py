"""Linear CKA of a model's states with the base model's, at the last token of entities' names [0, 1].

    ‖YᵀX‖²_F / (‖XᵀX‖_F ‖YᵀY‖_F),  columns centred, a row a question about any known or unknown entity

Diagnostic, no part of any verdict: it says how much of the space as a whole was moved (1: nothing but a rotation or a
scale), nothing of the target. Sites ending in `:gold` compare with the gold twin. The same rows for all models, thousands
of them; it has no interval. A model without a population, such as one under stress, has no row.

Source:   Kornblith et al. 2019, arXiv 1905.00414.
Traps:    biased up where rows are few: unrelated data of width 128 give .85 at 20 rows, .02 at 5,000.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tasks.evaluation.internals.geometry import linear_cka, paired_states
from tasks.evaluation.metric import Case, Measurement, Metric
from tasks.evaluation.probing import places


@dataclass(frozen=True)
class LinearCka(Metric):
    better: ClassVar = {"": "higher"}

    def measure(self, case: Case) -> Iterator[Measurement]:
        populations = {name: tables.population for name, tables in case.models.items() if tables.population is not None}
        for reference, mark in (("base", ""), ("gold", ":gold")):
            for place in places(case.models["base"]) if reference in populations else ():
                if place.position != "name_last":
                    continue
                names = [reference, *(name for name in populations if name != reference)]
                _, states = paired_states(place, *(populations[name] for name in names))
                for name, own in zip(names[1:], states[1:], strict=True):
                    value = linear_cka(own, states[0]) if len(own) > 1 else np.nan
                    state = "ok" if np.isfinite(value) else "degenerate"
                    site = f"{place.name}{mark}"
                    yield Measurement("general", name, value, np.nan, np.nan, len(own), site, state)
