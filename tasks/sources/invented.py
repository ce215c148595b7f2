"""Names of people, places and works that are not: parts of real ones put together anew."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np

from tasks.naming import plain

VOWELS = frozenset("aeiouyàáâãäåæèéêëìíîïòóôõöøùúûüý")
TRIES = 40
"""Draws for each name that is wanted, before the next way of putting parts together is tried."""


def invent_names(names: Sequence[str], count: int, taken: Collection[str], seed: int) -> list[str]:
    """Up to `count` names like the given ones, none of which is in `taken` (compared without case).

    Of names with several words, all but the last come from one and the last from another with as many words. Where
    that gives too few, and for single words, a beginning of one and an end of another are joined where a vowel meets a
    consonant. Fewer come back where there are no more.
    """
    generator = np.random.default_rng([seed, len(names)])
    done = {plain(name) for name in (*taken, *names)}
    invented: list[str] = []
    for combine in (_exchanged, _blended):
        for name in _pairs(names, combine, generator, TRIES * (count - len(invented))):
            if len(invented) < count and plain(name) not in done:
                done.add(plain(name))
                invented.append(name)
    return invented


def _pairs(
    names: Sequence[str], combine: Callable[[str, str], str], generator: np.random.Generator, tries: int
) -> Iterator[str]:
    """Names made of two others: of all pairs where they are few, else of so many that are drawn."""
    size = len(names)
    places = generator.permutation(size * size) if size * size <= tries else generator.integers(size * size, size=tries)
    for place in places:
        first, second = divmod(int(place), size)
        if first != second and (name := combine(names[first], names[second])):
            yield name


def _exchanged(one: str, other: str) -> str:
    mine, theirs = one.split(), other.split()
    return " ".join([*mine[:-1], theirs[-1]]) if len(mine) == len(theirs) > 1 else ""


def _blended(one: str, other: str) -> str:
    mine, theirs = one.split(), other.split()
    if len(mine) != len(theirs):
        return ""
    beginning, end = _halves(mine[-1])[0], _halves(theirs[-1])[1]
    return " ".join([*mine[:-1], beginning + end]) if beginning and end else ""


def _halves(word: str) -> tuple[str, str]:
    """The word in two, nearest its middle behind a vowel and before a consonant; ("", "") for too short a word."""
    low = word.casefold()
    seams = [
        place
        for place in range(2, len(low) - 1)
        if low[place - 1] in VOWELS and low[place].isalpha() and low[place] not in VOWELS
    ]
    if not seams:
        return "", ""
    seam = min(seams, key=lambda place: (abs(2 * place - len(low)), place))
    return word[:seam], word[seam:]
