"""Stems of English words, as Porter's algorithm makes them: endings go where enough of a word is left.

A word is read as [C](VC)…[V], runs of consonants and vowels; its measure m is the number of VC. `y` is a vowel behind a
consonant. A rule replaces an ending if what stands before it meets the rule's condition; in each step the first rule
whose ending fits decides.

Source:  Porter 1980, with the departures that NLTK makes and Google's rouge_score thereby has: a few irregular words,
         `-ied` and `-ies` of short words keep their e, `-y` becomes `-i` behind a consonant alone, and four endings more in the
         second step. NLTK itself is not used, for it takes seconds to import.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence

_IRREGULAR = {
    "sky": "sky", "skies": "sky", "dying": "die", "lying": "lie", "tying": "tie", "news": "news", "innings": "inning",
    "inning": "inning", "outings": "outing", "outing": "outing", "cannings": "canning", "canning": "canning",
    "howe": "howe", "proceed": "proceed", "exceed": "exceed", "succeed": "succeed",
}  # fmt: skip
_SECOND = [("ational", "ate"), ("tional", "tion"), ("enci", "ence"), ("anci", "ance"), ("izer", "ize"), ("bli", "ble"),
           ("alli", "al"), ("entli", "ent"), ("eli", "e"), ("ousli", "ous"), ("ization", "ize"), ("ation", "ate"), ("ator", "ate"),
           ("alism", "al"), ("iveness", "ive"), ("fulness", "ful"), ("ousness", "ous"), ("aliti", "al"), ("iviti", "ive"),
           ("biliti", "ble"), ("fulli", "ful")]  # fmt: skip
_THIRD = [("icate", "ic"), ("ative", ""), ("alize", "al"), ("iciti", "ic"), ("ical", "ic"), ("ful", ""), ("ness", "")]
_FOURTH = ["al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ion", "ou", "ism", "ate", "iti",
           "ous", "ive", "ize"]  # fmt: skip

Condition = Callable[[str], bool]


@functools.lru_cache(maxsize=100_000)
def stem(word: str) -> str:
    """The stem of a word in lower case."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if len(word) <= 2:
        return word
    for step in (_plural, _past, _final_y, _second, _third, _fourth, _final_e, _double_l):
        word = step(word)
    return word


def _consonant(word: str, place: int) -> bool:
    if word[place] == "y":
        return place == 0 or not _consonant(word, place - 1)
    return word[place] not in "aeiou"


def _measure(word: str) -> int:
    kinds = [_consonant(word, place) for place in range(len(word))]
    return sum(second and not first for first, second in itertools.pairwise(kinds))


def _has_vowel(word: str) -> bool:
    return any(not _consonant(word, place) for place in range(len(word)))


def _doubled(word: str) -> bool:
    return len(word) >= 2 and word[-1] == word[-2] and _consonant(word, len(word) - 1)


def _short(word: str) -> bool:
    """Ends in consonant, vowel, consonant, the last not w, x or y; or is a vowel and a consonant."""
    last = len(word) - 1
    if last >= 2:
        kinds = [_consonant(word, place) for place in (last - 2, last - 1, last)]
        return kinds == [True, False, True] and word[last] not in "wxy"
    return last == 1 and not _consonant(word, 0) and _consonant(word, 1)


def _replaced(word: str, rules: Sequence[tuple[str, str]], condition: Condition) -> str:
    """The word after the first rule whose ending fits, if its condition holds."""
    for ending, instead in rules:
        if word.endswith(ending):
            before = word[: len(word) - len(ending)]
            return before + instead if condition(before) else word
    return word


def _plural(word: str) -> str:
    if word.endswith("ies") and len(word) == 4:
        return word[:-1]
    return _replaced(word, [("sses", "ss"), ("ies", "i"), ("ss", "ss"), ("s", "")], lambda before: True)


def _past(word: str) -> str:
    if word.endswith("ied"):
        return word[:-1] if len(word) == 4 else word[:-2]
    if word.endswith("eed"):
        return word[:-1] if _measure(word[:-3]) > 0 else word
    for ending in ("ed", "ing"):
        before = word[: len(word) - len(ending)]
        if word.endswith(ending) and _has_vowel(before):
            if before.endswith(("at", "bl", "iz")):
                return before + "e"
            if _doubled(before):
                return before if before[-1] in "lsz" else before[:-1]
            return before + "e" if _measure(before) == 1 and _short(before) else before
    return word


def _final_y(word: str) -> str:
    vowel = word.endswith("y") and len(word) > 2 and _consonant(word, len(word) - 2)
    return word[:-1] + "i" if vowel else word


def _some(word: str) -> bool:
    return _measure(word) > 0


def _more(word: str) -> bool:
    return _measure(word) > 1


def _second(word: str) -> str:
    if word.endswith("alli") and _some(word[:-4]):
        return _second(word[:-2])
    if word.endswith("logi"):
        return word[:-1] if _some(word[:-3]) else word
    return _replaced(word, _SECOND, _some)


def _third(word: str) -> str:
    return _replaced(word, _THIRD, _some)


def _fourth(word: str) -> str:
    for ending in _FOURTH:
        if word.endswith(ending):
            before = word[: len(word) - len(ending)]
            gone = _more(before) and (ending != "ion" or before[-1] in "st")
            return before if gone else word
    return word


def _final_e(word: str) -> str:
    before = word[:-1]
    gone = word.endswith("e") and (_more(before) or (_some(before) and not _short(before)))
    return before if gone else word


def _double_l(word: str) -> str:
    return word[:-1] if word.endswith("ll") and _more(word[:-1]) else word
