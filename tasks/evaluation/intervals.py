"""Intervals by resampling entities: questions of one entity stand or fall together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


def cluster_bootstrap(
    clusters: Sequence[str], statistic: Callable[[np.ndarray], float], *, draws: int, confidence: float, seed: int
) -> tuple[float, float]:
    """Percentile interval of `statistic(rows)` when whole clusters are drawn with replacement.

    With one cluster its rows are drawn instead, and the interval covers prompts only.
    """
    names, which = np.unique(np.asarray(clusters, dtype=object).astype(str), return_inverse=True)
    generator = np.random.default_rng(seed)
    if len(names) == 1:
        values = [statistic(generator.integers(0, len(which), len(which))) for _ in range(draws)]
    else:
        members = [np.flatnonzero(which == index) for index in range(len(names))]
        values = [
            statistic(np.concatenate([members[i] for i in generator.integers(0, len(names), len(names))]))
            for _ in range(draws)
        ]
    return interval(np.array(values), confidence)


def mean_interval(
    values: np.ndarray, clusters: Sequence[str], *, draws: int, confidence: float, seed: int
) -> tuple[float, float]:
    """The same for a mean, in one matrix product."""
    return interval(resampled_means(values, clusters, draws=draws, seed=seed), confidence)


def resampled_means(values: np.ndarray, clusters: Sequence[str], *, draws: int, seed: int) -> np.ndarray:
    """Means [draws] of what is drawn; the same clusters and seed draw the same, so means can be resampled together."""
    names, which = np.unique(np.asarray(clusters, dtype=object).astype(str), return_inverse=True)
    if len(names) == 1:
        which = np.arange(len(values))
    count = int(which.max()) + 1
    sums = np.bincount(which, weights=np.asarray(values, dtype=float), minlength=count)
    sizes = np.bincount(which, minlength=count)
    drawn = np.random.default_rng(seed).integers(0, count, (draws, count))
    return sums[drawn].sum(1) / sizes[drawn].sum(1)


def interval(values: np.ndarray, confidence: float) -> tuple[float, float]:
    """Percentile interval of resampled values."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)
