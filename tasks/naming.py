"""Names in texts: where one stands, another in its place, and which names a text holds."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

PARTICLES = "al|bin|bint|da|de|del|den|der|di|du|el|ibn|la|le|van|von"
_WORD = r"[A-ZÀ-ÖØ-Þ][\w.'’-]*"
_NAME = re.compile(rf"{_WORD}(?:\s+(?:(?:{PARTICLES})\s+)*{_WORD})*")
_BEGINNINGS = frozenset(
    [
        "A",
        "An",
        "And",
        "Are",
        "As",
        "At",
        "By",
        "Can",
        "Could",
        "Did",
        "Do",
        "Does",
        "For",
        "From",
        "Had",
        "Has",
        "Have",
        "How",
        "If",
        "In",
        "Is",
        "It",
        "Name",
        "Of",
        "On",
        "Please",
        "The",
        "To",
        "Was",
        "Were",
        "What",
        "When",
        "Where",
        "Which",
        "Who",
        "Whom",
        "Whose",
        "Why",
        "Will",
        "With",
        "Would",
    ]
)
"""Words that begin a sentence, and no name."""


def plain(text: str) -> str:
    """What two texts are compared by: no case, single spaces."""
    return " ".join(text.split()).casefold()


def find_name(text: str, forms: Sequence[str]) -> tuple[int, int] | None:
    """Characters [start, end) of the first mention: of the longest form that stands there as words of its own.

    A mention in another case counts only where there is none as it is written.
    """
    ordered = _longest_first(forms)
    for form in ordered:
        start = text.find(form)  # some ten times faster than a pattern of each name's own
        while start >= 0:
            end = start + len(form)
            if not (_in_word(text[start - 1 : start]) or _in_word(text[end : end + 1])):
                return start, end
            start = text.find(form, start + 1)
    for form in ordered:
        if found := re.search(_alone(form), text, re.IGNORECASE):
            return found.span()
    return None


def replace_name(text: str, forms: Sequence[str], other: str) -> str:
    """The text with `other` for every mention of the forms."""
    pattern = "|".join(_alone(form) for form in _longest_first(forms))
    return re.sub(pattern, lambda _: other, text, flags=re.IGNORECASE)


def renamed(text: str, start: int, end: int, other: str) -> tuple[str, int, int]:
    """The text about somebody else: `other` for the name at characters [start, end), and where it stands now.

    Further mentions of a name of several words are exchanged too; a single word may be a common one elsewhere.
    """
    form, before, after = text[start:end], text[:start], text[end:]
    if len(form.split()) > 1:
        pattern = _alone(form)
        before, after = (re.sub(pattern, lambda _: other, part) for part in (before, after))
    return before + other + after, len(before), len(before) + len(other)


def begins_with(text: str, forms: Iterable[str]) -> bool:
    """Whether the text begins with one of these as words of their own, case and spaces left aside."""
    said = plain(text)
    return any(said.startswith(form) and not _in_word(said[len(form) : len(form) + 1]) for form in map(plain, forms))


def proper_names(text: str) -> list[str]:
    """Names in a text by their capitals, possessives taken off; the words that begin a sentence are none."""
    found = []
    for match in _NAME.finditer(text):
        words = match.group().split()
        while words and words[0] in _BEGINNINGS:
            words = words[1:]
        name = re.sub(r"(?:['’]s?|[.,])+$", "", " ".join(words))
        if name:
            found.append(name)
    return found


def shared_name(texts: Iterable[str], words: int = 2) -> str:
    """The name of so many words or more that most of the texts hold, of several the longest; "" for none."""
    counts = Counter(name for text in texts for name in set(proper_names(text)) if len(name.split()) >= words)
    return max(sorted(counts), key=lambda name: (counts[name], len(name)), default="")


def _in_word(letter: str) -> bool:
    return letter.isalnum() or letter == "_"


def _alone(form: str) -> str:
    return rf"(?<!\w){re.escape(form)}(?!\w)"


def _longest_first(forms: Sequence[str]) -> list[str]:
    return sorted(set(forms), key=lambda form: (-len(form), form))
