"""Stored states as an autoencoder's latents: how far the selected latents fire, and how well they describe the states.

Three tables of one model, over the rows of its table of states:

    latents   question, entity, position, site, kind (known | unknown | random), firing, margin:
              share of the kind's latents that are on (activation above 1e-6) [0, 1], and the mean over them of what is
              positive of the pre-activation
    quality   site, position, entity, count, residue, scatter: rows, summed squared error of the reconstruction, and
              summed squared distance from the mean of all rows; the fraction of variance unexplained of any entities
              is the sum of the one over the sum of the other
    active    site, position, entity, latent, fired: rows on which a latent is on; those never on are left out

`random` are as many other latents that fired about as often in the starting model: what a change of all latents does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from storage.records import UsageError
from tasks.models.sae import Autoencoder
from tasks.models.states import from_stored

ON = 1e-6
"""A latent is on where its activation is above this."""
CHUNK = 512
"""Rows encoded at once: memory stays flat however many rows or latents there are."""
NEAREST = 8
"""A random latent is drawn from so many of the nearest firing rate."""


def firing_rates(statistics: Mapping[str, Any], sizes: Mapping[str, int]) -> dict[str, Float[np.ndarray, " K"]]:
    """Per site, the share of rows of known and unknown entities on which each latent is on.

    statistics  columns of the selection's `statistics.parquet`; a latent absent from a group of rows is off there.
    sizes       site -> K.
    """
    rates: dict[str, np.ndarray] = {}
    groups = np.isin(statistics["group"], ("known", "unknown"))
    for site, size in sizes.items():
        here = groups & (np.asarray(statistics["site"]) == site)
        keys = [np.asarray(statistics[name])[here] for name in ("position", "type", "group", "half", "count")]
        rows = sum(key[-1] for key in set(zip(*keys, strict=True)))
        fired = np.bincount(
            np.asarray(statistics["latent"])[here], weights=np.asarray(statistics["fired"])[here], minlength=size
        )
        rates[site] = fired / max(rows, 1)
    return rates


def latents_by_kind(
    selection: Mapping[str, Any], rates: Mapping[str, Float[np.ndarray, " K"]], seed: int = 0
) -> dict[str, dict[str, np.ndarray]]:
    """Site -> kind -> latents: those selected, and `random` ones of nearly the same firing rates, one for each.

    The same for every model, since the rates are the starting model's.
    """
    sites, kinds = np.asarray(selection["site"]), np.asarray(selection["kind"])
    found: dict[str, dict[str, np.ndarray]] = {}
    for site in sorted(set(sites.tolist())):
        here = sites == site
        latents = np.asarray(selection["latent"])
        found[site] = {str(kind): np.unique(latents[here & (kinds == kind)]) for kind in sorted(set(kinds[here]))}
        found[site]["random"] = _of_like_rate(np.unique(latents[here]), rates[site], seed)
    return found


def _of_like_rate(chosen: np.ndarray, rates: np.ndarray, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    free = np.setdiff1d(np.arange(len(rates)), chosen)
    taken: list[int] = []
    for latent in chosen[: len(free)]:
        near = free[np.lexsort((free, np.abs(rates[free] - rates[latent])))][:NEAREST]
        pick = int(generator.choice(near))
        taken.append(pick)
        free = free[free != pick]
    return np.array(sorted(taken), dtype=np.int64)


@torch.no_grad()
def view_latents(
    states: Mapping[str, Any],
    autoencoders: Mapping[str, Autoencoder],
    kinds: Mapping[str, Mapping[str, Sequence[int] | np.ndarray]],
) -> dict[str, dict[str, Any]]:
    """The tables `latents`, `quality` and `active`, each sorted.

    states        question, position, entity and a column [N, D] per site, as stored.
    autoencoders  site -> autoencoder; sites that the states lack are an error of the caller's.
    kinds         see `latents_by_kind`.
    """
    question, entity = np.asarray(states["question"]), np.asarray(states["entity"])
    position = np.asarray(states["position"])
    views: list[dict[str, Any]] = []
    quality: list[dict[str, Any]] = []
    active: list[dict[str, Any]] = []
    for site in sorted(autoencoders):
        for where in sorted(set(position.tolist())):
            rows = np.flatnonzero(position == where)
            names, which = np.unique(entity[rows].astype(str), return_inverse=True)
            seen = _look(from_stored(np.asarray(states[site])[rows]), autoencoders[site], kinds.get(site, {}), which)
            place = {"site": site, "position": where}
            for kind, (firing, margin) in seen.by_kind.items():
                about = {"question": question[rows], "entity": entity[rows], "kind": kind}
                views.append(_filled(len(rows), **place, **about, firing=firing, margin=margin))
            count = np.bincount(which)
            spread = {"count": count, "residue": seen.residue, "scatter": seen.scatter}
            quality.append(_filled(len(names), **place, entity=names.astype(object), **spread))
            at, latent = np.nonzero(seen.fired)
            on = {"latent": latent, "fired": seen.fired[at, latent].astype(np.int64)}
            active.append(_filled(len(at), **place, entity=names[at].astype(object), **on))
    return {
        "latents": _sorted(views, ("question", "entity", "position", "site", "kind"), ("firing", "margin")),
        "quality": _sorted(quality, ("site", "position", "entity"), ("count", "residue", "scatter")),
        "active": _sorted(active, ("site", "position", "entity", "latent"), ("fired",)),
    }


class _Seen:
    """Sums over the rows of one place."""

    def __init__(self, rows: int, entities: int, latents: int, kinds: Mapping[str, Any]) -> None:
        self.by_kind = {kind: (np.zeros(rows), np.zeros(rows)) for kind, chosen in kinds.items() if len(chosen)}
        self.residue, self.scatter = np.zeros(entities), np.zeros(entities)
        self.fired = np.zeros((entities, latents), dtype=np.int32)


def _look(
    states: Float[Tensor, "N D"],
    autoencoder: Autoencoder,
    kinds: Mapping[str, Sequence[int] | np.ndarray],
    which: np.ndarray,
) -> _Seen:
    if states.shape[1] != autoencoder.decoder_rows.shape[1]:
        raise UsageError(
            f"the autoencoder reads states of width {autoencoder.decoder_rows.shape[1]} and the model's have width "
            f"{states.shape[1]}; use an autoencoder that was trained on this model"
        )
    seen = _Seen(len(states), int(which.max()) + 1 if len(which) else 0, autoencoder.latents, kinds)
    device = autoencoder.decoder_rows.device
    mean = states.double().mean(0)
    for start in range(0, len(states), CHUNK):
        part = slice(start, start + CHUNK)
        x = states[part].to(device)
        activation = autoencoder.encode(x)
        on = activation > ON
        for kind, (firing, margin) in seen.by_kind.items():
            latents = torch.as_tensor(np.asarray(kinds[kind]), dtype=torch.long, device=device)
            firing[part] = on[:, latents].double().mean(-1).cpu().numpy()
            pre = autoencoder.pre_activations(x, latents)
            margin[part] = torch.relu(pre).double().mean(-1).cpu().numpy()
        residue = (autoencoder.decode(activation) - x).double().square().sum(-1).cpu().numpy()
        scatter = (states[part].double() - mean).square().sum(-1).numpy()
        np.add.at(seen.residue, which[part], residue)
        np.add.at(seen.scatter, which[part], scatter)
        row, latent = (each.cpu().numpy() for each in on.nonzero(as_tuple=True))
        np.add.at(seen.fired, (which[part][row], latent), 1)
    return seen


def _filled(rows: int, **columns: Any) -> dict[str, np.ndarray]:
    """Columns of one length: a text stands for itself in every row."""
    return {
        name: np.array([value] * rows, dtype=object) if isinstance(value, str) else np.asarray(value)
        for name, value in columns.items()
    }


def _sorted(parts: Sequence[Mapping[str, Any]], keys: tuple[str, ...], values: tuple[str, ...]) -> dict[str, Any]:
    """One table of several, rows in the order of the keys."""
    empty = np.array([], dtype=str)
    table = {name: np.concatenate([part[name] for part in parts]) if parts else empty for name in (*keys, *values)}
    order = np.lexsort([_comparable(table[name]) for name in reversed(keys)])
    return {name: column[order] for name, column in table.items()}


def _comparable(column: np.ndarray) -> np.ndarray:
    return column.astype(str) if column.dtype == object else column
