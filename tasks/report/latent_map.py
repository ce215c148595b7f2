"""Where the target stands among known and unknown entities: the two coordinates of the latent map.

    u = mean(z | known) - mean(z | unknown) over reference entities       x = (z - mean unknown)·u / u·u
    v = first principal component of what is left of z beside u           y = (z - centre)·v / its deviation

So x is 0 at the mean unknown entity and 1 at the mean known one. Both directions are fitted on entities that
are not drawn, with the model before unlearning, and stay fixed. The gold twin's space is another one: its
states are first turned into the base model's by an orthogonal map fitted on the reference entities.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Encoder = Callable[[np.ndarray], np.ndarray]
"""States [N, D] -> latents [N, K]."""

CHUNK = 1024
"""Prompts encoded at once: the latents of a large autoencoder are many."""
LEAST_AGREEMENT = 0.3
"""Share of variance of x, over entities that were not fitted, below which the gold twin is not placed on the map."""
FEWEST = 8
"""Entities of a kind below which the other types are drawn as well."""


@dataclass(frozen=True)
class Entities:
    """Who is who: id -> name, type and role."""

    names: Mapping[str, str]
    types: Mapping[str, str]
    roles: Mapping[str, str]

    def with_role(self, *roles: str, types: frozenset[str] | None = None) -> list[str]:
        """Ids that play one of the roles, sorted; of these types only, where some are given."""
        return sorted(
            entity
            for entity, role in self.roles.items()
            if role in roles and (types is None or self.types.get(entity) in types)
        )

    @property
    def targets(self) -> list[str]:
        return self.with_role("target")

    @property
    def target_types(self) -> frozenset[str]:
        return frozenset(self.types[target] for target in self.targets if target in self.types)


@dataclass(frozen=True)
class LatentMap:
    """Points [N, 2] of the latent map; for a model that is not drawn, an empty mapping."""

    site: str
    types: tuple[str, ...]
    """Types of entity drawn; () when all are."""
    known: np.ndarray
    known_after: np.ndarray
    unknown: np.ndarray
    targets: Mapping[str, Mapping[str, tuple[float, float]]]
    """model -> entity -> point."""
    agreement: float | None
    """Share of the variance of x that survives the turn from the gold twin's space; None without a gold twin."""
    spill: float
    """Median move of the drawn known entities, as a share of the targets' median move."""


def entity_means(states: Mapping[str, Any], site: str, encode: Encoder | None = None) -> tuple[list[str], np.ndarray]:
    """Entities (sorted) and their mean vectors [E, D], or mean latents [E, K], over the rows of `states`."""
    entities, rows = np.unique(np.asarray(states["entity"], dtype=str), return_inverse=True)
    vectors = states[site]
    total: np.ndarray | None = None
    for start in range(0, len(vectors), CHUNK):
        part = np.asarray(vectors[start : start + CHUNK], dtype=np.float32)
        encoded = part if encode is None else encode(part)
        if total is None:
            total = np.zeros((len(entities), encoded.shape[1]))
        np.add.at(total, rows[start : start + CHUNK], encoded)
    if total is None:
        return [], np.zeros((0, 0))
    return entities.tolist(), total / np.bincount(rows, minlength=len(entities))[:, None]


def draw_coordinates(
    states: Mapping[str, Mapping[str, Any]], site: str, encode: Encoder, who: Entities
) -> LatentMap | None:
    """The latent map of one site; None when there are too few entities to fit it.

    states: model (base, unlearned, gold) -> columns entity and, per site, vectors [N, D].
    """
    latents = {model: _by_entity(*entity_means(states[model], site, encode)) for model in ("base", "unlearned")}
    base = latents["base"]
    types: frozenset[str] | None = who.target_types
    if min(len(_there(base, who.with_role(role, types=types))) for role in ("retain", "unknown_reference")) < FEWEST:
        types = None
    fit_known = _there(base, who.with_role("retain", types=types))
    fit_unknown = _there(base, who.with_role("unknown_reference", types=types))
    targets = [target for target in who.targets if target in base and target in latents["unlearned"]]
    if len(fit_known) < 2 or len(fit_unknown) < 2 or not targets:
        return None
    place = _projection(_stack(base, fit_known), _stack(base, fit_unknown))
    known = _there(base, who.with_role("retain_held_out", "neighbour", types=types)) or fit_known
    unknown = _there(base, who.with_role("unknown_held_out", types=types)) or fit_unknown
    points = {
        model: dict(zip(targets, map(_point, place(_stack(vectors, targets))), strict=True))
        for model, vectors in latents.items()
    }
    known_before, known_after = place(_stack(base, known)), place(_stack(latents["unlearned"], known, base))
    agreement = None
    if "gold" in states:
        raw = {model: _by_entity(*entity_means(states[model], site)) for model in ("base", "gold")}
        turn = _turn(raw["base"], raw["gold"], who.with_role("retain", "unknown_reference"))
        if turn is not None:
            gold = _by_entity(*entity_means(states["gold"], site, lambda rows: encode(turn(rows))))
            tested = _there(gold, known + unknown)
            agreement = (
                _agreement(place(_stack(base, tested))[:, 0], place(_stack(gold, tested))[:, 0]) if tested else 0.0
            )
            if agreement >= LEAST_AGREEMENT:
                points["gold"] = {target: _point(place(gold[target][None])[0]) for target in _there(gold, targets)}
    moved = np.median([np.linalg.norm(_stack(latents["unlearned"], [t]) - _stack(base, [t])) for t in targets])
    kept = np.median(np.linalg.norm(_stack(latents["unlearned"], known, base) - _stack(base, known), axis=1))
    return LatentMap(
        site=site,
        types=tuple(sorted(types or ())),
        known=known_before,
        known_after=known_after,
        unknown=place(_stack(base, unknown)),
        targets=points,
        agreement=agreement,
        spill=float(kept / moved) if moved > 0 else float("nan"),
    )


def knownness_gap(states: Mapping[str, Any], site: str, who: Entities) -> float:
    """How well the base model's states at a site tell known from unknown: AUROC on entities not fitted [0, 1]."""
    vectors = _by_entity(*entity_means(states, site))
    fit = [_there(vectors, who.with_role(role)) for role in ("retain", "unknown_reference")]
    held = [
        _there(vectors, who.with_role(*roles)) for roles in (("retain_held_out", "neighbour"), ("unknown_held_out",))
    ]
    if min(map(len, fit)) < 2 or min(map(len, held)) < 2:
        return 0.5
    place = _projection(_stack(vectors, fit[0]), _stack(vectors, fit[1]))
    known, unknown = (place(_stack(vectors, entities))[:, 0] for entities in held)
    return float((known[:, None] > unknown[None, :]).mean())


def _projection(known: np.ndarray, unknown: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The map from vectors [N, K] to points [N, 2] that the module's docstring describes."""
    origin = unknown.mean(axis=0)
    along = known.mean(axis=0) - origin
    length = float(along @ along) or 1.0
    everyone = np.concatenate([known, unknown])
    centre = everyone.mean(axis=0)
    rest = everyone - centre
    rest = rest - np.outer(rest @ along / length, along)
    # The first principal component by the small Gram matrix: there are fewer entities than latents.
    _, vectors = np.linalg.eigh(rest @ rest.T)
    across = rest.T @ vectors[:, -1]
    across /= np.linalg.norm(across) or 1.0
    across *= np.sign(across[np.argmax(np.abs(across))]) or 1.0
    deviation = float((rest @ across).std()) or 1.0

    def place(vectors: np.ndarray) -> np.ndarray:
        x = (vectors - origin) @ along / length
        y = (vectors - centre) @ across / deviation
        return np.round(np.stack([x, y], axis=1), 4)

    return place


def _turn(base: Mapping[str, np.ndarray], gold: Mapping[str, np.ndarray], fitted: Sequence[str]) -> Encoder | None:
    """The orthogonal map (and shift) that takes the gold twin's states of these entities nearest to the base model's."""
    shared = [entity for entity in fitted if entity in base and entity in gold]
    if len(shared) < 2:
        return None
    source, goal = _stack(gold, shared), _stack(base, shared)
    left, _, right = np.linalg.svd((source - source.mean(axis=0)).T @ (goal - goal.mean(axis=0)))
    rotation, shift = left @ right, goal.mean(axis=0) - source.mean(axis=0) @ left @ right
    return lambda states: (states @ rotation + shift).astype(np.float32)


def _agreement(true: np.ndarray, guess: np.ndarray) -> float:
    """Share of the variance of `true` that `guess` explains, at most 1."""
    return 1.0 - float(((true - guess) ** 2).sum() / (((true - true.mean()) ** 2).sum() or 1.0))


def _by_entity(entities: list[str], vectors: np.ndarray) -> dict[str, np.ndarray]:
    return dict(zip(entities, vectors, strict=True))


def _there(vectors: Mapping[str, np.ndarray], entities: Sequence[str]) -> list[str]:
    return [entity for entity in entities if entity in vectors]


def _stack(
    vectors: Mapping[str, np.ndarray], entities: Sequence[str], otherwise: Mapping[str, np.ndarray] | None = None
) -> np.ndarray:
    return np.stack(
        [vectors[entity] if entity in vectors or otherwise is None else otherwise[entity] for entity in entities]
    )


def _point(row: np.ndarray) -> tuple[float, float]:
    return float(row[0]), float(row[1])
