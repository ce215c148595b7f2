"""Muon: momentum whose update of a matrix is made orthogonal, so that every direction learns equally fast.

    M <- m M + (1 - m) G;   W <- W - rate * sqrt(max(1, rows / columns)) * orthogonal((1 - m) G + m M)

The orthogonal factor is approached by Newton-Schulz steps X <- a X + (b X X' + c (X X')^2) X.

Source:   Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks" (form and a, b, c).
Departs:  matrices of one shape go through the Newton-Schulz steps together and in single precision:
          half precision is slow on many processors. Four steps instead of five: the same recall here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
NEWTON_SCHULZ_STEPS = 4
A, B, C = 3.4445, -4.7750, 2.0315


class Muon:
    """The optimiser of all matrices given; `step(rate)` after each backward pass."""

    def __init__(self, matrices: Iterable[nn.Parameter]) -> None:
        shapes: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
        for matrix in matrices:
            shapes[matrix.shape].append(matrix)
        self._groups = [(group, torch.zeros(len(group), *shape)) for shape, group in shapes.items()]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        for matrices, momentum in self._groups:
            gradients = torch.stack([matrix.grad for matrix in matrices if matrix.grad is not None])
            momentum.lerp_(gradients, 1 - MOMENTUM)
            updates = orthogonal(gradients.lerp(momentum, MOMENTUM))
            rows, columns = momentum.shape[1:]
            for matrix, update in zip(matrices, updates, strict=True):
                matrix.sub_(update, alpha=rate * max(1.0, rows / columns) ** 0.5)


def orthogonal(matrices: Tensor) -> Tensor:
    """Nearly the orthogonal factor of each matrix [N, rows, columns]: singular values become about 1."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=B, alpha=C), x, beta=A)
    return x.mT if tall else x
