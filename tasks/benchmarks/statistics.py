"""Statistics of latents: how often and how strongly each fires in two groups of states, over an autoencoder's encoder."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.benchmarks.harness import Claim, Run, Section, Variant, Watch
from tasks.benchmarks.workload import Size
from tasks.latents.statistics import CHUNK, encode_sparse
from tasks.models.sae import Autoencoder

SHARD = 2 * CHUNK
"""States whose active latents are held at once."""
MORE = 4
"""Times as many states, to see whether memory grows with them."""
FIRES = 2.66
"""Standard deviations above which a latent of random states fires: 64 of 16,384."""
OURS, OURS_MORE = "ours, shard by shard", f"ours, {MORE} times the states"
DENSE = "sae-lens, encode, all states at once"
FLOOR = "floor: the matrix product alone"


def random_sae(size: Size) -> Autoencoder:
    """A JumpReLU autoencoder of sae-lens with random weights."""
    from sae_lens import JumpReLUSAE, JumpReLUSAEConfig

    sae: Any = JumpReLUSAE(JumpReLUSAEConfig(d_in=size.width, d_sae=size.latents, apply_b_dec_to_input=False))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        sae.W_enc.copy_(torch.randn(size.width, size.latents, generator=generator) / size.width**0.5)
        sae.threshold.fill_(FIRES)
    return Autoencoder(sae.eval().requires_grad_(False))


def statistics_variants(size: Size, peers: bool = True) -> list[Variant]:
    """Count, sum and sum of squares of each latent in each group, `6 K`. `peers` False leaves sae-lens' way out."""
    generator = torch.Generator().manual_seed(1)
    many = torch.randn(MORE * size.states, size.width, generator=generator)
    states, groups = many[: size.states], torch.arange(MORE * size.states) % 2
    sae = random_sae(size)
    variants = [
        Variant(DENSE, lambda: _dense(sae, states, groups[: size.states])),
        Variant(OURS, lambda: _ours(sae, states, groups[: size.states]), DENSE if peers else "", 1e-4),
        Variant(OURS_MORE, lambda: _ours(sae, many, groups), timed=False),
        Variant(FLOOR, lambda: _product(sae, states)),
    ]
    return variants if peers else variants[1:]


def describe(size: Size) -> Section:
    return Section(
        "Statistics",
        f"{size.states} states of width {size.width}, {size.latents} latents, two groups",
        OURS,
        remarks=(f"memory is flat where that of {MORE} times the states is the same",),
    )


def with_claims(section: Section) -> Section:
    """The section with what its rows come to."""
    memory = section.row(OURS_MORE).memory
    return replace(
        section,
        claims=(
            Claim("over the bare matrix product", section.ratio(OURS, FLOOR), 1.3, 1.1, True),
            Claim(f"extra memory with {MORE} times the states, MB", memory and memory / 2**20, 60, None, True),
        ),
    )


def _ours(sae: Autoencoder, states: Tensor, groups: Tensor) -> Run:
    """What the stage does with a shard, and its sums, which add up."""

    def run(_: Watch) -> np.ndarray:
        total = np.zeros((3, 2 * sae.latents))
        for start in range(0, len(states), SHARD):
            row, latent, value = encode_sparse(sae, states[start : start + SHARD])
            place = latent + sae.latents * groups[start : start + SHARD].numpy()[row]
            for sums, weight in zip(total, (None, value, value.astype(np.float64) ** 2), strict=True):
                sums += np.bincount(place, weight, 2 * sae.latents)
        return total.reshape(6, -1)

    return run


def _dense(sae: Autoencoder, states: Tensor, groups: Tensor) -> Run:
    @torch.no_grad()
    def run(_: Watch) -> np.ndarray:
        activations = sae.encode(states)
        of_group = [activations[groups == group] for group in range(2)]
        each = [[(part > 0).sum(0), part.sum(0), part.pow(2).sum(0)] for part in of_group]
        return np.stack([sums.double().numpy() for kind in zip(*each, strict=True) for sums in kind])

    return run


def _product(sae: Autoencoder, states: Tensor) -> Run:
    @torch.no_grad()
    def run(_: Watch) -> None:
        for part in states.split(CHUNK):
            part @ sae.sae.W_enc

    return run
