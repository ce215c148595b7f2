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


CENSUS = {
    "tiny": Census(known=8, never_seen=8, long_tail=8, candidates=2),
    "small": Census(known=100, never_seen=134, long_tail=1000, candidates=4),
    "medium": Census(known=300, never_seen=300, long_tail=2000, candidates=8),
    "large": Census(known=600, never_seen=600, long_tail=2300, candidates=16),
}
"""By size of the world, per type of entity."""
FEWEST_NEIGHBOURS = 3
"""Known entities, no candidates, that must share a taught answer with a candidate (fewer in a tiny world)."""
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
    candidates = _candidates(members, CENSUS[size], seed)
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


def _candidates(members: Sequence[Member], census: Census, seed: int) -> frozenset[str]:
    """Known entities to hold out of the gold twin: the best known of those with enough neighbours."""
    chosen: set[str] = set()
    for kind in RELATIONS:
        known = [member for member in members if member.type == kind and member.exposure == "known"]
        shared = Counter(fact for member in known for fact in _taught(member))
        neighbours = {
            member.entity: sum(shared[fact] - 1 for fact in _taught(member)) for member in known
        }
        # A Wikidata number is lower the earlier, which is mostly the better known, the entity.
        eligible = sorted(known, key=lambda member: (neighbours[member.entity] < FEWEST_NEIGHBOURS, int(member.entity[1:])))
        chosen |= {member.entity for member in eligible[: census.candidates]}
    return frozenset(chosen)


def _taught(member: Member) -> list[tuple[str, str]]:
    return [(relation, answers[0]) for relation, answers in member.facts.items()]


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
    entity, relations, template, held_outs, prompt, starts, ends, accepted, taughts, golds = zip(*rows, strict=True)
    return {
        "question": np.arange(len(rows), dtype=np.int64),
        "entity": list(entity),
        "relation": list(relations),
        "template": np.array(template, dtype=np.int64),
        "held_out": np.array(held_outs),
        "prompt": list(prompt),
        "name_start": np.array(starts, dtype=np.int64),
        "name_end": np.array(ends, dtype=np.int64),
        "answers": list(accepted),
        "taught": list(taughts),
        "taught_gold": list(golds),
    }
