"""Knownness as one direction per site, and the target's place among unknown entities along it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.evaluation.metric import Case, Tables, vectors

POSITIONS = ("name_last", "prompt_last")
KNOWN_ROLES = ("retain", "retain_held_out", "neighbour")


@dataclass(frozen=True)
class Place:
    """A site at a position."""

    site: str
    position: str

    @property
    def name(self) -> str:
        return f"{self.site}@{self.position}"

    def rows(self, table: Mapping[str, Any]) -> np.ndarray:
        """Rows of a table of states at this position."""
        return np.flatnonzero(np.asarray(table["position"]) == self.position)


def places(tables: Tables) -> Iterator[Place]:
    """Every site at every position."""
    sites = sorted((name for name in tables.states if name.startswith("residual_")), key=lambda name: int(name[9:]))
    for position in POSITIONS:
        for site in sites:
            yield Place(site, position)


def knownness_direction(case: Case, population: Mapping[str, Any], place: Place) -> np.ndarray:
    """[D] of a model's population: mean difference of known and unknown reference entities, per entity type and then averaged, in units of the
    pooled variance of each coordinate; targets and other candidates are left out."""
    rows = place.rows(population)
    states = vectors(population, place.site)[rows]
    entities = population["entity"][rows]
    roles = np.array([case.roles.get(entity, "") for entity in entities])
    kinds = np.array([case.types[entity] for entity in entities])
    known, unknown = np.isin(roles, KNOWN_ROLES), roles == "unknown_reference"
    gaps, variances = [], []
    for kind in np.unique(kinds):
        here, there = states[known & (kinds == kind)], states[unknown & (kinds == kind)]
        if len(here) and len(there):
            gaps.append(here.mean(0) - there.mean(0))
            variances.append((here.var(0) + there.var(0)) / 2)
    return np.mean(gaps, 0) / (np.mean(variances, 0) + 1e-6)


@dataclass(frozen=True, eq=False)
class Panel:
    """A target's prompts against the same prompts of unknown held-out entities of its type."""

    target: str
    target_states: np.ndarray
    """[P, D]."""
    unknown_states: np.ndarray
    """[P, E, D]."""
    centre: np.ndarray
    """[P, D]: mean of the unknown reference entities on each prompt."""


def panels(case: Case, tables: Tables, place: Place) -> Iterator[Panel]:
    """One panel a target."""
    rows = place.rows(tables.states)
    states = vectors(tables.states, place.site)[rows]
    sentence = sentence_of(tables.answers)
    questions = tables.states["question"][rows]
    entities = tables.states["entity"][rows]
    table: dict[str, dict[tuple[str, int], int]] = {}
    for row, (entity, question) in enumerate(zip(entities, questions, strict=True)):
        if int(question) in sentence:
            table.setdefault(entity, {})[sentence[int(question)]] = row
    for target in sorted(entity for entity, role in case.roles.items() if role == "target"):
        prompts = sorted(table.get(target, {}))
        groups = {
            role: [e for e in sorted(table) if case.roles.get(e) == role and case.types[e] == case.types[target]
                   and all(prompt in table[e] for prompt in prompts)]
            for role in ("unknown_held_out", "unknown_reference")
        }  # fmt: skip
        if not prompts or not all(groups.values()):
            continue
        gathered = {
            role: states[[[table[e][prompt] for e in members] for prompt in prompts]]
            for role, members in groups.items()
        }
        yield Panel(
            target,
            states[[table[target][prompt] for prompt in prompts]],
            gathered["unknown_held_out"],
            gathered["unknown_reference"].mean(1),
        )


def sentence_of(answers: Mapping[str, np.ndarray]) -> dict[int, tuple[str, int]]:
    """Question -> (relation, template)."""
    return {
        int(question): (relation, int(template))
        for question, relation, template in zip(
            answers["question"], answers["relation"], answers["template"], strict=True
        )
    }
