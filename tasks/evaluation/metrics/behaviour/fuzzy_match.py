"""Share of held-out questions whose greedy answer is near an accepted one [0, 1]: names by token-set ratio > 90, numbers
within their relation's tolerance.

Site `chance` (of the base model only, since no model enters it): what one constant guess a relation gets, the guess that
fits most questions about the other splits' entities.
Source:  Ferrando et al. 2024, arXiv 2411.14257. Departs: tolerances are by relation of this world; see `matching`.
Traps:   a list of names passes, and a year ±5 is easily guessed: read it beside `chance`.
State:   `degenerate` where the base model itself answers less than half, or where more than a fifth of a model's outputs
         about the target (elsewhere half) are no language; `missing_reference` without options.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tasks.answers.matching import constant_guess, fuzzy
from tasks.evaluation.metric import SPLITS, Case, Measurement, Metric, mean_measurement
from tasks.evaluation.statistics.asked import PLAIN, column, offered, outputs, per_output


@dataclass(frozen=True)
class FuzzyMatch(Metric):
    better: ClassVar = {"forget": "lower", "": "higher"}

    def measure(self, case: Case) -> Iterator[Measurement]:
        yield from per_output(case, fuzzy)
        if case.models["base"].options is not None:
            yield from self._chance(case)

    def _chance(self, case: Case) -> Iterator[Measurement]:
        base = case.models["base"]
        options = offered(base)
        kinds, splits = (np.asarray(base.answers[name]) for name in ("set", "split"))
        for split in SPLITS:
            given: dict[str, list[list[str]]] = defaultdict(list)
            for _, accepted, relation in outputs(
                case, "base", np.flatnonzero((kinds == PLAIN) & (splits != split)), options
            ):
                given[relation].append(accepted)
            guess = {relation: constant_guess(accepted, relation)[0] for relation, accepted in given.items()}
            rows = case.asked("base", split)
            hits = [
                fuzzy(guess.get(relation, ""), accepted, relation)
                for _, accepted, relation in outputs(case, "base", rows, options)
            ]
            entities = column(case, "base", "entity", rows)
            yield mean_measurement(case, split, "base", np.array(hits), entities, site="chance")
