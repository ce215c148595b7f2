"""Jensen-Shannon distance of next-token distributions to the gold twin, which never saw the target [0, 1], lower is better."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from tasks.evaluation.distances import distances_to
from tasks.evaluation.metric import Case, Measurement, Metric


@dataclass(frozen=True)
class JsGold(Metric):
    better: ClassVar = {"": "lower"}

    def measure(self, case: Case) -> Iterator[Measurement]:
        return distances_to(case, "gold", ["base", "unlearned"])
