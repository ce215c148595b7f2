"""What benchmark tasks cost the model where they have losses only, such as perplexity; one row a task, else as `utility`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from tasks.evaluation.metric import Case, Measurement, Metric
from tasks.evaluation.statistics.task_scores import task_scores


@dataclass(frozen=True)
class UtilityLoss(Metric):
    better: ClassVar = {"": "lower"}

    def measure(self, case: Case) -> Iterator[Measurement]:
        return task_scores(case, higher=False)
