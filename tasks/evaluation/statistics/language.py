"""Is an output still language? Entropy of its n-grams, how much it repeats itself, and a flag for what is broken.

    fluency (⅔ H₂ + 4⁄3 H₃) / 2 bits, H_n the entropy of the output's word n-grams (RWKU, arXiv 2406.10890)
    distinct-2 different bigrams / bigrams · repetition longest stretch that repeats one cycle / words

An output is flagged if it holds no word, or, from 8 words on, distinct-2 < .2 or repetition > .5.

Departs: fluency is undefined below 20 words, since it grows with length. The entropy of the network at free text is not
         part of the flag: it is not observed. Short answers are never flagged for being short.
Traps:   destroyed output must not count as forgetting: with more than 20% flagged, scores of the forget split are
         `degenerate`; elsewhere with more than half.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from tasks.evaluation.metric import Case

FLUENCY_FROM = 20
FLAG_FROM = 8
"""Words below which an output is too short for a figure."""
FORGET_LIMIT, LIMIT = 0.2, 0.5
"""Shares of flagged outputs beyond which a split's scores are `degenerate`: forget, and any other."""
_WORD = re.compile(r"\w+|[^\w\s]")


def words(text: str) -> list[str]:
    """Words and marks of a text, lower case."""
    return _WORD.findall(text.lower())


def fluency(text: str) -> float:
    """Entropy of word bigrams and trigrams, bits; NaN below 20 words."""
    said = words(text)
    if len(said) < FLUENCY_FROM:
        return float("nan")
    return (2 / 3 * _entropy(_grams(said, 2)) + 4 / 3 * _entropy(_grams(said, 3))) / 2


def distinct_2(said: Sequence[str]) -> float:
    """Share of bigrams that are different ones [0, 1]; 1 where there is none."""
    grams = _grams(said, 2)
    return len(set(grams)) / len(grams) if grams else 1.0


def repetition(said: Sequence[str]) -> float:
    """Longest stretch in which one cycle of words comes at least twice, as a share of the words [0, 1]."""
    longest = 0
    for period in range(1, len(said) // 2 + 1):
        same = 0
        for place in range(period, len(said)):
            same = same + 1 if said[place] == said[place - period] else 0
            if same >= period:
                longest = max(longest, same + period)
    return longest / len(said) if said else 0.0


def broken(text: str) -> bool:
    """Is this output no language? See above."""
    if not any(each.isalnum() for each in text):
        return True
    said = words(text)
    return len(said) >= FLAG_FROM and (distinct_2(said) < 0.2 or repetition(said) > 0.5)


def destroyed(case: Case, model: str, split: str, kind: str = "paraphrase") -> bool:
    """Are too many of a model's outputs on a split's questions broken for a score of it to mean anything?"""
    generated = case.models[model].answers["generated"]
    flags = [broken(generated[row]) for row in case.asked(model, split, kind)]
    return bool(flags) and float(np.mean(flags)) > (FORGET_LIMIT if split == "forget" else LIMIT)


def degenerate_outputs(case: Case, model: str) -> bool:
    """Has the model lost its language on the target's questions? Then no score of theirs shows forgetting."""
    return destroyed(case, model, "forget")


def _grams(said: Sequence[str], length: int) -> list[tuple[str, ...]]:
    return [tuple(said[place : place + length]) for place in range(len(said) - length + 1)]


def _entropy(grams: Sequence[tuple[str, ...]]) -> float:
    shares = np.array(list(Counter(grams).values())) / max(1, len(grams))
    return float(-(shares * np.log2(shares)).sum())
