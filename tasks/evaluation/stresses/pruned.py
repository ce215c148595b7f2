"""The smallest weights set to zero: the given share of every linear layer, wherever they stand in it.

    w' = 0 for the round(share · n) weights of least |w| of a layer's n, w otherwise

Source:     magnitude pruning, Han et al. 2015, arXiv 1506.02626; unstructured and per layer.
Departs:    no training afterwards. Embeddings, head, norms and biases stay. Of equal magnitudes the first go.
Traps:      base and gold must be pruned too, or a loss of quality is taken for forgetting.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from storage.records import setting
from tasks.evaluation.stress import Stress, StressMaterial, Taught, change_weights
from tasks.models.load import LoadedModel


@dataclass(frozen=True)
class Pruned(Stress):
    share: float = setting(0.3, minimum=0.0, maximum=1.0)
    """Of a layer's weights."""

    def apply(self, loaded: LoadedModel, material: StressMaterial) -> Taught:
        def prune(weight: Float[Tensor, "O I"]) -> Float[Tensor, "O I"]:
            kept = weight.flatten().clone()
            kept[kept.abs().argsort(stable=True)[: round(self.share * kept.numel())]] = 0.0
            return kept.view_as(weight)

        change_weights(loaded, prune)
        return Taught()
