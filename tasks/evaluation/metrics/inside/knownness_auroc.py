"""P(the target looks more known than an unknown entity in the same sentence) [0, 1]; .5 = cannot be told apart.

The score is the projection on the knownness direction, fitted on other entities of the starting model; the gold twin,
trained apart, has a space and so a direction of its own. Above .5 the target still looks known, below .5 it was pushed
past the unknown ones, which can be told apart just as well.
The interval resamples prompts and unknown entities. `degenerate` where the starting model's own value is below .7.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tasks.evaluation.intervals import interval
from tasks.evaluation.metric import Case, Measurement, Metric
from tasks.evaluation.probing import knownness_direction, panels, places

NO_POWER = 0.7


@dataclass(frozen=True)
class KnownnessAuroc(Metric):
    better: ClassVar = {"forget": "toward 0.5"}

    def measure(self, case: Case) -> Iterator[Measurement]:
        population = case.models["base"].population
        if population is None:
            yield Measurement("forget", "base", np.nan, np.nan, np.nan, 0, state="missing_reference")
            return
        twin = case.models["gold"].population if "gold" in case.models else None
        for place in places(case.models["base"]):
            shared = knownness_direction(case, population, place)
            own = knownness_direction(case, twin, place) if twin else shared
            results = {
                model: self._one(case, model, place, own if model.startswith("gold") else shared)
                for model in case.models
            }
            powerless = not results["base"].value >= NO_POWER
            for result in results.values():
                yield result if not powerless else Measurement(**{**vars(result), "state": "degenerate"})

    def _one(self, case: Case, model: str, place, direction: np.ndarray) -> Measurement:  # type: ignore[no-untyped-def]
        generator = np.random.default_rng(case.seed)
        values, drawn, count = [], [], 0
        for panel in panels(case, case.models[model], place):
            target, unknown = panel.target_states @ direction, panel.unknown_states @ direction
            wins = (target[:, None] > unknown) + 0.5 * (target[:, None] == unknown)
            prompts, entities = wins.shape
            values.append(wins.mean())
            count += wins.size
            rows = generator.integers(0, prompts, (case.draws, prompts))
            columns = generator.integers(0, entities, (case.draws, entities))
            drawn.append([wins[np.ix_(row, column)].mean() for row, column in zip(rows, columns, strict=True)])
        if not values:
            return Measurement("forget", model, np.nan, np.nan, np.nan, 0, place.name, "degenerate")
        low, high = interval(np.mean(drawn, 0), case.confidence)
        return Measurement("forget", model, float(np.mean(values)), low, high, count, place.name)
