"""What the model still achieves on benchmark tasks, by lm-evaluation-harness; one row a task, site the task's name.

Formula:  the task's own leading metric: the first it lists of which more is better; of an aggregated group, the group's.
Range:    the metric's, mostly [0, 1]. Higher is better. Split `general`.
Interval: normal, from the standard error that the harness gives.
Source:   lm-evaluation-harness, whose task names and versions `utility.parquet` keeps.
Traps:    models are compared on the same examples, so their intervals overlap long before a difference is chance;
          tasks whose metrics are all losses stand in `utility_loss`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from tasks.evaluation.metric import Case, Measurement, Metric
from tasks.evaluation.statistics.task_scores import task_scores


@dataclass(frozen=True)
class Utility(Metric):
    better: ClassVar = {"": "higher"}

    def measure(self, case: Case) -> Iterator[Measurement]:
        return task_scores(case, higher=True)
