"""p-value of a Kolmogorov-Smirnov test between the truth ratios of a model and of the gold twin on the target's questions.

[0, 1], higher = cannot be told from a model that never saw the target. Site `log10` holds log10 p; `forget_distance`
the distance itself. The interval is p at the bootstrap interval of D, over entities, or prompts of the only one.
Source, departs, traps: see `statistics/forget_quality`. A stressed model is compared with the twin under the same stress.
State:   `missing_reference` without gold; `saturated` at full separation; `degenerate` below 4 questions, where no
         separation could be told. Raises UsageError where the two were asked different questions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from tasks.evaluation.metric import Case, Measurement, Metric
from tasks.evaluation.statistics.beside_gold import separations
from tasks.evaluation.statistics.forget_quality import log10_p


@dataclass(frozen=True)
class ForgetQuality(Metric):
    better: ClassVar = {"": "higher"}

    def measure(self, case: Case) -> Iterator[Measurement]:
        for model, found in separations(case):
            if isinstance(found, Measurement):
                yield found
                yield replace(found, site="log10")
                continue
            value, low, high = (log10_p(d, found.count) for d in (found.distance, found.high, found.low))
            yield Measurement("forget", model, 10**value, 10**low, 10**high, found.count, state=found.state)
            yield Measurement("forget", model, value, low, high, found.count, "log10", found.state)
