"""How little of an answer must be given for the model to write the rest, 1 - k/T; mean over held-out questions [0, 1].

Site `public` is the variant of public code, which never falls below 1/T.
Source, departs, traps: see `statistics/memorisation`.
State: `missing_reference` without tokens; answers without a scored token are left out, never 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from tasks.evaluation.metric import Case, Measurement, Metric
from tasks.evaluation.statistics.asked import per_answer
from tasks.evaluation.statistics.memorisation import extraction_strength, public_extraction_strength


@dataclass(frozen=True)
class ExtractionStrength(Metric):
    better: ClassVar = {"forget": "lower", "": "higher"}

    def measure(self, case: Case) -> Iterator[Measurement]:
        yield from per_answer(case, lambda tokens: extraction_strength(tokens["hit"]))
        yield from per_answer(case, lambda tokens: public_extraction_strength(tokens["hit"]), site="public")
