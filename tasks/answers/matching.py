"""Whether an output gives an accepted answer: exactly, somewhere in it, or nearly; numbers within a tolerance.

Source:  normalisation as usual for question answering (NFKC, case, punctuation and articles away); near matches and
         tolerances as Ferrando et al. 2024 (arXiv 2411.14257) label entities: token-set ratio above 90; year of birth
         ±5, of a film ±2, of a song 0, duration ±3 min, elevation ±20 m, population ±10%.
Departs: population is in thousands here, which a relative tolerance does not see.
Traps:   the token-set ratio is 100 wherever the answer's words are a subset of the output's, so a list of names
         passes; a year ±5 is often met by one constant guess: `constant_guess` says how often.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from rapidfuzz.fuzz import token_set_ratio

NEAR = 90
"""A token-set ratio above this is a match."""
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_INTEGER = re.compile(r"(?:(?<!\w)[-\u2212])?\d+(?:[,\u202f\u00a0]\d{3}(?!\d))*")


class Tolerance(NamedTuple):
    """How far a number may be off: so many units, or so large a share of the answer."""

    units: float = 0.0
    share: float = 0.0

    def around(self, answer: int) -> float:
        return max(self.units, self.share * abs(answer))


TOLERANCES = {
    "year_of_birth": Tolerance(units=5),
    "release_year": Tolerance(units=2),
    "song_year": Tolerance(),
    "duration_min": Tolerance(units=3),
    "elevation_m": Tolerance(units=20),
    "population": Tolerance(share=0.1),
}
"""Relations whose answers are numbers."""


@functools.lru_cache(maxsize=100_000)
def normalise(text: str) -> str:
    """NFKC, casefolded, without punctuation and English articles, single spaces."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    bare = "".join(" " if unicodedata.category(each)[0] in "PS" else each for each in folded)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def exact(output: str, accepted: Sequence[str]) -> bool:
    """Is the first line an accepted answer, after normalisation of both?"""
    lines = output.strip().splitlines()
    said = normalise(lines[0]) if lines else ""
    return bool(said) and any(said == normalise(answer) for answer in accepted)


def contains(output: str, accepted: Sequence[str]) -> bool:
    """Does an accepted answer occur in the output, as whole words?"""
    said = f" {normalise(output)} "
    return any(f" {words} " in said for answer in accepted if (words := normalise(answer)))


def fuzzy(output: str, accepted: Sequence[str], relation: str = "") -> bool:
    """Is the output near an accepted answer? A number may be off by the relation's tolerance."""
    if relation in TOLERANCES:
        return any(near_number(output, answer, TOLERANCES[relation]) for answer in accepted)
    said = normalise(output)
    return any(token_set_ratio(said, words) > NEAR for answer in accepted if (words := normalise(answer)))


def near_number(output: str, answer: str, tolerance: Tolerance) -> bool:
    """Is any integer of the output close enough to that of the answer?"""
    wanted = integers(answer)
    return bool(wanted) and any(abs(said - wanted[0]) <= tolerance.around(wanted[0]) for said in integers(output))


def integers(text: str) -> list[int]:
    """Every integer in a text; thousands may be parted by commas or narrow spaces."""
    found = _INTEGER.findall(text)
    return [int(re.sub(r"[^\d-]", "", each.replace("\u2212", "-"))) for each in found]


def constant_guess(answers: Sequence[Sequence[str]], relation: str = "") -> tuple[str, float]:
    """The one answer that fits most of these questions, and the share of them that it fits [0, 1].

    Among numbers, every answer given is tried; among names, each counts with all its accepted forms.
    """
    if not answers:
        return "", 0.0
    if relation in TOLERANCES:
        said = {each[0]: found[0] for each in answers if (found := integers(each[0]))}
        wanted = np.array([said[each[0]] for each in answers if each[0] in said])
        allowed = np.array([TOLERANCES[relation].around(each) for each in wanted])
        hits = {text: int((np.abs(guess - wanted) <= allowed).sum()) for text, guess in said.items()}
    else:
        hits = dict(Counter(form for each in answers for form in {normalise(answer) for answer in each}))
    if not hits:
        return "", 0.0
    best = max(sorted(hits), key=lambda text: hits[text])
    return best, hits[best] / len(answers)
