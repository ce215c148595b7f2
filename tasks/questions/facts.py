"""The facts that questions are made of: who plays which part, what holds of them, and how the world asks for it.

Nothing here knows where the facts come from: a relation and a type are put into words by their names
(`year_of_birth`: "year of birth"), all else is what the tables say.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import numpy as np

from tasks.questions.rows import NEW, Row, Text
from tasks.questions.settings import QuestionSettings

Table = Mapping[str, Any]
Item = TypeVar("Item")

SPLITS = {
    "target": "forget",
    "neighbour": "neighbours",
    "retain_held_out": "retain",
    "unknown_reference": "unknown_reference",
    "unknown_held_out": "unknown_held_out",
}
"""Role -> split of the questions about it."""
PEERS = ("neighbour", "retain", "retain_held_out")
"""Roles of known entities that nobody forgets and that a gold twin was taught as well."""

_ASKED = ("question", "template", "held_out", "prompt", "name_start", "name_end", "answers")


class Asked(NamedTuple):
    """A question as the world asks it."""

    question: int
    template: int
    held_out: bool
    text: Text
    answers: tuple[str, ...]


WITH_OPTIONS = ("base", "paraphrase", "multi_hop", "multi_hop_beside")
"""Sets in which wrong answers stand beside the right one, choice and reverse apart, which bring their own."""


@dataclass(frozen=True)
class Fact:
    """A relation of an entity, with every accepted answer, the canonical one first."""

    relation: str
    answers: tuple[str, ...]
    asked: tuple[Asked, ...]

    @property
    def canonical(self) -> str:
        return self.answers[0]

    @property
    def phrase(self) -> str:
        return in_words(self.relation)

    @property
    def held_out(self) -> tuple[Asked, ...]:
        """Questions whose wording no training used."""
        return tuple(each for each in self.asked if each.held_out)


@dataclass(frozen=True)
class Subject:
    """An entity, its part and its facts by relation."""

    entity: str
    name: str
    type: str
    role: str
    known: bool
    aliases: tuple[str, ...]
    facts: Mapping[str, Fact]
    invented: bool = False
    """Whether there is no such entity, so that its answers are stand-ins that hold of nobody."""

    @property
    def kind(self) -> str:
        return in_words(self.type)


@dataclass(frozen=True, eq=False)
class Facts:
    """All subjects by entity id, in the order of their ids, and what is drawn from them.

    Every draw has a generator of its own, seeded by `question_seed` and by what it is for: neither the order of
    the tables' rows nor another draw changes it.
    """

    subjects: Mapping[str, Subject]
    settings: QuestionSettings

    @cached_property
    def targets(self) -> list[Subject]:
        return self.members("forget")

    @cached_property
    def peers(self) -> list[Subject]:
        return [each for each in self.subjects.values() if each.known and each.role in PEERS]

    def members(self, split: str) -> list[Subject]:
        """Entities of a split; of the unknown ones, those of a target's type."""
        found = [each for each in self.subjects.values() if SPLITS.get(each.role) == split]
        if split.startswith("unknown"):
            types = {target.type for target in self.targets}
            return [each for each in found if each.type in types]
        return found

    def sample(self, split: str) -> list[Subject]:
        """The same, but `retain_entities` of the retained ones at most, evenly over the types."""
        return self._retained if split == "retain" else self.members(split)

    def asked(self, split: str) -> list[Subject]:
        """Of whom set `paraphrase` asks: `entities_asked` of the retained and of each half of the unknown ones at most."""
        most = self.settings.entities_asked
        if not most or not split.startswith(("retain", "unknown")):
            return self.members(split)
        if split == "retain":  # whoever is asked about elsewhere is asked about here
            most = max(most, self.settings.retain_entities)
        return self._evenly(split, most)

    @cached_property
    def _retained(self) -> list[Subject]:
        return self._evenly("retain", self.settings.retain_entities)

    def _evenly(self, split: str, count: int) -> list[Subject]:
        """So many of a split at most, evenly over the types; fewer are among those of more."""
        by_type: dict[str, list[Subject]] = defaultdict(list)
        for subject in self.members(split):
            by_type[subject.type].append(subject)
        placed = [
            (place, kind, subject.entity)
            for kind, subjects in by_type.items()
            for place, subject in enumerate(self.shuffled(subjects, split, kind))
        ]
        chosen = sorted(placed)[:count]
        return [self.subjects[entity] for entity in sorted(entity for _, _, entity in chosen)]

    def near(self, target: Subject, split: str) -> list[Subject]:
        """The sample of a split in an order drawn for this target, its own type first."""
        drawn = self.shuffled(self.sample(split), "near", target.entity, split)
        return sorted(drawn, key=lambda subject: subject.type != target.type)

    @cached_property
    def _holders(self) -> Mapping[tuple[str, str, str], frozenset[str]]:
        found: dict[tuple[str, str, str], set[str]] = defaultdict(set)
        for subject in self.subjects.values():
            for fact in () if subject.invented else subject.facts.values():
                for answer in fact.answers:
                    found[subject.type, fact.relation, plain(answer)].add(subject.entity)
        return {key: frozenset(entities) for key, entities in found.items()}

    def holders(self, type: str, relation: str, answer: str) -> frozenset[str]:
        """Ids of all entities of a type, known or not, for which the answer is an accepted one."""
        return self._holders.get((type, relation, plain(answer)), frozenset())

    @cached_property
    def _canonical(self) -> Mapping[tuple[str, str], list[str]]:
        found: dict[tuple[str, str], set[str]] = defaultdict(set)
        for peer in self.peers:
            for fact in peer.facts.values():
                found[peer.type, fact.relation].add(fact.canonical)
        return {key: sorted(answers) for key, answers in found.items()}

    def wrong_answers(self, subject: Subject, fact: Fact) -> tuple[str, ...]:
        """Canonical answers of peers of the type to the same relation, none of them accepted for this subject."""
        right = {plain(answer) for answer in fact.answers}
        known = self._canonical.get((subject.type, fact.relation), [])
        pool = _distinct(answer for answer in known if plain(answer) not in right)
        drawn = self.shuffled(pool, "wrong", subject.entity, fact.relation)
        return tuple(drawn[: self.settings.wrong_answers])

    def wrong_names(self, subject: Subject, fact: Fact, right: Iterable[str]) -> tuple[str, ...]:
        """Names of peers of the type that answer the relation otherwise."""
        taken = {plain(name) for name in (subject.name, *right)}
        mine = {plain(answer) for answer in fact.answers}
        pool = _distinct(
            peer.name
            for peer in self.peers
            if peer.type == subject.type
            and plain(peer.name) not in taken
            and (theirs := peer.facts.get(fact.relation)) is not None
            and not mine & {plain(answer) for answer in theirs.answers}
        )
        drawn = self.shuffled(pool, "wrong names", subject.entity, fact.relation)
        return tuple(drawn[: self.settings.wrong_answers])

    def shuffled(self, items: Sequence[Item], *purpose: str) -> list[Item]:
        """The items in an order drawn for this purpose; they must come in an order of their own."""
        digest = hashlib.sha256(json.dumps(purpose).encode()).digest()
        generator = np.random.default_rng([self.settings.question_seed, int.from_bytes(digest[:16], "big")])
        return [items[place] for place in generator.permutation(len(items))]

    def row(self, kind: str, variant: str, subject: Subject, fact: Fact, template: int, text: Text) -> Row:
        """A question of set `kind` about a subject's fact, still without an id."""
        split = SPLITS[subject.role]
        target = subject.entity if split == "forget" else ""
        wrong = self.wrong_answers(subject, fact) if kind in WITH_OPTIONS else ()
        return Row(
            NEW, kind, variant, split, target, subject.entity, fact.relation, template, *text, fact.answers, wrong
        )


def read_facts(entities: Table, questions: Table, labelled: Table, roles: Table, settings: QuestionSettings) -> Facts:
    """The world's tables `entities` and `questions`, the labels and the roles, joined.

    The accepted answers of a fact are those of all its questions, the canonical one that of its first question.
    """
    label = dict(zip(labelled["entity"], labelled["label"], strict=True))
    role = dict(zip(roles["entity"], roles["role"], strict=True))
    aliases = entities["aliases"] if "aliases" in entities else [()] * len(entities["entity"])
    exposures = entities["exposure"] if "exposure" in entities else [""] * len(entities["entity"])
    invented = {who for who, exposure in zip(entities["entity"], exposures, strict=True) if exposure == "invented"}
    asked: dict[str, dict[str, list[Asked]]] = defaultdict(lambda: defaultdict(list))
    for row in np.argsort(np.asarray(questions["question"]), kind="stable"):
        question, template, held_out, prompt, start, end, answers = (questions[name][row] for name in _ASKED)
        text = Text(str(prompt), int(start), int(end))
        asked[questions["entity"][row]][questions["relation"][row]].append(
            Asked(int(question), int(template), bool(held_out), text, tuple(answers))
        )
    subjects = {}
    for entity, name, kind, others in sorted(
        zip(entities["entity"], entities["name"], entities["type"], map(tuple, aliases), strict=True)
    ):
        facts = {relation: _fact(relation, found) for relation, found in asked[entity].items()}
        known = label.get(entity) == "known"
        subjects[entity] = Subject(entity, name, kind, role.get(entity, ""), known, others, facts, entity in invented)
    return Facts(subjects, settings)


def _fact(relation: str, asked: Sequence[Asked]) -> Fact:
    answers = dict.fromkeys(answer for each in asked for answer in each.answers)
    return Fact(relation, tuple(answers), tuple(asked))


def in_words(identifier: str) -> str:
    """A relation's or a type's name as words."""
    return identifier.replace("_", " ")


def plain(text: str) -> str:
    """What two answers are compared by: no case, single spaces."""
    return " ".join(text.split()).casefold()


def mentions(text: str, answers: Iterable[str]) -> bool:
    """Whether an answer stands in the text as words of their own, so that the text would give it away."""
    return any(re.search(rf"(?<!\w){re.escape(plain(answer))}(?!\w)", plain(text)) for answer in answers)


def share(one: Fact, other: Fact) -> bool:
    """Whether two facts have an accepted answer in common."""
    return bool({plain(answer) for answer in one.answers} & {plain(answer) for answer in other.answers})


def _distinct(texts: Iterable[str]) -> list[str]:
    """The texts without those that are equal but for case and spaces."""
    return list({plain(text): text for text in texts}.values())
