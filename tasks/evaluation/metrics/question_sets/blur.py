"""ROUGE-L recall against the base model's own greedy answer where a question mixes the target with others [0, 1].

Set `combined`: split `forget` asks for the target's fact (lower), split `retain` for the other's (higher). A site a variant
(`keyword_insertion`, `concatenation`), "" for all. The base model's own value is 1.
Source: BLUR, arXiv 2506.15699 (second-hand). Departs: mixtures of our own.
Traps:  the base model's answer may be wrong: see `set_recall` at `combined` for right and wrong. Questions to which it says
        nothing are left out.
State:  `degenerate` for every model where the base model answers less than half of them rightly, and where a model's outputs
        on the set are no language.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tasks.evaluation.metric import Case, Measurement, Metric, mean_measurement
from tasks.evaluation.statistics.asked import POWER, column, doubted, groups, truths
from tasks.evaluation.statistics.language import destroyed
from tasks.evaluation.statistics.rouge import rouge_of_words, words

_KIND = "combined"


@dataclass(frozen=True)
class Blur(Metric):
    better: ClassVar = {"forget": "lower", "": "higher"}

    def measure(self, case: Case) -> Iterator[Measurement]:
        for split in groups(case, _KIND):
            rows = case.asked("base", split, _KIND)
            said = zip(column(case, "base", "question", rows), column(case, "base", "generated", rows), strict=True)
            wanted = {int(question): stems for question, text in said if (stems := words(text))}
            variants = column(case, "base", "variant", rows)
            hit = truths(column(case, "base", "hit", rows)).astype(float)
            for variant in ("", *sorted(set(variants) - {""})):
                known = float(np.mean(hit[variants == variant] if variant else hit))
                for model in case.models:
                    found = self._one(case, model, split, variant, wanted)
                    yield doubted(found, known < POWER, destroyed(case, model, split, _KIND))

    def _one(self, case: Case, model: str, split: str, variant: str, wanted: dict[int, list[str]]) -> Measurement:
        answers = case.models[model].answers
        rows = [
            row
            for row in case.asked(model, split, _KIND)
            if int(answers["question"][row]) in wanted and variant in ("", answers["variant"][row])
        ]
        values = [
            rouge_of_words(wanted[int(answers["question"][row])], words(answers["generated"][row])).recall_l
            for row in rows
        ]
        entities = column(case, model, "entity", np.array(rows, dtype=int))
        return mean_measurement(case, split, model, np.array(values), entities, site=variant)
