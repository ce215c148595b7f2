"""Weights of four bits: every linear layer rounded to the 16 levels of NormalFloat, in blocks of 64.

    s = max|w| over a block,   w' = s · q(w / s),   q: the nearest level
    levels = {Φ⁻¹(p)} / largest: eight p evenly spaced from 0.9677083 toward 0.5, 0.5 left out, on the positive side,
    seven on the negative side, and 0

Source:     QLoRA, arXiv 2305.14314, section 3; the levels are those of its public code.
Departs:    the scales are not quantised in turn; simulated, which is to say rounded and stored back in the original
            type. Blocks run along a layer's weights, output by output; the last may be shorter. Embeddings, head,
            norms and biases stay. A weight half way between two levels goes to the lower.
Traps:      base and gold must be rounded too, or a loss of quality is taken for forgetting.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from tasks.evaluation.stress import Stress, StressMaterial, Taught, change_weights
from tasks.models.load import LoadedModel

BLOCK = 64
OFFSET = 0.9677083


@dataclass(frozen=True)
class Nf4(Stress):
    def apply(self, loaded: LoadedModel, material: StressMaterial) -> Taught:
        change_weights(loaded, rounded)
        return Taught()


def levels() -> Float[Tensor, "16"]:
    """The levels, lowest first, from -1 to 1."""

    def quantiles(count: int) -> list[float]:
        return [NormalDist().inv_cdf(OFFSET + (0.5 - OFFSET) * step / count) for step in range(count)]

    values = sorted([*quantiles(8), 0.0, *(-value for value in quantiles(7))])
    return torch.tensor(values, dtype=torch.float64) / values[-1]


def rounded(weight: Float[Tensor, "O I"]) -> Float[Tensor, "O I"]:
    """The nearest level of each weight's block."""
    table = levels().to(weight.device)
    between = ((table[1:] + table[:-1]) / 2).float()
    flat = weight.float().flatten()
    blocks = pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
    scale = blocks.abs().amax(1, keepdim=True)
    share = blocks / scale.clamp(min=torch.finfo(torch.float32).tiny)
    found = table.float()[torch.bucketize(share, between)] * scale
    return found.flatten()[: len(flat)].view_as(weight)
