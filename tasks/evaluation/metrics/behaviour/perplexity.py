"""exp(Σ NLL / Σ tokens) over general text that no loss has seen: the answers taught about entities of the long tail; where
there is none, for facts of a source, the second halves of neutral sentences.

[1, ∞), lower is better; beyond 1e4 the model is `degenerate`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tasks.evaluation.intervals import cluster_bootstrap
from tasks.evaluation.metric import Case, Measurement, Metric

LIMIT = 1e4


@dataclass(frozen=True)
class Perplexity(Metric):
    better: ClassVar = {"": "lower"}

    def measure(self, case: Case) -> Iterator[Measurement]:
        for model, tables in case.models.items():
            loss, tokens = np.asarray(tables.general["nll"]), np.asarray(tables.general["tokens"])
            if not len(loss):
                yield Measurement("general", model, np.nan, np.nan, np.nan, 0, state="degenerate")
                continue

            def perplexity(rows: np.ndarray, loss: np.ndarray = loss, tokens: np.ndarray = tokens) -> float:
                return float(np.exp(min(loss[rows].sum() / tokens[rows].sum(), 700.0)))

            value = perplexity(np.arange(len(loss)))
            low, high = cluster_bootstrap(
                tables.general["entity"],
                perplexity,
                draws=min(case.draws, 200),
                confidence=case.confidence,
                seed=case.seed,
            )
            yield Measurement(
                "general", model, value, low, high, len(loss), state="ok" if value < LIMIT else "degenerate"
            )
