"""Which questions are scored again, and whether two ways to score them agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from storage.records import UsageError

TOLERANCE = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 2e-1}
"""By the weights' dtype: nats a token by which two ways to compute the same may differ (other kernels, other batches)."""


def chosen_rows(questions: Mapping[str, Any], count: int) -> list[int]:
    """Rows of the question table in held-out wordings: so many about the targets, as many about all others, spread evenly."""
    held_out = np.flatnonzero(np.asarray(questions["set"]) == "paraphrase")
    target = np.asarray(questions["split"])[held_out] == "forget"
    parts = (held_out[target], held_out[~target])
    spread = [part[np.linspace(0, len(part) - 1, min(count, len(part))).round().astype(int)] for part in parts]
    return [int(row) for row in np.concatenate(spread)]


def check_same_tokens(
    expected: Sequence[Sequence[int]], found: Sequence[Sequence[int]], begin: Sequence[int], where: str
) -> None:
    """That the saved tokenizer reads the texts as the base model's; `begin` may stand before.

    Raises: UsageError where it does not.
    """
    pairs = [(list(wanted), list(ids)) for wanted, ids in zip(expected, found, strict=True)]
    wrong = [(wanted, ids) for wanted, ids in pairs if wanted not in (ids, [*begin, *ids])]
    if wrong:
        raise UsageError(
            f"the tokenizer saved in {where} reads {len(wrong)} of {len(pairs)} prompts otherwise than the base model's: "
            f"{wrong[0][1]} where {wrong[0][0]} was expected; copy the base model's tokenizer files into that folder, and "
            "report its family"
        )


def check_same_scores(
    observed: Float[np.ndarray, " n"], reread: Float[np.ndarray, " n"], tokens: Sequence[int], dtype: str, what: str
) -> Float[np.ndarray, " n"]:
    """How far apart the log-probabilities are, nats a token.

    Raises: UsageError where one is further apart than `TOLERANCE` allows, or no number.
    """
    apart = np.abs(reread - observed) / np.maximum(np.asarray(tokens), 1)
    beyond = ~(apart <= TOLERANCE[dtype])
    if beyond.any():
        worst = int(np.argmax(np.where(np.isfinite(apart), apart, np.inf)))
        raise UsageError(
            f"{what} scores {int(beyond.sum())} of {len(apart)} answers otherwise than the run did: expected at most "
            f"{TOLERANCE[dtype]:g} nats a token apart ({dtype}), found {apart[worst]:.3g} (log-probability "
            f"{reread[worst]:.4f} for {observed[worst]:.4f}); make the model again (`sae-unlearn run --refresh "
            "alignment`), and if that does not help, report its family and version"
        )
    return apart
