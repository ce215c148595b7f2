"""Share of the target's questions that at least one of k sampled answers gets right [0, 1]; held-out templates.

Site `mean` is the share of single samples that are right: what one asking gives. Temperature and k are the observation's.
Source: ours, after the many-samples view of unlearning (Scholten et al. 2024, arXiv 2410.03523). Departs: their bounds are
on the whole distribution of answers; this is its plain best of k.
Traps:  the best of k hits by luck, the more so the fewer answers there are: compare with the gold twin.
State:  `degenerate` for every model where the base model's own value is below a half; `missing_reference` without samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tasks.evaluation.metric import Case, Measurement, Metric, mean_measurement
from tasks.evaluation.statistics.asked import column, doubted, missing, powerless, truths


@dataclass(frozen=True)
class SampledRecall(Metric):
    better: ClassVar = {"": "lower"}

    def measure(self, case: Case) -> Iterator[Measurement]:
        for site in ("", "mean"):
            found = {model: self._one(case, model, site) for model in case.models}
            for each in found.values():
                yield doubted(each, powerless(found["base"]))

    def _one(self, case: Case, model: str, site: str) -> Measurement:
        samples = case.models[model].samples
        if samples is None:
            return missing("forget", model, site)
        hits: dict[int, list[bool]] = {}
        for question, hit in zip(samples["question"], truths(samples["hit"]), strict=True):
            hits.setdefault(int(question), []).append(bool(hit))
        rows = case.asked(model, "forget")
        several = [hits.get(int(question), []) for question in column(case, model, "question", rows)]
        kept = np.array([bool(each) for each in several], dtype=bool)
        values = np.array([float(np.mean(each) if site else any(each)) for each in several if each])
        return mean_measurement(case, "forget", model, values, column(case, model, "entity", rows)[kept], site=site)
