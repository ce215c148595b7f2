"""PISCES: rewrite the rows of the feed-forward output weights that write the target's latents, in the latents' basis.

    w_i = what neuron i writes into the residual stream;  c_ij = w_i · W_enc[:, j],  of each selected latent j
    L = none;  of rows with |c_ij| > τ · max_i |c_ij|:   a = encode(w_i),   a'_j = -μ · s_i · max |c|,
               w_i <- w_i + decode(a') - decode(a)
    s_i = the sign that neuron i mostly has on the target's tokens;  max |c| over the block's neurons and latents

so that a neuron active on the target writes the opposite of what it wrote. The weights are changed once, without
training.

Source:     Gur-Arieh et al. 2025, arXiv 2505.22586; the authors' public code.
Defaults:   τ = 0.4, as published for one concept, where both are searched for each (μ = 36 there). μ and the number of
            latents are ours.
Departs:    theirs are autoencoders of feed-forward outputs. Here the nearest there are is used, that of the residual
            stream after the block: the rows of its last linear map are directions of that stream. An autoencoder of the
            stream has a bias and thresholds made for whole states, so that a is rarely above them for one row, and the
            row is then not so much turned as added to. Where a norm follows the map (Gemma 2 and 3, OLMo 2), w_i is the
            row times the norm's gain, and is divided by it again: our reading of an autoencoder trained after that
            norm. Latents are the `known` ones selected for the site, if wanted, and those whose mean activation on
            forget exceeds that on retain most; theirs are found by their vocabulary and by hand. s_i is over the
            positions from the name's first token to the prompt's last. Not weaker in early blocks, as they have it for
            one family.
Confidence: code; the norm: ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from storage.records import Site, UsageError, setting
from tasks.alignment.method import Edit, Start
from tasks.alignment.terms import best_latents, firing
from tasks.models.families import linear_weights
from tasks.models.load import LoadedModel
from tasks.models.placement import check_held
from tasks.models.sae import Autoencoder


@dataclass(frozen=True)
class PISCES(Edit):
    needs: ClassVar = {"forget": frozenset({"reference states"}), "retain": frozenset({"reference states"})}
    search: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "strength": (1.0, 100.0),
        "threshold": (0.1, 0.9),
        "latents": (3, 5, 10, 20, 50),
    }

    strength: float = setting(10.0, minimum=0.0)
    """μ, in units of the block's largest |c|; 0 takes the latents out of the rows."""
    threshold: float = setting(0.4, minimum=0.0, maximum=0.99)
    """τ: a row is edited where its |c_ij| exceeds so much of the largest of latent j."""
    latents: int = setting(10, minimum=0)
    """Most specific latents at each site; fewer where fewer are more active on forget than on retain."""
    known: bool = setting(True)
    """Whether the latents selected for known entities are edited too."""

    @torch.no_grad()
    def edit(self, start: Start) -> None:
        student, given = start.student, start.given
        forget = start.groups["forget"]
        neurons = [Site(site.layer, "neurons") for site in given.sites]
        active = start.run(forget.rows, neurons, answers=False).states
        chosen = {site: self._chosen(start, site) for site in given.sites}
        if not any(chosen.values()):
            raise UsageError(
                "pisces has no latent to edit: none is more active on the target than on retain questions, or "
                f"latents = {self.latents}; raise latents, set known = true, or loosen [latents]"
            )
        for site, seen in zip(given.sites, neurons, strict=True):
            if chosen[site]:
                signs = active[seen][forget.rows.state_mask].sign().sum(0).sign()
                self._rewrite(student, site.layer, given.autoencoders[site], chosen[site], signs)

    def _chosen(self, start: Start, site: Site) -> list[int]:
        given = start.given
        forget, retain = (firing(start.groups[name], given, site) for name in ("forget", "retain"))
        more = forget.mean - retain.mean
        specific = best_latents(more, more > 0, self.latents)
        return list(dict.fromkeys([*(given.latents[site]["known"] if self.known else ()), *specific]))

    def _rewrite(
        self,
        student: LoadedModel,
        block: int,
        autoencoder: Autoencoder,
        latents: list[int],
        signs: Float[Tensor, " N"],
    ) -> None:
        weight, gain = _output_map(student, block), _gain(student, block)
        columns, _ = autoencoder.encoder_columns(torch.tensor(latents, device=weight.device))
        rows = (weight * gain[:, None]).T.to(columns.dtype)
        strengths = (rows @ columns).abs()
        edited = strengths > self.threshold * strengths.amax(0)
        place = edited.any(-1).nonzero()[:, 0]
        before = autoencoder.encode(rows[place])
        goal = -self.strength * signs[place, None].to(before) * strengths.max()
        after = before.clone()
        after[:, latents] = torch.where(edited[place], goal, before[:, latents])
        change = (autoencoder.decode(after) - autoencoder.decode(before)).to(weight.dtype)
        passes = gain != 0  # what a norm does not let through cannot be written
        weight[:, place] += torch.where(passes, change / torch.where(passes, gain, torch.ones_like(gain)), 0).T


def _output_map(student: LoadedModel, block: int) -> Float[Tensor, "D N"]:
    """The block's last feed-forward map, a view with a column for each neuron."""
    family = student.family
    name = f"{family.blocks}.{block}.{family.down_projection}"
    weight = linear_weights(student.decoder)[name]
    check_held({name: weight}, "writing to weights")
    return weight


def _gain(student: LoadedModel, block: int) -> Float[Tensor, " D"]:
    """By what each coordinate of the map's output is multiplied before it is added to the stream, up to one factor a
    token; ones where nothing follows it."""
    family = student.family
    ones = torch.ones(student.width, device=student.device, dtype=_output_map(student, block).dtype)
    if family.down_projection.startswith(f"{family.mlp_output}."):
        return ones
    norm = student.blocks[block].get_submodule(family.mlp_output)
    gained: Tensor = norm(ones)  # of root mean square 1 already
    return gained
