"""Known or unknown: what the model's own answers say about each entity."""

from __future__ import annotations

import numpy as np

from tasks.entities.settings import LabelSettings


def label_entities(
    entity: np.ndarray, relation: np.ndarray, hit: np.ndarray, settings: LabelSettings
) -> dict[str, tuple[str, float]]:
    """Label (`known`, `unknown`, `dropped`) and recall [0, 1] of each entity.

    entity, relation, hit: [N], one question each. A relation is right when more than half of its questions are.
    """
    right: dict[str, dict[str, list[bool]]] = {}
    for name, kind, is_hit in zip(entity, relation, hit, strict=True):
        right.setdefault(name, {}).setdefault(kind, []).append(bool(is_hit))
    labels = {}
    for name, relations in right.items():
        answered = sum(float(np.mean(hits)) > 0.5 for hits in relations.values())
        recall = float(np.mean([each for hits in relations.values() for each in hits]))
        known = answered >= min(settings.known_relations, len(relations))
        unknown = answered <= settings.unknown_relations
        labels[name] = ("known" if known else "unknown" if unknown else "dropped", recall)
    return labels


def halves(names: list[str], types: list[str], labels: list[str], seed: int) -> list[str]:
    """`fit` or `report` for each entity, drawn within each type and label so that both halves are alike."""
    generator = np.random.default_rng(seed)
    assigned = [""] * len(names)
    for group in sorted(set(zip(types, labels, strict=True))):
        members = [index for index in range(len(names)) if (types[index], labels[index]) == group]
        for place, index in enumerate(generator.permutation(members)):
            assigned[index] = "fit" if place % 2 == 0 else "report"
    return assigned
