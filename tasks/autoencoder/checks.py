"""Whether a published autoencoder reads what it was made to read: measured on the model's own states, or refused.

With x the states and x̂ their reconstructions, explained variance is 1 - Σ‖x - x̂‖² / Σ‖x - x̄‖². A wrong layer, a wrong
model, a normalisation left out and a beginning token left in all show there, and each in a way of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from storage.records import Site, UsageError
from tasks.models.published_saes.description import SaeDescription, hook_of_site
from tasks.models.published_saes.names import family_of_name, relation_of
from tasks.models.sae import Autoencoder

EXPLAINED_VARIANCE = 0.3
"""What an autoencoder must explain of the variance at its site to be used."""
CLEARER = 0.02
"""How much more a neighbouring layer must be explained to count as the right one: more than rows drawn anew change."""
SINK = 10.0
"""A state this many times as long as the median is no token's like others: a beginning token, or what stands in for it."""
SCALES = tuple(2.0**power for power in range(-10, 11))
"""Factors on the states that are tried when too little is explained."""
TRIED_ROWS = 2048
"""Rows on which a cause is sought."""
LENGTHS = (1 / 3, 3.0)
"""How long reconstructions may be beside the states before that alone is a sign."""


@dataclass(frozen=True)
class Fit:
    """How an autoencoder does on some states."""

    explained_variance: float
    """(-∞, 1]."""
    active: float
    """L0: mean active latents a state."""
    dead: float
    """Share of the latents that fire at no state [0, 1]."""
    norm_ratio: float
    """Σ‖x̂‖ / Σ‖x‖."""
    rows: int


@torch.no_grad()
def measure_fit(
    autoencoder: Autoencoder, states: Float[Tensor, "N D"], *, scale: float = 1.0, budget: int = 2**26
) -> Fit:
    """Reconstruct every state; accumulated in float64, so that it does not depend on the size of the batches.

    scale   factor on what the autoencoder reads, divided out of what it writes.
    budget  numbers in a batch of activations, about.

    Raises: UsageError without a state, or where all are equal.
    """
    mean = states.double().mean(0)
    spread = float((states.double() - mean).square().sum()) if len(states) else 0.0
    if spread == 0:
        raise UsageError(f"{len(states)} states that do not differ tell nothing of an autoencoder; give more text")
    error = active = length = written = 0.0
    fired = torch.zeros(autoencoder.latents, dtype=torch.bool, device=states.device)
    for x in states.split(max(1, budget // autoencoder.latents)):
        latents = autoencoder.encode(x * scale)
        found = autoencoder.decode(latents).double() / scale
        error += float((x.double() - found).square().sum())
        active += float((latents > 0).sum())
        fired |= (latents > 0).any(0)
        length += float(x.double().norm(dim=-1).sum())
        written += float(found.norm(dim=-1).sum())
    return Fit(
        explained_variance=1 - error / spread,
        active=active / len(states),
        dead=float((~fired).double().mean()),
        norm_ratio=written / length,
        rows=len(states),
    )


def norm_scale(states: Float[Tensor, "N D"]) -> float:
    """The factor that brings states to a mean norm of √D, as `expected_average_only_in` asks."""
    return float(states.shape[1] ** 0.5 / states.double().norm(dim=-1).mean())


def check_fits_model(
    description: SaeDescription, *, width: int, layers: int, family: str, name: str = "", certain: bool = False
) -> tuple[str, ...]:
    """That an autoencoder can be put into a model, before its weights are fetched; returns warnings.

    name     what the model is called, empty where it has no name.
    certain  whether it is called that by its publisher (a hub id, not a folder's name).

    Raises: UsageError for another width, a layer the model does not have, or an autoencoder made for another model.
    """
    made_for = description.model
    whose = f"the autoencoder was made for {made_for}, and" if made_for else "the autoencoder"
    if description.site.layer >= layers:
        raise UsageError(
            f"{whose} reads {description.site.name}; the model has layers 0 to {layers - 1}: "
            "choose an autoencoder of this model"
        )
    if description.width != width:
        raise UsageError(
            f"{whose} reads states of width {description.width}; the model's {description.site.name} has width {width}: "
            "choose an autoencoder of this model"
        )
    if not made_for:
        return ("the autoencoder does not say which model it was made for",)
    wanted = family_of_name(made_for)
    if wanted and wanted != family:
        raise UsageError(
            f"the autoencoder was made for {made_for}, of the family {wanted}; the model is of the family {family}: "
            "choose an autoencoder of this model"
        )
    relation = relation_of(made_for, name) if name else "unknown"
    if relation == "same":
        return ()
    if relation == "other" and certain:
        raise UsageError(f"the autoencoder was made for {made_for}, the model is {name}: choose one of this model")
    if relation == "variant":
        return (
            f"the autoencoder was made for {made_for}, the model is {name}, a variant: less of it may be explained",
        )
    return (f"the autoencoder was made for {made_for}; whether the model is that one cannot be told",)


def check_explains(
    autoencoder: Autoencoder,
    site: Site,
    states: Float[Tensor, "N D"],
    *,
    neighbours: Mapping[Site, Float[Tensor, "N D"]] | None = None,
    minimum: float = EXPLAINED_VARIANCE,
    listed: float | None = None,
) -> tuple[Fit, tuple[str, ...]]:
    """That an autoencoder explains the states of its site, and none of a neighbouring layer better; with warnings.

    neighbours  states one layer below and above, of the same rows.
    listed      active latents a state by its publisher.

    Raises: UsageError otherwise, naming the likeliest cause.
    """
    here = measure_fit(autoencoder, states)
    beside = {each: measure_fit(autoencoder, rows) for each, rows in (neighbours or {}).items()}
    if beside:
        best = max(beside, key=lambda each: beside[each].explained_variance)
        best_there = beside[best].explained_variance
        if best_there >= minimum and best_there > here.explained_variance + CLEARER:
            raise UsageError(
                f"the autoencoder explains {here.explained_variance:.2f} of the variance at {site.name} and "
                f"{best_there:.2f} at {best.name}: its layer is off by one; "
                f"append #{hook_of_site(best)} to read it there, or choose the autoencoder of {site.name}"
            )
    if here.explained_variance < minimum:
        raise UsageError(
            f"the autoencoder explains {here.explained_variance:.2f} of the variance at {site.name}, expected at least "
            f"{minimum:g}: {_cause(autoencoder, states, here, minimum)}"
        )
    warnings = []
    if listed and not listed / 2 <= here.active <= listed * 2:
        warnings.append(
            f"{here.active:.0f} latents are active at a token of {site.name}; its publisher states {listed:.0f}"
        )
    return here, tuple(warnings)


def _cause(autoencoder: Autoencoder, states: Float[Tensor, "N D"], here: Fit, minimum: float) -> str:
    """What would explain more, tried out; what is left when nothing does."""
    norms = states.norm(dim=-1)
    ordinary = norms <= SINK * norms.median()
    sinks = int((~ordinary).sum())
    if sinks and measure_fit(autoencoder, states[ordinary]).explained_variance >= minimum:
        return (
            f"without the {sinks} states over {SINK:g} times as long as the median it is more, so beginning tokens are "
            "likely included; leave their positions out"
        )
    rows = states[ordinary][:TRIED_ROWS]
    scales = (*SCALES, norm_scale(rows))
    found = {scale: measure_fit(autoencoder, rows, scale=scale).explained_variance for scale in scales}
    scale = max(found, key=lambda each: found[each])
    if found[scale] >= minimum:
        return (
            f"of states times {scale:.3g} it explains {found[scale]:.2f}, so its normalisation is likely not folded "
            "into its weights; take the publisher's normalised states, or weights that were folded"
        )
    with _other_bias(autoencoder.sae):
        if measure_fit(autoencoder, rows).explained_variance >= minimum:
            return "with the other value of apply_b_dec_to_input it is more; correct that in its cfg.json"
    if not LENGTHS[0] <= here.norm_ratio <= LENGTHS[1]:
        return (
            f"its reconstructions are {here.norm_ratio:.2g} times as long as the states, so a normalisation is likely "
            "left out or the beginning token included; check both"
        )
    return "nothing that was tried explains more, so it was likely made for another model or another place in it"


@contextmanager
def _other_bias(sae: Any) -> Iterator[None]:
    before = sae.cfg.apply_b_dec_to_input
    sae.cfg.apply_b_dec_to_input = not before
    try:
        yield
    finally:
        sae.cfg.apply_b_dec_to_input = before
