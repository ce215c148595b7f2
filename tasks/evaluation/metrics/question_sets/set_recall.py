"""Share of a question set's questions whose greedy answer is right, as recall counts it [0, 1].

A site a set: `base` (templates that were trained on), `paraphrase` (held out), `cloze`, `reverse`, `choice`, `same_answer`,
`multi_hop`, `multi_hop_beside`, `combined`; set `attack` has a metric of its own.
Source: ours; sets as FaithUn, BLUR and RWKU ask them. Departs: nothing.
Traps:  half of a yes-or-no question's answers are right by chance.
State:  `degenerate` for every model where the base model itself answers less than half of a set, and where a model's outputs
        on it are no language.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from tasks.evaluation.metric import Case, Measurement, Metric, mean_measurement
from tasks.evaluation.statistics.asked import column, doubted, groups, powerless, truths
from tasks.evaluation.statistics.language import destroyed


@dataclass(frozen=True)
class SetRecall(Metric):
    better: ClassVar = {"forget": "lower", "": "higher"}

    def measure(self, case: Case) -> Iterator[Measurement]:
        for kind in sorted(set(case.models["base"].answers["set"]) - {"attack"}):
            for split in groups(case, kind):
                found = {model: self._one(case, model, split, kind) for model in case.models}
                for model, each in found.items():
                    yield doubted(each, powerless(found["base"]), destroyed(case, model, split, kind))

    def _one(self, case: Case, model: str, split: str, kind: str) -> Measurement:
        rows = case.asked(model, split, kind)
        hits = truths(column(case, model, "hit", rows)).astype(float)
        return mean_measurement(case, split, model, hits, column(case, model, "entity", rows), site=kind)
