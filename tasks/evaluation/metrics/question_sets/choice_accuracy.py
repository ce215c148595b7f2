"""Share of multiple-choice questions whose canonical answer is the most probable option, per token [0, 1].

Options are compared by mean log-probability a token; ties share. Every list is asked in several orders, which are averaged.
Site `chance` (of the base model only): 1 / (number of options), the value of a model that knows nothing.
Source: as FaithUn, arXiv 2502.19207, and lm-evaluation-harness' normalised accuracy. Departs: accepted answers other than the
canonical one are no options.
Traps:  a length-normalised choice may differ from the likeliest text; near chance, models tie.
State:  `degenerate` for every model where the base model is right less than half the time, or an option has no scored
        token; `missing_reference` without options.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tasks.evaluation.metric import Case, Measurement, Metric, mean_measurement
from tasks.evaluation.statistics.asked import Offered, column, doubted, groups, missing, offered, powerless

_KIND = "choice"


@dataclass(frozen=True)
class ChoiceAccuracy(Metric):
    better: ClassVar = {"forget": "lower", "": "higher"}

    def measure(self, case: Case) -> Iterator[Measurement]:
        for split in groups(case, _KIND):
            found = {model: self._one(case, model, split) for model in case.models}
            for each in found.values():
                yield doubted(each, powerless(found["base"]))
            if case.models["base"].options is not None:
                yield self._one(case, "base", split, "chance")

    def _one(self, case: Case, model: str, split: str, site: str = "") -> Measurement:
        tables = case.models[model]
        if tables.options is None:
            return missing(split, model, site)
        options = offered(tables)
        rows = case.asked(model, split, _KIND)
        asked = [options[int(question)] for question in column(case, model, "question", rows)]
        kept = np.array([len(each.wrong) > 0 for each in asked], dtype=bool)
        asked = [each for each in asked if len(each.wrong)]
        if not all(each.scored for each in asked):
            return missing(split, model, site, "degenerate")
        values = [1 / (1 + len(each.wrong)) if site else _credit(each) for each in asked]
        return mean_measurement(
            case, split, model, np.array(values), column(case, model, "entity", rows)[kept], site=site
        )


def _credit(each: Offered) -> float:
    """1 if the canonical answer is the most probable option, a share of it if it ties, else 0."""
    if each.right > each.wrong.min():
        return 0.0
    return 1 / (1 + int((each.wrong == each.right).sum()))
