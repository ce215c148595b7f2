"""What a model can still do, as one number: the harmonic mean of up to seven parts [0, 1], higher is better.

Parts: {retain, neighbours} × {probability of the answer, ROUGE-L recall of the greedy one, mean max(0, 1 - r)} on held-out
questions, and the probability of general text. The count is the number of parts; split is `retain`.
Source:  TOFU, arXiv 2401.06121, whose nine parts come from retained authors, real authors and world facts.
Departs: other groups, for those do not exist here; of general text only the probability is observed; probability is e^-ℓ
         throughout, where TOFU normalises two groups over options. A target may have no neighbours: four parts then.
Traps:   one zero makes it 0; numbers with other counts cannot be compared. A part that is no number is an error.
State:   `degenerate` without retained entities; `missing_reference` without options.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tasks.evaluation.intervals import interval, resampled_means
from tasks.evaluation.metric import Case, Measurement, Metric
from tasks.evaluation.statistics.asked import column, missing, offered, outputs
from tasks.evaluation.statistics.beside_gold import ratio_of
from tasks.evaluation.statistics.rouge import rouge
from tasks.evaluation.statistics.truth import preferred
from tasks.evaluation.statistics.utility import harmonic_mean


@dataclass(frozen=True)
class ModelUtility(Metric):
    better: ClassVar = {"": "higher"}

    def measure(self, case: Case) -> Iterator[Measurement]:
        for model, tables in case.models.items():
            if tables.options is None:
                yield missing("retain", model)
                continue
            if not len(case.asked(model, "retain")):
                yield missing("retain", model, state="degenerate")
                continue
            parts = list(self._parts(case, model))
            value = float(harmonic_mean([float(np.mean(values)) for values, _ in parts]))
            drawn = [resampled_means(*each, draws=case.draws, seed=case.seed) for each in parts]
            low, high = interval(harmonic_mean(drawn), case.confidence)
            yield Measurement("retain", model, value, low, high, len(parts))

    def _parts(self, case: Case, model: str) -> Iterator[tuple[np.ndarray, list[str]]]:
        """Values and entities of every part that exists."""
        tables = case.models[model]
        options = offered(tables)
        for split in ("retain", "neighbours"):
            rows = case.asked(model, split)
            if not len(rows):
                continue
            entities = list(column(case, model, "entity", rows))
            yield np.exp(column(case, model, "log_probability", rows) / column(case, model, "tokens", rows)), entities
            recalls = [
                max(rouge(answer, said).recall_l for answer in accepted)
                for said, accepted, _ in outputs(case, model, rows, options)
            ]
            yield np.array(recalls), entities
            asked = [options[int(question)] for question in column(case, model, "question", rows)]
            ratios = [ratio_of(each) if len(each.wrong) else np.nan for each in asked]
            given = np.array([len(each.wrong) > 0 for each in asked])
            if given.any():
                yield preferred(np.array(ratios)[given]), [e for e, kept in zip(entities, given, strict=True) if kept]
        general = tables.general
        if len(general["nll"]):
            yield np.exp(-np.asarray(general["nll"]) / np.asarray(general["tokens"])), list(general["entity"])
