"""How much of an answer the model writes by itself, token by token, once it is given the right beginning.

Exact memorisation is the share of scored tokens that are the most likely ones. Extraction strength is how little of the
beginning is needed: ES = 1 - k/T, where from token k on every one is the most likely; 0 = nothing, not even the last.

Source:  Carlini et al. 2021 (extraction), as used in open-unlearning's evaluations.
Departs: public code never looks past k = T - 1, so its floor is 1/T and "nothing" looks like "the last token"; that is
         `public_extraction_strength` = max(ES, 1/T). An empty answer has no strength (an error here), it is not 0.
Traps:   frequent words are guessed without any memory: compare with a model that never saw the target.
"""

from __future__ import annotations

import numpy as np


def exact_memorisation(hits: np.ndarray) -> float:
    """Share of tokens [T] that are argmax hits [0, 1]."""
    return float(np.mean(_tokens(hits)))


def extraction_strength(hits: np.ndarray) -> float:
    """ES of an answer's tokens [T] in order; see above [0, 1]."""
    misses = np.flatnonzero(~_tokens(hits))
    return 1.0 if not len(misses) else 1.0 - (int(misses[-1]) + 1) / len(hits)


def public_extraction_strength(hits: np.ndarray) -> float:
    """ES with the floor that public code has, 1/T."""
    return max(extraction_strength(hits), 1 / len(hits))


def _tokens(hits: np.ndarray) -> np.ndarray:
    if not len(hits):
        raise ValueError("an answer without scored tokens has no memorisation")
    if not np.isin(np.asarray(hits, dtype=float), (0.0, 1.0)).all():
        raise ArithmeticError("a token's hit is neither yes nor no")
    return np.asarray(hits, dtype=bool)
