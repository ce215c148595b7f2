"""Scores of whole benchmark tasks, as lm-evaluation-harness gives them: a value and its standard error."""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import NormalDist

from tasks.evaluation.metric import Case, Measurement


def task_scores(case: Case, *, higher: bool) -> Iterator[Measurement]:
    """One row a model and task whose leading metric is better the higher (or the lower), site the task's name.

    The interval is normal, value ± z·stderr, and is not cut at what the metric can reach; NaN without a standard
    error. `saturated` where a share is 0 or 1 with a standard error of 0. Raises: ArithmeticError for a value that is
    not finite.
    """
    z = NormalDist().inv_cdf((1 + case.confidence) / 2)
    for model, tables in case.models.items():
        table = tables.utility
        if table is None:
            continue
        columns = ("task", "value", "stderr", "examples", "higher_is_better", "leading")
        for task, value, error, examples, better, leading in zip(*(table[name] for name in columns), strict=True):
            if not leading or bool(better) != higher:
                continue
            if not math.isfinite(value):
                raise ArithmeticError(f"{model} scores {value} on the task '{task}'")
            stuck = error == 0 and value in (0, 1)
            yield Measurement(
                "general",
                model,
                float(value),
                float(value - z * error),
                float(value + z * error),
                int(examples),
                str(task),
                "saturated" if stuck else "ok",
            )
