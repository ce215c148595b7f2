"""ROUGE-1 and ROUGE-L of a text against a reference: recall and F1 over stemmed words [0, 1].

Recall is the share of the reference's words that are found again, in any order (1) or as the longest common
subsequence (L); F1 weighs that against the share of the prediction's words that were wanted.

Source:  Lin 2004; tokens as Google's rouge_score makes them, which TOFU's logs were made with: lower case, runs of
         anything but a-z and 0-9 part words, words of more than three letters are stemmed (Porter).
Departs: nothing.
Traps:   recall rewards length, and the reference comes first: swapped, recall is precision. Words in other scripts
         vanish, so a reference may have none; its recall is then 0, as in the source.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from tasks.evaluation.statistics.porter import stem

_APART = re.compile(r"[^a-z0-9]+")
_STEMMED_FROM = 4


@dataclass(frozen=True)
class Rouge:
    """Both measures of one prediction."""

    recall_1: float
    f1_1: float
    recall_l: float
    f1_l: float


def rouge(reference: str, prediction: str) -> Rouge:
    """ROUGE-1 and ROUGE-L of a prediction against one reference."""
    return rouge_of_words(words(reference), words(prediction))


def rouge_of_words(reference: Sequence[Hashable], prediction: Sequence[Hashable]) -> Rouge:
    """The same of words that were stemmed already."""
    shared = sum((Counter(reference) & Counter(prediction)).values())
    longest = longest_common_subsequence(reference, prediction)
    return Rouge(
        _recall(shared, reference),
        _f1(shared, reference, prediction),
        _recall(longest, reference),
        _f1(longest, reference, prediction),
    )


def words(text: str) -> list[str]:
    """Stemmed words of a text."""
    return [stem(word) if len(word) >= _STEMMED_FROM else word for word in _APART.sub(" ", text.lower()).split()]


def longest_common_subsequence(first: Sequence[Hashable], second: Sequence[Hashable]) -> int:
    """Length of the longest sequence that is left of both when items are struck out."""
    lengths = [0] * (len(second) + 1)
    for left in first:
        diagonal = 0
        for place, right in enumerate(second, start=1):
            above = lengths[place]
            lengths[place] = diagonal + 1 if left == right else max(above, lengths[place - 1])
            diagonal = above
    return lengths[-1]


def _recall(found: int, reference: Sequence[Hashable]) -> float:
    return found / len(reference) if reference else 0.0


def _f1(found: int, reference: Sequence[Hashable], prediction: Sequence[Hashable]) -> float:
    return 2 * found / (len(reference) + len(prediction)) if found else 0.0
