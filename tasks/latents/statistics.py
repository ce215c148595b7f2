"""Which latents fire, sparsely, and which of them separate known from unknown entities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tasks.latents.settings import LatentSettings
from tasks.models.sae import Autoencoder

CHUNK = 256
"""Rows encoded at once: memory stays flat however many rows there are."""
LATENTS_AT_ONCE = 65536
"""Latents encoded at once, in wider autoencoders: memory stays flat however many latents there are."""
POSITIONS = ("name_last", "prompt_last")
BY_PRE_ACTIVATION = ("standard", "jumprelu", "topk")
"""Architectures that are on where one pre-activation is large enough, and then as much as it is."""

Active = tuple[Int[Tensor, " n"], Int[Tensor, " n"], Float[Tensor, " n"]]
"""(row, latent, value) of what is on."""


@torch.no_grad()
def encode_sparse(
    autoencoder: Autoencoder, states: Float[Tensor, "N D"], latents_at_once: int = LATENTS_AT_ONCE
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(row, latent, value) of every latent that is on, by latent and then row."""
    direct = autoencoder.architecture in BY_PRE_ACTIVATION
    found = []
    for start in range(0, len(states), CHUNK):
        part = states[start : start + CHUNK].to(autoencoder.device)
        if direct:
            row, latent, value = _in_parts(autoencoder, part, latents_at_once)
        else:
            activation = autoencoder.encode(part)
            row, latent = activation.nonzero(as_tuple=True)
            value = activation[row, latent]
        found.append((row + start, latent, value))
    at, which, how_much = (torch.cat(each).cpu().numpy() for each in zip(*found, strict=True))
    order = np.argsort(which, kind="stable")  # of one latent the rows are in order already
    return at[order].astype(np.int32), which[order].astype(np.int32), how_much[order].astype(np.float32)


def _in_parts(autoencoder: Autoencoder, states: Float[Tensor, "B D"], at_once: int) -> Active:
    """What `encode` says, no more than so many latents being held at a time, nor any activation that is zero."""
    threshold, largest = autoencoder.threshold, autoencoder.largest
    found: list[Active] = []
    best = states.new_empty(len(states), 0)
    which = torch.empty(len(states), 0, dtype=torch.int64, device=states.device)
    for start in range(0, autoencoder.latents, at_once):
        part = slice(start, min(start + at_once, autoencoder.latents))
        before = autoencoder.pre_activations(states, part)
        if threshold is not None:
            row, latent = (before > threshold[part].clamp(min=0)).nonzero(as_tuple=True)
            found.append((row, latent + start, before[row, latent]))
        else:
            here, place = before.topk(min(largest, before.shape[1]))
            best, which = torch.cat([best, here], 1), torch.cat([which, place + start], 1)
            best, place = best.topk(min(largest, best.shape[1]))
            which = which.gather(1, place)
    if threshold is None:
        row, place = (best > 0).nonzero(as_tuple=True)
        return row, which[row, place], best[row, place]
    row, latent, value = (torch.cat(each) for each in zip(*found, strict=True))
    return row, latent, value


def separations(
    statistics: Mapping[str, Any], half: str, types: list[str]
) -> dict[tuple[str, str, int], tuple[float, float]]:
    """(site, position, latent) -> least difference of firing frequency over the types, as a known and as an unknown latent.

    Firing frequency is the share of a group's rows on which the latent is on; a latent absent from a group is off there.
    """
    rates: dict[tuple[str, str, int], dict[tuple[str, str], float]] = {}
    for site, position, latent, kind, group, part, count, fired in zip(
        *(statistics[name] for name in ("site", "position", "latent", "type", "group", "half", "count", "fired")),
        strict=True,
    ):
        if part == half and group in ("known", "unknown"):
            rates.setdefault((site, position, int(latent)), {})[kind, group] = fired / count
    found = {}
    for place, rate in rates.items():
        differences = [rate.get((kind, "known"), 0.0) - rate.get((kind, "unknown"), 0.0) for kind in types]
        found[place] = (min(differences), min(-each for each in differences))
    return found


def generic_rates(statistics: Mapping[str, Any]) -> dict[tuple[str, int], float]:
    """(site, latent) -> share of neutral-text rows on which it is on."""
    general = statistics["position"] == "general"
    return {
        (site, int(latent)): fired / count
        for site, latent, fired, count in zip(
            *(statistics[name][general] for name in ("site", "latent", "fired", "count")), strict=True
        )
    }


def choose_latents(statistics: Mapping[str, Any], settings: LatentSettings, types: list[str]) -> list[dict[str, Any]]:
    """The best known and unknown latents of the fit half, with what they are worth on the report half.

    A latent is chosen once, at the position where it separates best.
    """
    fit, report = separations(statistics, "fit", types), separations(statistics, "report", types)
    generic = generic_rates(statistics)
    chosen = []
    for index, kind in enumerate(("known", "unknown")):
        best: dict[tuple[str, int], tuple[float, str]] = {}
        for (site, position, latent), values in fit.items():
            if (
                generic.get((site, latent), 0.0) <= settings.generic_rate
                and values[index] >= settings.minimum_separation
            ):
                best[site, latent] = max(best.get((site, latent), (-1.0, "")), (values[index], position))
        ranked = sorted(best.items(), key=lambda item: (-item[1][0], item[0]))[: settings.selected]
        for (site, latent), (separation, position) in ranked:
            held_out = report.get((site, position, latent), (0.0, 0.0))[index]
            chosen.append(
                {
                    "site": site,
                    "latent": latent,
                    "kind": kind,
                    "position": position,
                    "separation_fit": separation,
                    "separation_report": held_out,
                    "generic_rate": generic.get((site, latent), 0.0),
                }
            )
    return chosen


def auroc(positive: np.ndarray, negative: np.ndarray) -> float:
    """P(positive > negative) + half P(equal), [0, 1]."""
    order = np.sort(negative)
    below = np.searchsorted(order, positive, side="left")
    equal = np.searchsorted(order, positive, side="right") - below
    return float((below + 0.5 * equal).mean() / len(negative))
