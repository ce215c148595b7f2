"""One number for what a model can still do: the harmonic mean of its parts [0, 1], higher is better.

Source:  TOFU, Maini et al. 2024, arXiv 2401.06121: nine parts, three kinds of question times probability, ROUGE-L recall and
         mean max(0, 1 - r).
Departs: a part that is no number is an error; elsewhere it passes through.
Traps:   one zero makes it 0, whatever the others are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def harmonic_mean(parts: Sequence[float] | Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """Harmonic mean over the first axis; parts: [P] or [P, draws], each ≥ 0. Raises ArithmeticError for NaN, infinity or a negative."""
    values = np.asarray(parts, dtype=float)
    if not len(values):
        raise ArithmeticError("a harmonic mean of no parts")
    if not np.isfinite(values).all() or (values < 0).any():
        raise ArithmeticError(
            f"a harmonic mean needs finite parts from 0 up, got {np.round(values.reshape(len(values), -1)[:, 0], 4).tolist()}"
        )
    zero = (values == 0).any(axis=0)
    with np.errstate(divide="ignore"):
        return np.where(zero, 0.0, len(values) / (1 / np.where(zero, 1.0, values)).sum(axis=0))
