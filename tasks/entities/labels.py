"""Known or unknown: what the model's own answers say about each entity, and who of the unknown is compared with.

Three things look at unknown entities, each at others: latents are chosen and losses aim at those of `fit`, the stop rule
at those of `validation`, and `report` is what the evaluation rests on. The testbed has two parts of them, `fit` and
`report`, and its stop rule looks at those of `fit` that are in no loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tasks.entities.settings import LabelSettings

FEWEST = 12
"""Unknown entities of a type from which on some are set aside for the stop rule, and to which matching leaves them."""
VALIDATION = 5
"""One of so many unknown entities is set aside, and no fewer than three."""
APART = 0.1
"""Largest difference between the distributions of the lengths of known and unknown names (Kolmogorov-Smirnov)."""


def asked_rows(questions: Mapping[str, Any], entities: set[str]) -> list[int]:
    """Rows of a world's table that are asked of these entities: of each relation its held-out wordings, or all where it
    has none."""
    pairs = list(zip(questions["entity"], questions["relation"], strict=True))
    held_out = {pair for pair, each in zip(pairs, questions["held_out"], strict=True) if each}
    return [
        row
        for row, pair in enumerate(pairs)
        if pair[0] in entities and (questions["held_out"][row] or pair not in held_out)
    ]


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


def set_aside(parts: Sequence[str], types: Sequence[str], labels: Sequence[str]) -> list[str]:
    """The same parts with some of the unknown entities to `fit` moved to `validation`, where a type has enough."""
    assigned = list(parts)
    for kind in sorted(set(types)):
        unknown = [i for i, each in enumerate(labels) if each == "unknown" and types[i] == kind]
        if len(unknown) >= FEWEST:
            fit = [i for i in unknown if parts[i] == "fit"]
            for i in fit[: max(3, len(unknown) // VALIDATION)]:
                assigned[i] = "validation"
    return assigned


def unmatched(types: Sequence[str], labels: Sequence[str], tokens: Sequence[int], seed: int) -> list[int]:
    """Unknown entities to leave out so that, of each type, their names are as long as those of the known ones.

    One after the other is taken from the length that is most over-represented, until the distributions differ by no
    more than APART, or FEWEST are left.
    """
    generator = np.random.default_rng([seed, 1])
    left_out: list[int] = []
    for kind in sorted(set(types)):
        members = {label: [i for i, each in enumerate(labels) if each == label and types[i] == kind]
                   for label in ("known", "unknown")}  # fmt: skip
        if not members["known"]:
            continue
        longest = max(tokens[i] for each in members.values() for i in each)
        known = _shares([tokens[i] for i in members["known"]], longest)
        kept = [int(i) for i in generator.permutation(members["unknown"])]
        while len(kept) > FEWEST:
            excess = _shares([tokens[i] for i in kept], longest) - known
            if np.abs(np.cumsum(excess)).max() <= APART:
                break
            place = next(place for place, i in enumerate(kept) if tokens[i] == int(excess.argmax()))
            left_out.append(kept.pop(place))
    return sorted(left_out)


def _shares(lengths: Sequence[int], longest: int) -> np.ndarray:
    return np.bincount(lengths, minlength=longest + 1) / len(lengths)
