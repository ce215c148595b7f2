"""Jensen-Shannon distance of next-token distributions to the starting model [0, 1]: what the change cost the others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from tasks.evaluation.distances import distances_to
from tasks.evaluation.metric import Case, Measurement, Metric


@dataclass(frozen=True)
class JsChange(Metric):
    better: ClassVar = {"forget": "toward gold", "": "lower"}

    def measure(self, case: Case) -> Iterator[Measurement]:
        return distances_to(case, "base", [model for model in case.models if model != "base"])
