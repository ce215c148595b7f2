"""Can the truth ratios of a model be told from those of one that never saw the target? Two-sample Kolmogorov-Smirnov.

    D = max_t | F_model(t) - F_gold(t) |  [0, 1], lower is better;   p = P(so large a D | one distribution)  [0, 1], higher

Source:  TOFU, Maini et al. 2024, arXiv 2401.06121 (forget quality = p), with its exact distribution.
Departs: log10 p is given where p is too small for a float; questions are joined by what they ask, and refused otherwise.
Traps:   at D = 1 p is fixed by the count alone (1.9e-23 at 40, 1.1e-239 at 400): `saturated`, no ranking there. With few
         questions a p above .05 says little (at 40: D up to .30). The bootstrap's D is biased upward: near D = 0 its
         interval may lie above the value.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from storage.records import UsageError


def joined(first: Mapping[Hashable, float], second: Mapping[Hashable, float]) -> tuple[np.ndarray, np.ndarray]:
    """Values of two models in one order, by question; raises UsageError where they were not asked the same."""
    if first.keys() != second.keys():
        raise UsageError(
            f"the two models were asked different questions: {len(first.keys() & second.keys())} of {len(first)} and "
            f"{len(second)} are shared; observe both on the same set, a test between other questions means nothing"
        )
    order = sorted(first, key=str)
    return np.array([first[each] for each in order]), np.array([second[each] for each in order])


def ks_distance(first: np.ndarray, second: np.ndarray) -> float:
    """D of two samples [0, 1]."""
    if not (len(first) and len(second)):
        raise ValueError("a distance of distributions needs values on both sides")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ArithmeticError("values that are not finite have no distribution")
    first, second = np.sort(first), np.sort(second)
    every = np.concatenate([first, second])
    below = (np.searchsorted(each, every, side="right") / len(each) for each in (first, second))
    return float(np.abs(next(below) - next(below)).max())


def log10_p(distance: float, count: int) -> float:
    """log10 of the two-sided p-value of a distance D = k/n between two samples of `count` = n values each.

    p = 2 Σ_j (-1)^(j-1) C(2n, n - jk) / C(2n, n), exact at any n (Gnedenko and Korolyuk 1951).
    """
    steps = round(distance * count)
    if steps == 0:
        return 0.0
    logs = [_log_binomial(2 * count, count - place) for place in range(steps, count + 1, steps)]
    # The first term is taken out, so that what no float holds can still be told.
    rest = sum((-1) ** place * math.exp(each - logs[0]) for place, each in enumerate(logs))
    return min(0.0, (math.log(2 * rest) + logs[0] - _log_binomial(2 * count, count)) / math.log(10))


def _log_binomial(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def resampled_distances(
    first: np.ndarray, second: np.ndarray, clusters: Sequence[str] | np.ndarray, *, draws: int, seed: int
) -> np.ndarray:
    """D [draws] when whole entities are drawn with replacement, the same for both models; with one entity, its questions."""
    names, which = np.unique(np.asarray(clusters, dtype=object).astype(str), return_inverse=True)
    if len(names) == 1:
        which = np.arange(len(first))
    count = int(which.max()) + 1
    generator = np.random.default_rng(seed)
    order = np.argsort(np.concatenate([first, second]), kind="stable")
    every = np.concatenate([first, second])[order]
    last = np.r_[every[1:] != every[:-1], True]
    sign = np.r_[np.ones(len(first)), -np.ones(len(second))][order]
    row = np.r_[which, which][order]
    distances = np.empty(draws)
    for draw in range(draws):
        weight = np.bincount(generator.integers(0, count, count), minlength=count)
        steps = np.cumsum(sign * weight[row]) / weight[which].sum()
        distances[draw] = np.abs(steps[last]).max()
    return distances
