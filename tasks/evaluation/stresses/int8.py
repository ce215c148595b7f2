"""Weights of eight bits: every linear layer rounded to 255 levels a row.

    s = max|w| / 127 over a row (an output),   w' = s · round(w / s)

Source:     symmetric absmax rounding, vector-wise as in LLM.int8(), arXiv 2208.07339, section 2.
Departs:    weights only, no activations and no outlier columns apart; simulated, which is to say rounded and stored
            back in the original type, so no kernel is needed and nothing becomes smaller. Embeddings, head, norms and
            biases stay. Halves go to the even level.
Traps:      base and gold must be rounded too, or a loss of quality is taken for forgetting.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tasks.evaluation.stress import Stress, StressMaterial, Taught, change_weights
from tasks.models.load import LoadedModel

LARGEST = 127


@dataclass(frozen=True)
class Int8(Stress):
    def apply(self, loaded: LoadedModel, material: StressMaterial) -> Taught:
        change_weights(loaded, rounded)
        return Taught()


def rounded(weight: Float[Tensor, "O I"]) -> Float[Tensor, "O I"]:
    """The nearest level of each weight's row; in float64, so that rounding again changes nothing."""
    exact = weight.double()
    scale = (exact.abs().amax(1, keepdim=True) / LARGEST).clamp(min=torch.finfo(torch.float64).tiny)
    return (exact / scale).round() * scale
