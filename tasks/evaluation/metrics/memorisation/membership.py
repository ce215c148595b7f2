"""AUC of membership attacks: the target's answers against those about held-out unknown entities, asked the same relations.

[0, 1]: 1 = remembered, .5 = no different, below = over-unlearned. A site an attack: `loss`, `zlib`, `min_k`,
`min_k_plus_plus`. What a model that never saw the target gets is the gold twin's value; without one, .5 is an assumption.
Source, departs, traps: see `statistics/membership`. The interval resamples entities of both groups.
State: `missing_reference` without tokens or unknown entities; `degenerate` where all scores are equal, and for `zlib` where
       most answers compress to less than 40 bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tasks.evaluation.intervals import interval
from tasks.evaluation.metric import Case, Measurement, Metric
from tasks.evaluation.statistics.asked import column, doubted, missing, offered
from tasks.evaluation.statistics.beside_gold import exposures
from tasks.evaluation.statistics.membership import ATTACKS, SHORT, compressed_bytes


@dataclass(frozen=True)
class Membership(Metric):
    better: ClassVar = {"": "toward gold"}

    def measure(self, case: Case) -> Iterator[Measurement]:
        for model in case.models:
            exposed = exposures(case, model)
            for attack in ATTACKS:
                found = exposed.get(attack)
                if found is None:
                    yield missing("forget", model, attack)
                    continue
                low, high = interval(found.draws, case.confidence)
                score = Measurement("forget", model, found.area, low, high, found.count, attack, found.state)
                yield doubted(score, attack == "zlib" and self._short(case, model))

    def _short(self, case: Case, model: str) -> bool:
        options = offered(case.models[model])
        questions = column(case, model, "question", case.asked(model, "forget"))
        return float(np.median([compressed_bytes(options[int(each)].accepted[0]) for each in questions] or [0])) < SHORT
