"""Whether a model still prefers the right answer to plausible wrong ones, from mean NLLs ℓ (nats per token).

    r = exp( ℓ(right) - mean_i ℓ(wrong i) ),   the geometric mean of P(wrong) / P(right) per token; (0, ∞), small = truth preferred

Source:  TOFU, Maini et al. 2024, arXiv 2401.06121: the ratio of its aggregation script and logs.
Departs: nothing here. TOFU also has an arithmetic ratio, of mean probabilities: another number, used nowhere in this project.
Traps:   r → 1/r and r → r/(1 + r) keep a rank test between models, min(r, 1/r) and the arithmetic ratio do not.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def log_truth_ratio(right: float, wrong: Sequence[float] | np.ndarray) -> float:
    """log r of one question from the NLL of its right answer and of at least one wrong one; see above."""
    return float(right) - float(np.mean(wrong))


def undecided(log_ratio: np.ndarray) -> np.ndarray:
    """min(r, 1/r) [0, 1]: 1 = neither preferred. The ratio's form for questions that are to be forgotten."""
    return np.exp(-np.abs(log_ratio))


def preferred(log_ratio: np.ndarray) -> np.ndarray:
    """max(0, 1 - r) [0, 1]: 1 = the right answer by far. The ratio's form for questions that are to be kept."""
    return np.maximum(0.0, -np.expm1(np.minimum(log_ratio, 1.0)))


def truth_share(log_ratio: np.ndarray) -> np.ndarray:
    """1 / (1 + r) [0, 1]: right / (right + wrong), .5 = undecided."""
    return np.exp(-np.logaddexp(0.0, log_ratio))


def option_probability(right: float, wrong: Sequence[float] | np.ndarray) -> float:
    """e^-ℓ(right) over the sum for all options [0, 1]; chance is 1 / (1 + number of wrong ones)."""
    every = -np.array([right, *wrong], dtype=float)
    return float(np.exp(every[0] - np.logaddexp.reduce(every)))
