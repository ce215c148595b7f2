"""Share of answers that say one does not know [0, 1]. A refusal, a wrong answer and gibberish are three outcomes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from tasks.evaluation.metric import Case, Measurement, Metric, per_question


@dataclass(frozen=True)
class RefusalRate(Metric):
    better: ClassVar = {"forget": "toward gold", "": "lower"}

    def measure(self, case: Case) -> Iterator[Measurement]:
        return per_question(case, lambda answers: answers["unknown_style"])
