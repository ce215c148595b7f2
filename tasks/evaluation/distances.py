"""Distance between the next-token distributions of two models on the same questions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tasks.evaluation.metric import SPLITS, Case, Measurement, mean_measurement


def jensen_shannon(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Jensen-Shannon distance [0, 1] of each row, the square root of the divergence in bits; first, second: log p [N, V]."""
    p, q = (_normalised(each) for each in (first, second))
    middle = (p + q) / 2
    divergence = 0.5 * (_relative(p, middle) + _relative(q, middle))
    return np.sqrt(np.clip(divergence, 0.0, 1.0))


def _normalised(log_probability: np.ndarray) -> np.ndarray:
    p = np.exp(log_probability.astype(np.float64))
    return p / p.sum(-1, keepdims=True)


def _relative(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(p > 0, p * np.log2(p / q), 0.0).sum(-1)


def distances_to(case: Case, reference: str, models: list[str]) -> Iterator[Measurement]:
    """Mean distance of each model to the reference model, per split; `missing_reference` where there is none."""
    for model in models:
        for split in (*SPLITS, "general"):
            if reference not in case.models:
                yield Measurement(split, model, np.nan, np.nan, np.nan, 0, state="missing_reference")
                continue
            mine, theirs = case.models[model].distributions, case.models[reference].distributions
            place = _places(theirs)
            of_split = np.flatnonzero(np.asarray(mine["split"]) == split)
            rows = [row for row in of_split if int(mine["question"][row]) in place]
            other = [place[int(mine["question"][row])] for row in rows]
            values = jensen_shannon(mine["log_probabilities"][rows], theirs["log_probabilities"][other])
            yield mean_measurement(case, split, model, values, mine["entity"][rows])


def _places(table: Mapping[str, Any]) -> dict[int, int]:
    return {int(question): row for row, question in enumerate(table["question"])}
