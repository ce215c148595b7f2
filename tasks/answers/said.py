"""Whether what a model said in its own words gives an accepted answer: strict about names, exact about years.

    read       the first sentence of the first line, without the entity's own name (an echo of the question is no answer);
               of a list, its first entry
    a name     words in a row that are the answer's, accents, case, punctuation and articles aside; where both have at
               least LONG letters, a ratio of NEAR is enough. Numbers in a name are the same
    a person   also first and last word with up to two between, or the surname alone, where no other name stands beside it
    a year     the first that is said, exactly
    quantity   the first that is said and is no year, within SHARE of the answer

Source:  the labels of Ferrando et al. 2024 (arXiv 2411.14257), whose threshold of 90 is kept.
Departs: their token-set ratio, which is 100 wherever one text's words are among the other's, so that "Ann" answers for
         "Ann Smith" and a list of names for each of them; years there are right when off by up to five.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from rapidfuzz.fuzz import ratio

from tasks.answers.matching import normalise

NEAR = 90
"""Least ratio of two names, from 0 to 100; insertions and deletions over the letters of both."""
LONG = 6
"""Letters from which on a name may differ a little."""
SHORT = 3
"""Letters up to which an answer counts only as it is written: "US" is no "us"."""
SURNAME = 4
"""Least letters of a surname that stands alone."""
SHARE = 0.1
"""How far a quantity may be off, as a share of the answer."""
YEARS = range(1000, 2101)
"""What four digits are taken for, in text and answer alike, unless the relation is a quantity."""
LISTED = 3
"""Entries from which on a statement is a list."""

QUANTITIES = (
    "altitude area budget capacity depth distance duration elevation height inhabitants length population revenue "
    "runtime weight width"
)
"""Words of a relation whose numbers are no years."""
PEOPLE = (
    "actor actress architect artist author brother cast ceo chairperson child coach composer creator daughter director "
    "editor father founder husband inventor leader manager mayor member monarch mother painter parent partner "
    "performer person president producer publisher screenwriter sibling singer sister son spouse star successor "
    "teacher wife writer who"
)
"""Words of a relation whose answers are people, who go by their surnames."""
COUNTRIES = (
    ("United States", "United States of America", "USA", "US", "U.S.", "U.S.A."),
    ("United Kingdom", "United Kingdom of Great Britain and Northern Ireland", "UK", "U.K.", "Great Britain"),
    ("China", "People's Republic of China", "PRC"),
    ("Russia", "Russian Federation"),
    ("Czech Republic", "Czechia"),
    ("Netherlands", "Holland"),
    ("Turkey", "Türkiye"),
)
"""Names of one country."""

_LETTERS = str.maketrans({"ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "đ": "d", "Đ": "D", "æ": "ae", "œ": "oe", "ı": "i"})
_SCALES = {"thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12}
_NUMBER = re.compile(
    r"(?<![\w.])(?P<sign>[-\u2212]?)(?P<whole>\d{1,3}(?:[,\u202f\u00a0]\d{3})+|\d+)(?P<part>\.\d+)?(?P<decade>s\b)?"
    r"(?:\s*(?P<scale>thousand|million|billion|trillion)\b)?",
    re.IGNORECASE,
)
_UNIT = re.compile(
    r"\s*(?:m|met(?:re|er)s?|km|kilomet(?:re|er)s?|ft|feet|kg|km²|people|inhabitants|years?|min(?:utes)?|%)?"
)
_SENTENCE = re.compile(r"(?<=[^\W_]{4})[.!?](?=\s+[^\W\d_])|(?<=\d)[.!?](?=\s+[^\W\d_])")
_PARTS = re.compile(r"\s*(?:[,;/](?!\d)|\bor\b)\s*")
_WORD = re.compile(r"[\w'’-]+")


class Number(NamedTuple):
    """A number in a text."""

    value: float
    year: bool
    """Whether it looks like a year."""


def gives(said: str, accepted: Sequence[str], *, names: Sequence[str] = (), relation: str = "") -> bool:
    """Does a statement give one of the accepted answers?

    names     the entity's own, which are not read in the statement unless they are accepted answers.
    relation  tells people and quantities by its words.
    """
    statement = _without(_statement(said), [name for name in names if fold(name) not in map(fold, accepted)])
    words = set(re.split(r"[\W_]+", relation.casefold()))
    return any(_right(statement, each, words) for answer in accepted for each in _forms(answer))


def _right(statement: str, answer: str, relation: set[str]) -> bool:
    wanted = _as_number(answer)
    if wanted is not None:
        return _near_number(statement, wanted, quantity=bool(relation & set(QUANTITIES.split())))
    if _named(statement, answer):
        return True
    return bool(relation & set(PEOPLE.split())) and _person(statement, answer)


@functools.lru_cache(maxsize=100_000)
def fold(text: str) -> str:
    """Words to compare: no accents, case, punctuation or English articles."""
    letters = unicodedata.normalize("NFKD", text.translate(_LETTERS))
    return normalise("".join(each for each in letters if not unicodedata.combining(each)))


def numbers(text: str) -> list[Number]:
    """Every number of a text; a decade ("the 1990s") is none."""
    found = []
    for match in _NUMBER.finditer(text):
        if match["decade"]:
            continue
        digits = re.sub(r"\D", "", match["whole"])
        value = float(digits + (match["part"] or "")) * _SCALES.get((match["scale"] or "").lower(), 1.0)
        bare = len(match["whole"]) == 4 and not (match["sign"] or match["part"] or match["scale"])
        found.append(Number(-value if match["sign"] else value, bare and int(digits) in YEARS))
    return found


def _as_number(answer: str) -> Number | None:
    """The answer as a number, a unit behind it aside."""
    match = _NUMBER.match(answer.strip())
    if match is None or not _UNIT.fullmatch(answer.strip()[match.end() :]):
        return None
    return next(iter(numbers(match.group())), None)


def _near_number(statement: str, wanted: Number, *, quantity: bool) -> bool:
    said = numbers(statement)
    if wanted.year and not quantity:
        return next((each.value for each in said if each.year), None) == wanted.value
    # "As of 2020, 8.8 million": a year beside a quantity says when.
    first = next((each.value for each in said if wanted.year or not each.year), None)
    return first is not None and abs(first - wanted.value) <= SHARE * abs(wanted.value)


def _named(statement: str, answer: str) -> bool:
    """Whether words in a row are the answer's, or nearly."""
    name = fold(answer)
    letters = name.replace(" ", "")
    if not letters:
        return False
    if len(letters) <= SHORT:
        return answer.strip(" .") in [word.strip(".") for word in statement.replace(",", " ").split()]
    words, size = fold(statement).split(), len(name.split())
    for length in range(max(1, size - 1), size + 2):
        for start in range(len(words) - length + 1):
            row = "".join(words[start : start + length])
            if row == letters:
                return True
            near = min(len(row), len(letters)) >= LONG and _digits(row) == _digits(letters)
            if near and ratio(row, letters) >= NEAR:
                return True
    return False


def _person(statement: str, answer: str) -> bool:
    """Whether a person is named by first and last name, or by a surname that stands alone."""
    name = fold(answer).split()
    if len(name) < 2:
        return False
    words = fold(statement).split()
    for start, word in enumerate(words):
        if word == name[0] and name[-1] in words[start + 1 : start + 4]:
            return True
    written = _WORD.findall(statement)
    for place, word in enumerate(written):
        if fold(word) == name[-1] and len(name[-1]) >= SURNAME:
            beside = written[max(0, place - 1) : place] + written[place + 1 : place + 2]
            if not any(other[:1].isupper() for other in beside):
                return True
    return False


def _statement(said: str) -> str:
    """The first sentence that is no exclamation, of the first line that is not empty; of a list, the first entry."""
    line = next((line.strip() for line in said.splitlines() if line.strip()), "")
    while line:
        end = _SENTENCE.search(line)
        sentence, line = (line, "") if end is None else (line[: end.end()], line[end.end() :].strip())
        if not (sentence.endswith("!") and line):
            parts = [part for part in _PARTS.split(sentence) if part]
            many = len(parts) >= LISTED and all(len(part.split()) <= LISTED for part in parts)
            return parts[0] if many else sentence
    return ""


def _without(statement: str, names: Sequence[str]) -> str:
    for name in sorted(names, key=len, reverse=True):
        statement = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", " ", statement, flags=re.IGNORECASE)
    return statement


def _forms(answer: str) -> tuple[str, ...]:
    """The answer, and the other names of a country."""
    name = fold(answer)
    same = next((each for each in COUNTRIES if name in map(fold, each)), ())
    return (answer, *same)


def _digits(text: str) -> str:
    return re.sub(r"\D", "", text)
