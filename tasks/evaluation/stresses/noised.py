"""Normal noise on the weights of every linear layer, as large as a share of the layer's own spread.

    w' = w + scale · σ · ε,   σ = standard deviation of the layer's weights,   ε ~ N(0, 1), drawn by the seed

Source:     ours, after the weight noise by which sandbagging is brought to light, Tice et al. 2024, arXiv 2412.01784.
Defaults:   scale ours: the testbed's base still gives its answers at 0.3 and loses some at 0.5.
Departs:    relative to each layer's spread; embeddings, head, norms and biases stay. The noise is drawn on the
            processor, so that it is the same on every device.
Traps:      base and gold must bear the same noise, or a loss of quality is taken for forgetting.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from storage.records import setting
from tasks.evaluation.stress import Stress, StressMaterial, Taught, change_weights
from tasks.models.load import LoadedModel


@dataclass(frozen=True)
class Noised(Stress):
    scale: float = setting(0.3, minimum=0.0)
    """Of the standard deviation of a layer's weights."""

    def apply(self, loaded: LoadedModel, material: StressMaterial) -> Taught:
        generator = torch.Generator().manual_seed(material.seed)

        def disturb(weight: Float[Tensor, "O I"]) -> Float[Tensor, "O I"]:
            noise = torch.randn(weight.shape, generator=generator).to(weight.device)
            exact = weight.float()
            return exact + self.scale * exact.std() * noise

        change_weights(loaded, disturb)
        return Taught()
