"""Selectivity of each model's own probe: accuracy on true labels less accuracy on control labels [-1, 1]; higher is better.

Control labels are random but fixed per entity. Both probes are trained on every other prompt of an entity and tested on
the rest. Below .1 the probe learns names, not knownness, and is not admitted (`degenerate`). About all entities but
the target, so of split `general`. The interval resamples entities, for the probes as they are.

Source:   Hewitt & Liang 2019, arXiv 1909.03368.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from tasks.evaluation.internals.probes import LEAST_SELECTIVITY, fitted
from tasks.evaluation.intervals import mean_interval
from tasks.evaluation.metric import Case, Measurement, Metric
from tasks.evaluation.probing import places


@dataclass(frozen=True)
class ProbeSelectivity(Metric):
    better: ClassVar = {"": "higher"}

    def measure(self, case: Case) -> Iterator[Measurement]:
        for model, tables in case.models.items():
            for place in places(tables) if tables.population is not None else ():
                found = fitted(case, model, place)
                if found is None or not len(found.gains):
                    nan = float("nan")
                    yield Measurement("general", model, nan, nan, nan, 0, place.name, "degenerate")
                    continue
                low, high = mean_interval(
                    found.gains,
                    [str(entity) for entity in found.entity],
                    draws=case.draws,
                    confidence=case.confidence,
                    seed=case.seed,
                )
                state = "ok" if found.selectivity >= LEAST_SELECTIVITY else "degenerate"
                yield Measurement("general", model, found.selectivity, low, high, len(found.gains), place.name, state)
