"""The part every entity plays when a target is forgotten."""

from __future__ import annotations

import numpy as np

from storage.records import UsageError
from storage.tables import Columns
from tasks.catalogue import did_you_mean
from tasks.entities.settings import RoleSettings

TARGET, NEIGHBOUR, RETAIN, RETAIN_HELD_OUT = "target", "neighbour", "retain", "retain_held_out"
UNKNOWN = {"fit": "unknown_reference", "validation": "unknown_validation", "report": "unknown_held_out"}
"""Part -> role of an unknown entity; see `tasks.entities.labels`."""
OTHER_CANDIDATE = "other_candidate"


def find_targets(names: tuple[str, ...], entities: Columns, candidates: list[str]) -> list[str]:
    """Entity ids of the targets asked for by name or id; the first candidate when none is asked for.

    Raises: UsageError for a name that is not there, twice there, or that the model does not know.
    """
    ids, labels, recall = list(entities["entity"]), list(entities["label"]), list(entities["recall"])
    if not names:
        known = [each for each in candidates if each in ids and labels[ids.index(each)] == "known"]
        if not known:
            raise UsageError("the model knows none of the world's candidates; train longer or name a target")
        return known[:1]
    found = []
    for name in names:
        places = [index for index, pair in enumerate(zip(ids, entities["name"], strict=True)) if name in pair]
        if not places:
            raise UsageError(
                f"no entity is named '{name}'; {did_you_mean(name, sorted(entities['name']))} (`sae-unlearn list targets`)"
            )
        if len(places) > 1:
            raise UsageError(
                f"{len(places)} entities are named '{name}'; give one of the ids {[ids[i] for i in places]}"
            )
        if labels[places[0]] != "known":
            raise UsageError(
                f"the model does not know '{name}' (recall {recall[places[0]]:.2f} on held-out templates), so there is "
                "nothing to forget; `sae-unlearn list targets` names entities it knows"
            )
        found.append(ids[places[0]])
    if len(set(found)) != len(found):
        raise UsageError("a target is named twice; name each once")
    return found


def assign_roles(
    targets: list[str],
    entities: Columns,
    answers: dict[str, set[tuple[str, str]]],
    candidates: set[str],
    settings: RoleSettings,
) -> dict[str, str]:
    """Entity id -> role, for every entity that is known or unknown.

    answers: entity id -> its (relation, canonical answer) pairs. A neighbour is a known entity of a target's
    type that shares such a pair with it, and half of those of the type at most are: the ones that share most. Neighbours
    and held-out entities enter no loss.
    """
    generator = np.random.default_rng(settings.role_seed)
    kind = dict(zip(entities["entity"], entities["type"], strict=True))
    target_types = {kind[target] for target in targets}
    shared = set().union(*(answers[target] for target in targets))
    neighbours = _neighbours(entities, {*targets, *candidates}, target_types, answers, shared, settings.role_seed)
    roles: dict[str, str] = {}
    free = []
    for entity, label, half in zip(entities["entity"], entities["label"], entities["half"], strict=True):
        if entity in targets:
            roles[entity] = TARGET
        elif label == "unknown":
            roles[entity] = UNKNOWN[half]
        elif label == "known" and entity in candidates:
            roles[entity] = OTHER_CANDIDATE
        elif entity in neighbours:
            roles[entity] = NEIGHBOUR
        elif label == "known":
            free.append(entity)
    same = [entity for entity in generator.permutation(free) if kind[entity] in target_types]
    other = [entity for entity in generator.permutation(free) if kind[entity] not in target_types]
    half = settings.retain // 2
    chosen = set(same[: min(half, len(same) // 2)])
    chosen |= set(other[: min(settings.retain - len(chosen), len(other) // 2 + 1)])
    roles |= {entity: RETAIN if entity in chosen else RETAIN_HELD_OUT for entity in free}
    return roles


def _neighbours(
    entities: Columns,
    left_out: set[str],
    types: set[str],
    answers: dict[str, set[tuple[str, str]]],
    shared: set[tuple[str, str]],
    seed: int,
) -> set[str]:
    """Known entities of the types with an answer of the targets; of more than half of all, those with the most, then drawn."""
    alike = [
        entity
        for entity, kind, label in zip(entities["entity"], entities["type"], entities["label"], strict=True)
        if label == "known" and kind in types and entity not in left_out
    ]
    found = [entity for entity in alike if answers[entity] & shared]
    if 2 * len(found) <= len(alike):
        return set(found)
    order = np.random.default_rng([seed, 1]).permutation(len(found))
    ranked = sorted(order, key=lambda place: -len(answers[found[place]] & shared))
    return {found[place] for place in ranked[: len(alike) // 2]}
