"""Geometric projection (GU): change a realised optimiser step as little as lets the retain loss not rise.

    Δ₀ = θ_after - θ_before of an ordinary AdamW step;  M = diag(√v̂ + ε);  G = [retain gradients: this step's, past ones]
    Δ* = argmin ½ ‖Δ - Δ₀‖²_M  subject to Gᵀ Δ ≤ 0   =>   Δ* = Δ₀ - M⁻¹ G μ,  μ ≥ 0,  μ_i (Gᵀ Δ*)_i = 0

Source:     arXiv 2511.17100 (v4) and its authors' later derivation.
Defaults:   eight gradients kept, ε = 1e-6.
Departs:    the optional search for a smaller step is left out. What the optimiser has never moved (v̂ = 0: no gradient
            of the method reaches it, or the method masks it) stays where it is; ε alone would make it the cheapest to
            move. Of gradients so nearly parallel that their kernel no longer tells them apart, the oldest are left out
            of the step.
Confidence: code and text; the second of the departures is ours.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

KEPT = 8
"""Retain gradients at once, this step's among them."""
EPSILON = 1e-6
TOLERANCE = 1e-7
"""By how much a condition of the solution may fail, gradients being of length 1, in units of the largest rise."""


class GeometricProjection:
    """Makes the steps of `minimise`; keeps the last retain gradients of the parameters that train."""

    def __init__(self, parameters: list[nn.Parameter], retain_loss: Callable[[int], Tensor], kept: int = KEPT) -> None:
        self.parameters, self.retain_loss = parameters, retain_loss
        self.gradients: deque[list[Tensor]] = deque(maxlen=kept)

    def update(self, step: int, optimiser: torch.optim.Optimizer) -> None:
        """One step of the optimiser, projected. Gradients of the method's own loss must be there.

        Raises: ArithmeticError when the gradient of the retain loss is not finite.
        """
        found = torch.autograd.grad(self.retain_loss(step), self.parameters, allow_unused=True)
        self.gradients.appendleft(
            [torch.zeros_like(p) if g is None else g for p, g in zip(self.parameters, found, strict=True)]
        )
        held = optimiser.param_groups[0]["params"]  # float32 copies of parameters in 16 bits
        before = [parameter.detach().clone() for parameter in held]
        optimiser.step()
        with torch.no_grad():
            moved = [parameter - old for parameter, old in zip(held, before, strict=True)]
            rise = np.array([_dot(gradient, moved) for gradient in self.gradients])
            if not np.isfinite(rise).all():
                raise ArithmeticError(
                    f"the gradient of the retain loss is not finite at step {step}; lower the learning rate"
                )
            if (rise <= 0).all():
                return
            inverse = [_inverse_metric(optimiser, parameter) for parameter in held]
            kernel = np.zeros((len(rise), len(rise)))
            for i, gradient in enumerate(self.gradients):
                weighted = [m * each for m, each in zip(inverse, gradient, strict=True)]
                for j in range(i + 1):
                    kernel[i, j] = kernel[j, i] = _dot(self.gradients[j], weighted)
            weights = multipliers(kernel, rise)
            for parameter, m, *gradients in zip(held, inverse, *self.gradients, strict=True):
                # In double precision: of gradients nearly opposed, large multiples cancel.
                back = sum(float(weight) * each.double() for weight, each in zip(weights, gradients, strict=True))
                parameter.sub_((m * back).to(parameter.dtype))


def multipliers(kernel: Float[np.ndarray, "r r"], rise: Float[np.ndarray, " r"]) -> Float[np.ndarray, " r"]:
    """μ ≥ 0 with K μ ≥ rise and μ_i (rise - K μ)_i = 0; 0 for the last of those that rounding makes contradict others.

    kernel  K = Gᵀ M⁻¹ G, positive semi-definite.
    rise    Gᵀ Δ₀: how much each retain loss would rise to first order.
    """
    kernel, rise = kernel.astype(np.float64), rise.astype(np.float64)
    found, size = np.zeros(len(rise)), np.sqrt(np.diag(kernel))
    live = np.flatnonzero(size > 0)
    kernel, rise = kernel[np.ix_(live, live)] / np.outer(size[live], size[live]), rise[live] / size[live]
    for count in range(len(live), 0, -1):
        unit = float(np.abs(rise[:count]).max())
        weights = _active_set(kernel[:count, :count], rise[:count] / unit) if unit else np.zeros(count)
        if weights is not None:
            found[live[:count]] = weights * unit / size[live[:count]]
            break
    return found


def _active_set(kernel: Float[np.ndarray, "r r"], rise: Float[np.ndarray, " r"]) -> Float[np.ndarray, " r"] | None:
    """The same for gradients of length 1, by trying every set of active constraints, fewest first; None if none fits."""
    for count in range(len(rise) + 1):
        for active in itertools.combinations(range(len(rise)), count):
            chosen, weights = list(active), np.zeros(len(rise))
            if chosen:
                weights[chosen] = np.linalg.lstsq(kernel[np.ix_(chosen, chosen)], rise[chosen], rcond=None)[0]
            left = rise - kernel @ weights
            if max(-weights.min(), left.max(), np.abs(left[chosen]).max(initial=0.0)) <= TOLERANCE:
                return np.maximum(weights, 0.0)
    return None


def _inverse_metric(optimiser: torch.optim.Optimizer, parameter: nn.Parameter) -> Tensor:
    """1 / (√v̂ + ε) of Adam; 0 where it has never moved anything."""
    state = optimiser.state.get(parameter)
    if not state:
        return torch.zeros_like(parameter)
    beta = optimiser.param_groups[0]["betas"][1]
    second = state["exp_avg_sq"] / (1 - beta ** float(state["step"]))
    return torch.where(second > 0, 1 / (second.sqrt() + EPSILON), 0)


def _dot(a: list[Tensor], b: list[Tensor]) -> float:
    return float(sum((x.double() * y.double()).sum() for x, y in zip(a, b, strict=True)))
