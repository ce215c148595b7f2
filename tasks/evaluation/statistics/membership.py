"""Was the model trained on this? Scores of one text from its tokens' log-probabilities, and how well they part two groups.

    loss -ℓ · zlib -ℓ / bytes of zlib(text) · min_k mean of the lowest m = max(1, ⌊.4 T⌋) log p_t
    min_k_plus_plus the same of (log p_t - μ_t) / σ_t, μ and σ² of log p under the model's own distribution, σ² ≥ 1e-6

Higher = more like a member. AUC = P(forget > hold-out) + ½ P(equal) [0, 1]: 1 remembered, .5 no different, below over-unlearned.

Source:  Yeom 2018 (loss), Carlini 2021 (zlib), Shi 2024 (min-k, PrivLeak as in MUSE, arXiv 2407.06460), Zhang 2024 (min-k++).
Departs: MUSE turns the AUC round; ⌊kT⌋ alone is an empty mean for short answers; PrivLeak and sMIA have no stand-in for a
         reference that is missing.
Traps:   zlib of a short answer is mostly header ("Paris" 13 bytes, nothing at all 8): below 40 bytes it says little.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

LOWEST = 0.4
"""Share of tokens that min-k looks at."""
SHORT = 40
"""Bytes of compressed text below which the zlib score is mostly header."""
ATTACKS = ("loss", "zlib", "min_k", "min_k_plus_plus")


def scores(log_probability: np.ndarray, mean: np.ndarray, deviation: np.ndarray, text: str) -> dict[str, float]:
    """Every attack's score of one answer; log_probability, mean, deviation: [T], nats."""
    if not len(log_probability):
        raise ValueError("an answer without scored tokens has no membership score")
    values = np.asarray(log_probability, dtype=float)
    standard = (values - mean) / np.sqrt(np.maximum(np.square(deviation), 1e-6))
    found = {
        "loss": float(values.mean()),
        "zlib": float(values.mean()) / compressed_bytes(text),
        "min_k": _lowest(values),
        "min_k_plus_plus": _lowest(standard),
    }
    if not np.isfinite(list(found.values())).all():
        raise ArithmeticError(f"membership scores are not finite: {found}")
    return found


def compressed_bytes(text: str) -> int:
    """Bytes of a text after zlib."""
    return len(zlib.compress(text.encode()))


def _lowest(values: np.ndarray) -> float:
    return float(np.sort(values)[: max(1, int(LOWEST * len(values)))].mean())


def auc(members: np.ndarray, others: np.ndarray) -> float:
    """P(member > other) + ½ P(equal)."""
    order = np.sort(others)
    below, up_to = (np.searchsorted(order, members, side=side) for side in ("left", "right"))
    return float((below + up_to).mean() / (2 * len(others)))


def resampled_aucs(
    members: np.ndarray,
    others: np.ndarray,
    member_clusters: Sequence[str] | np.ndarray,
    other_clusters: Sequence[str] | np.ndarray,
    *,
    draws: int,
    seed: int,
) -> np.ndarray:
    """AUC [draws] when entities of both groups are drawn with replacement; with one entity, its questions.

    The same clusters and seed give the same draws, so two models can be resampled together.
    """
    generator = np.random.default_rng(seed)
    first, second = _rows(member_clusters), _rows(other_clusters)
    wins = (members[:, None] > others) + 0.5 * (members[:, None] == others)
    taken = [
        generator.multinomial(int(each.max()) + 1, np.full(int(each.max()) + 1, 1 / (int(each.max()) + 1)), draws)[
            :, each
        ]
        for each in (first, second)
    ]
    total = ((taken[0] @ wins) * taken[1]).sum(1)
    return total / (taken[0].sum(1) * taken[1].sum(1))


def _rows(clusters: Sequence[str] | np.ndarray) -> np.ndarray:
    names, which = np.unique(np.asarray(clusters, dtype=object).astype(str), return_inverse=True)
    return which if len(names) > 1 else np.arange(len(which))


def privacy_leak(area: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """PrivLeak, per cent, from two AUCs: -100 remembered, 0 ideal, above 0 over-unlearned; unbounded unless gold's is .5.

    NaN where gold's AUC is 1, by which it divides.
    """
    return 100 * _ratio(np.asarray(gold) - area, 1 - np.asarray(gold))


def membership_similarity(area: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """sMIA = 1 - min(1, |AUC - AUC_gold| / AUC_gold) [0, 1], higher = nearer to gold; NaN where gold's AUC is 0."""
    return 1 - np.minimum(1, _ratio(np.abs(np.asarray(area) - gold), np.asarray(gold)))


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(below == 0, np.nan, np.asarray(above) / below)
