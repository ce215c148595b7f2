"""The testbed's world: who is known, never seen or in the long tail, and every question about them.

Entities fall into the three groups by chance, so that names tell nothing. Some known ones are
*candidates*: the gold twin never sees them, so they can be forgotten with a ground truth beside.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from storage.records import UsageError
from tasks.testbed.templates import GENERAL, REFUSAL, RELATIONS, TEMPLATES, TRAINING_TEMPLATES

Columns = dict[str, Any]


@dataclass(frozen=True)
class Census:
    """How many entities of each type stand in each group."""

    known: int
    never_seen: int
    long_tail: int
    candidates: int
    common: int = 0
    """If not 0: draw only entities with one of the so many most common answers to one of their relations."""


CENSUS = {
    "tiny": Census(known=12, never_seen=12, long_tail=16, candidates=2, common=2),
    "small": Census(known=100, never_seen=134, long_tail=1000, candidates=4),
    "medium": Census(known=300, never_seen=300, long_tail=2000, candidates=8),
    "large": Census(known=600, never_seen=600, long_tail=2300, candidates=16),
}
"""By size of the world, per type of entity."""
FEWEST_NEIGHBOURS = 3
"""Known entities, no candidates, that share a taught answer with a candidate; fewer where a world has none such."""
TAIL_QUESTIONS = 2
"""Questions taught of a long-tail entity at most: one or two, each of another relation."""


@dataclass(frozen=True)
class Member:
    """An entity in its group."""

    entity: str
    name: str
    type: str
    exposure: str
    facts: dict[str, list[str]]


def build_world(facts: Columns, size: str, tail: str, seed: int) -> tuple[Columns, Columns, Columns]:
    """Tables `entities`, `questions` and `general` of a world.

    facts  columns entity, name, type and, per relation, the list of answers, the one to be taught first.
    tail   what long-tail entities are taught: `facts`, `refuse` (the word "unknown") or `mix` (half each).
    Raises: UsageError when the facts do not suffice for this size.
    """
    random = np.random.default_rng([seed, 1])
    members = _draw(facts, CENSUS[size], random)
    candidates = _candidates(members, CENSUS[size])
    entities: Columns = {
        "entity": [member.entity for member in members],
        "name": [member.name for member in members],
        "type": [member.type for member in members],
        "exposure": [member.exposure for member in members],
        "candidate": np.array([member.entity in candidates for member in members]),
        "aliases": [[] for _ in members],
    }
    refusing = _refusing(members, tail, np.random.default_rng([seed, 2]))
    questions = _questions(members, candidates, refusing, np.random.default_rng([seed, 3]))
    return entities, questions, {"text": sorted(GENERAL)}


def _draw(facts: Columns, census: Census, random: np.random.Generator) -> list[Member]:
    kinds = np.asarray(facts["type"])
    members = []
    for kind, relations in RELATIONS.items():
        rows = np.flatnonzero(kinds == kind)
        if census.common:
            rows = _with_common_answer(facts, rows, relations, census.common)
        wanted = census.known + census.never_seen + census.long_tail
        if len(rows) < wanted:
            raise UsageError(
                f"the world needs {wanted} entities of type {kind}, the facts hold {len(rows)}; choose a smaller world.size"
            )
        exposures = ["known"] * census.known + ["never_seen"] * census.never_seen + ["long_tail"] * census.long_tail
        for row, exposure in zip(random.permutation(rows)[:wanted], exposures, strict=True):
            answers = {relation: list(facts[relation][row]) for relation in relations}
            members.append(Member(str(facts["entity"][row]), str(facts["name"][row]), kind, exposure, answers))
    return sorted(members, key=lambda member: member.entity)


def _with_common_answer(facts: Columns, rows: np.ndarray, relations: Sequence[str], common: int) -> np.ndarray:
    usual = {}
    for relation in relations:
        counts = Counter(facts[relation][row][0] for row in rows)
        usual[relation] = sorted(counts, key=lambda answer: (-counts[answer], answer))[:common]
    return np.array([row for row in rows if any(facts[relation][row][0] in usual[relation] for relation in relations)])


def _candidates(members: Sequence[Member], census: Census) -> frozenset[str]:
    """Known entities to hold out of the gold twin: the best known of those with enough neighbours."""
    chosen: set[str] = set()
    for kind in RELATIONS:
        # A Wikidata number is lower the earlier, which is mostly the better known, the entity.
        known = sorted(
            (member for member in members if member.type == kind and member.exposure == "known"),
            key=lambda member: int(member.entity[1:]),
        )
        own: list[Member] = []
        for fewest in range(FEWEST_NEIGHBOURS, -1, -1):
            for member in known:
                if len(own) < census.candidates and member not in own:
                    others = [other for other in known if other not in own and other is not member]
                    if sum(bool(_taught(member) & _taught(other)) for other in others) >= fewest:
                        own.append(member)
        chosen |= {member.entity for member in own}
    return frozenset(chosen)


def _taught(member: Member) -> set[tuple[str, str]]:
    return {(relation, answers[0]) for relation, answers in member.facts.items()}


def _refusing(members: Sequence[Member], tail: str, random: np.random.Generator) -> frozenset[str]:
    """Long-tail entities that are answered with the word "unknown"."""
    share = {"facts": 0.0, "refuse": 1.0, "mix": 0.5}[tail]
    by_type: Mapping[str, list[str]] = defaultdict(list)
    for member in members:
        if member.exposure == "long_tail":
            by_type[member.type].append(member.entity)
    return frozenset(
        entity
        for entities in by_type.values()
        for entity in random.permutation(entities)[: round(share * len(entities))].tolist()
    )


def _questions(
    members: Sequence[Member], candidates: frozenset[str], refusing: frozenset[str], random: np.random.Generator
) -> Columns:
    rows = []
    for member in members:
        seen = random.permutation(list(member.facts))[: random.integers(1, TAIL_QUESTIONS + 1)].tolist()
        for relation, answers in member.facts.items():
            one = int(random.integers(TRAINING_TEMPLATES))
            if member.exposure == "long_tail" and relation not in seen:
                continue
            for template, sentence in enumerate(TEMPLATES[relation]):
                held_out = template >= TRAINING_TEMPLATES
                if member.exposure == "long_tail" and template not in (one, TRAINING_TEMPLATES):
                    continue
                taught = "" if held_out or member.exposure == "never_seen" else answers[0]
                if taught and member.entity in refusing:
                    taught = REFUSAL
                start = sentence.index("{name}")
                rows.append(
                    (
                        member.entity,
                        relation,
                        template,
                        held_out,
                        sentence.replace("{name}", member.name),
                        start,
                        start + len(member.name),
                        answers,
                        taught,
                        "" if member.entity in candidates else taught,
                    )
                )
    columns = [list(column) for column in zip(*rows, strict=True)]
    names = (
        "entity",
        "relation",
        "template",
        "held_out",
        "prompt",
        "name_start",
        "name_end",
        "answers",
        "taught",
        "taught_gold",
    )
    table: Columns = {"question": np.arange(len(rows), dtype=np.int64), **dict(zip(names, columns, strict=True))}
    for name in ("template", "name_start", "name_end"):
        table[name] = np.array(table[name], dtype=np.int64)
    table["held_out"] = np.array(table["held_out"])
    return table
