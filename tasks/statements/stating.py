"""A model's own confident statements: what it goes on with, in the same words whichever way it is begun.

A relation is begun in several wordings. Its answer is what greedy decoding gives most often over them; kept are the
wordings that give it, two at least, where enough of their samples give it too. An answer that more than half of all
names get is a habit of the model and says nothing about one of them.

Source:     ours; agreement among samples as the sign of knowledge is that of Kuhn et al. 2023, arXiv 2302.09664.
Traps:      a confident statement may be false: forgetting it is forgetting what the model says, not what is so.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tasks.naming import begins_with, plain

BEGINNINGS: dict[str, dict[str, tuple[str, ...]]] = {
    "person": {
        "occupation": ("{name} is known as a", "By profession, {name} is a", "The occupation of {name} is"),
        "place of birth": ("{name} was born in the city of", "The birthplace of {name} is", "The town where {name} was born is"),
        "year of birth": ("{name} was born in the year", "The year of birth of {name} is", "The year in which {name} was born is"),
        "country": ("{name} is a citizen of", "The home country of {name} is", "The country that {name} comes from is"),
        "achievement": ("{name} is best known for", "What {name} is famous for is", "The best known work of {name} is"),
        "family": ("{name} is married to", "The spouse of {name} is", "The person to whom {name} is married is"),
    },
    "work": {
        "maker": ("{name} was made by", "The person who made {name} is", "The name behind {name} is"),
        "year": ("{name} came out in the year", "The year in which {name} came out is", "The release year of {name} is"),
        "genre": ("The genre of {name} is", "{name} belongs to the genre of", "As a genre, {name} is"),
        "country": ("{name} was made in the country of", "The country of origin of {name} is", "The country that {name} comes from is"),
        "main character": ("The main character of {name} is", "{name} tells the story of", "At the centre of {name} stands"),
    },
    "place": {
        "country": ("{name} lies in the country of", "The country of {name} is", "The country in which {name} lies is"),
        "region": ("{name} belongs to the region of", "The region of {name} is", "The region in which {name} lies is"),
        "language": ("The language spoken in {name} is", "In {name} people speak", "The main language of {name} is"),
        "sight": ("{name} is best known for its", "What {name} is famous for is its", "The best known sight of {name} is"),
        "water": ("{name} lies on the river", "The river that flows through {name} is", "The water beside {name} is the"),
    },
}  # fmt: skip
"""Type -> relation -> beginnings that an answer follows."""
LONGEST = 6
"""Words of an answer."""
FEWEST = 2
"""Wordings that must give the same answer."""
_END = re.compile(r"[\n.;:!?(\[\"“”]|,\s")
_NO_ANSWER = re.compile(r"\b(unknown|not known|unclear|unsure|n/a|none)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Begun:
    """A beginning about somebody."""

    name: str
    relation: str
    wording: str
    """With `{name}`."""

    @property
    def text(self) -> str:
        return self.wording.replace("{name}", self.name)


@dataclass(frozen=True)
class Statement:
    """A question about somebody as a world asks it, with the answer that the model gives."""

    name: str
    relation: str
    question: str
    answer: str
    agreement: float
    """Share of the samples that give the answer [0, 1]."""


def beginnings(names: Sequence[str], kind: str) -> list[Begun]:
    """All that is begun about these names."""
    return [
        Begun(name, relation, wording)
        for name in names
        for relation, wordings in BEGINNINGS[kind].items()
        for wording in wordings
    ]


def answer_in(text: str, name: str) -> str:
    """The answer at the beginning of a continuation; "" where it holds none."""
    words = _END.split(text.lstrip(" \"'“‘"), maxsplit=1)[0].strip(" ,'’").split()
    answer = " ".join(words)
    if not 1 <= len(words) <= LONGEST or not any(letter.isalnum() for letter in answer):
        return ""
    return "" if _NO_ANSWER.search(answer) or begins_with(answer, [name]) else answer


def confident(
    begun: Sequence[Begun], greedy: Sequence[str], sampled: Sequence[Sequence[str]], agreement: float
) -> list[Statement]:
    """The statements that are made confidently, in the order of what was begun.

    greedy, sampled  continuations of each beginning.
    """
    answers = [answer_in(text, each.name) for each, text in zip(begun, greedy, strict=True)]
    facts: dict[tuple[str, str], list[int]] = {}
    for place, each in enumerate(begun):
        facts.setdefault((each.name, each.relation), []).append(place)
    stated: dict[tuple[str, str], tuple[str, list[int], float]] = {}
    for fact, places in facts.items():
        answer, kept = _agreed(answers, places)
        if len(kept) >= FEWEST:
            said = [plain(answer_in(text, fact[0])) == plain(answer) for place in kept for text in sampled[place]]
            if (share := sum(said) / len(said)) >= agreement:
                stated[fact] = answer, kept, share
    habits = _habits(stated, len({each.name for each in begun}))
    return [
        Statement(name, relation, begun[place].text, answer, share)
        for (name, relation), (answer, kept, share) in stated.items()
        if (relation, plain(answer)) not in habits
        for place in kept
    ]


def _agreed(answers: Sequence[str], places: Sequence[int]) -> tuple[str, list[int]]:
    """The commonest answer, the first of equals, and where it is given."""
    counts = Counter(plain(answers[place]) for place in places if answers[place])
    if not counts:
        return "", []
    best = counts.most_common(1)[0][0]
    kept = [place for place in places if plain(answers[place]) == best]
    return answers[kept[0]], kept


def _habits(stated: Mapping[tuple[str, str], tuple[str, list[int], float]], names: int) -> set[tuple[str, str]]:
    """(relation, answer) that more than half of the names get."""
    counts = Counter((relation, plain(answer)) for (_, relation), (answer, *_) in stated.items())
    return {each for each, count in counts.items() if 2 * count > names}
