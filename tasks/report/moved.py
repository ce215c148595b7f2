"""Which latents moved most at the target, and on whom they fire."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.report.latent_map import Encoder, Entities, entity_means
from tasks.report.scoring import site_words

FIRES_ON = 3
"""Entities named for a latent."""
SILENT = 1e-6
"""Mean activation at or below which a latent does not fire on an entity."""


@dataclass(frozen=True)
class MovedLatent:
    """One latent at the last prompt token: mean activations, over prompts and then over entities."""

    site: str
    latent: int
    kind: str
    """`known` or `unknown` where it was selected as such, else empty."""
    before: float
    after: float
    known: float
    unknown: float
    known_rate: float
    """Share of known entities it fires on [0, 1]."""
    unknown_rate: float
    fires_on: tuple[tuple[str, str], ...]
    """(name, role) of the entities with the largest activation before unlearning."""

    @property
    def label(self) -> str:
        """The short name, e.g. `layer 2 · 317`."""
        return f"{site_words(self.site)} · {self.latent}"


def moved_latents(
    states: Mapping[str, Mapping[str, Any]],
    encoders: Mapping[str, Encoder],
    who: Entities,
    selection: Mapping[str, Any],
    count: int,
) -> list[MovedLatent]:
    """The `count` latents with the largest change at the targets, over all sites, largest first.

    Changes are compared in units of the mean activation of a firing latent at its site.
    states: model -> columns entity and, per site, vectors [N, D]; encoders: site -> activations, 0 where silent.
    """
    kinds = {
        (str(site), int(latent)): str(kind)
        for site, latent, kind in zip(selection["site"], selection["latent"], selection["kind"], strict=True)
    }
    found: list[tuple[float, MovedLatent]] = []
    for site, encode in encoders.items():
        found += _moved_at(site, encode, states, who, kinds, count)
    found.sort(key=lambda entry: (-entry[0], entry[1].site, entry[1].latent))
    return [latent for _, latent in found[:count]]


def _moved_at(
    site: str,
    encode: Encoder,
    states: Mapping[str, Mapping[str, Any]],
    who: Entities,
    kinds: Mapping[tuple[str, int], str],
    count: int,
) -> list[tuple[float, MovedLatent]]:
    ids, before = entity_means(states["base"], site, encode)
    ids_after, after = entity_means(states["unlearned"], site, encode)
    at_target = before[_rows(ids, who.targets)]
    at_target_after = after[_rows(ids_after, who.targets)]
    if not len(at_target) or not len(at_target_after):
        return []
    known = before[_rows(ids, who.with_role("retain", "retain_held_out", "neighbour"))]
    unknown = before[_rows(ids, who.with_role("unknown_reference", "unknown_held_out"))]
    firing = before[before > SILENT]
    scale = float(firing.mean()) if firing.size else 1.0
    old, new = at_target.mean(axis=0), at_target_after.mean(axis=0)
    change = np.abs(new - old) / scale
    latents = np.argsort(-np.round(change, 6), kind="stable")[:count]
    return [
        (
            float(change[latent]),
            MovedLatent(
                site=site,
                latent=int(latent),
                kind=kinds.get((site, int(latent)), ""),
                before=float(old[latent]),
                after=float(new[latent]),
                known=_mean(known[:, latent]),
                unknown=_mean(unknown[:, latent]),
                known_rate=_mean(known[:, latent] > SILENT),
                unknown_rate=_mean(unknown[:, latent] > SILENT),
                fires_on=_fires_on(before[:, latent], ids, who),
            ),
        )
        for latent in latents
        if change[latent] > 0
    ]


def _fires_on(activations: np.ndarray, ids: Sequence[str], who: Entities) -> tuple[tuple[str, str], ...]:
    order = np.argsort(-activations, kind="stable")
    named = [ids[row] for row in order if activations[row] > SILENT and ids[row] in who.roles][:FIRES_ON]
    return tuple((who.names.get(entity, entity), who.roles[entity]) for entity in named)


def _rows(ids: Sequence[str], wanted: Sequence[str]) -> list[int]:
    place = {entity: row for row, entity in enumerate(ids)}
    return [place[entity] for entity in wanted if entity in place]


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")
