"""The one training loop: seeded, clipped, warmed up and decayed, with assertions about what moved and what did not.

Adam's steps are about as large as the learning rate, and bfloat16 tells numbers apart to 1 in 256: a step of 1e-5 is
rounded away from every weight above .004. So of parameters in 16 bits the optimiser steps float32 copies, which the
parameters are rounded from after each step. Only what trains has such copies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

WARM_UP = 0.08
"""Share of the steps over which the learning rate rises."""
DECAY = 0.3
"""Share of the steps, at the end, over which it falls to zero."""
HALVES = (torch.bfloat16, torch.float16)
CLIP = 1.0
"""Largest norm of a step's gradient."""


@dataclass(frozen=True, eq=False)
class Loss:
    """What is minimised, and its named parts for the record."""

    total: Tensor
    parts: Mapping[str, Tensor]


def trainable_parameters(model: nn.Module, frozen: Iterable[nn.Module] = ()) -> list[nn.Parameter]:
    """Set every parameter to train except those of `frozen`, and return the former."""
    still = {id(parameter) for module in frozen for parameter in module.parameters()}
    chosen = []
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) not in still)
        if parameter.requires_grad:
            chosen.append(parameter)
    return chosen


@contextmanager
def nothing_else_moves(model: nn.Module, trained: Iterable[nn.Parameter]) -> Iterator[None]:
    """Asserts that no parameter of the model but these is another when the context ends well.

    By a hash and the sum of each parameter: two passes over the weights and no copy of them. What lies on no device (weights
    that are offloaded to disk) is read from there whenever it is used, and cannot be changed.

    Raises: ArithmeticError, naming the first that is.
    """
    chosen = {id(parameter) for parameter in trained}
    still = [(name, parameter) for name, parameter in model.named_parameters() if id(parameter) not in chosen]
    before = [_trace(parameter) for _, parameter in still]
    yield
    for (name, parameter), was in zip(still, before, strict=True):
        if _trace(parameter) != was:
            raise ArithmeticError(
                f"{name} changed in training and was to stay as it is; the method may not write to it"
            )


def plain_update(step: int, optimiser: torch.optim.Optimizer) -> None:
    """The optimiser's own step."""
    optimiser.step()


def never(step: int) -> bool:
    """No reason to stop before the last step."""
    return False


def minimise(
    parameters: list[nn.Parameter],
    loss_at: Callable[[int], Loss] | Callable[[int, int], Loss],
    *,
    steps: int,
    learning_rate: float,
    decay: float = DECAY,
    accumulation: int = 1,
    after_step: Callable[[int, Mapping[str, float]], None] = lambda step, parts: None,
    shape_gradients: Callable[[int], None] = lambda step: None,
    update: Callable[[int, torch.optim.Optimizer], None] = plain_update,
    enough: Callable[[int], bool] = never,
) -> list[dict[str, float]]:
    """AdamW without weight decay, in float32; returns each step's loss parts, `total` among them.

    accumulation     with more than 1, loss_at(step, part) is called for so many parts and their gradients are averaged.
    after_step       called with the number of steps made and that step's parts.
    shape_gradients  called with the step before its gradients are clipped, to change them in place.
    update           makes the step; called with gradients and learning rate set. What it changes are the optimiser's
                     parameters: those given, or the float32 copies of those in 16 bits.
    enough           called with the number of steps made: whether to stop there.

    Raises: ArithmeticError when the loss is not finite or no parameter moved.
    """
    before = [_trace(parameter) for parameter in parameters]
    held = [_in_float32(parameter) for parameter in parameters]
    optimiser = torch.optim.AdamW(held, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    history = []
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * rate_factor(step, steps, decay)
        for parameter in parameters:
            parameter.grad = None
        parts: dict[str, float] = {}
        reaches = False
        for part in range(accumulation):
            loss = loss_at(step) if accumulation == 1 else loss_at(step, part)  # type: ignore[call-arg]
            if not torch.isfinite(loss.total):
                raise ArithmeticError(f"the loss is {float(loss.total)} at step {step}; lower the learning rate")
            for name, value in (*loss.parts.items(), ("total", loss.total)):
                parts[name] = parts.get(name, 0.0) + float(value.detach()) / accumulation
            if loss.total.requires_grad:
                (loss.total / accumulation).backward()
                reaches = True
        if reaches:
            shape_gradients(step)
            torch.nn.utils.clip_grad_norm_(parameters, CLIP)
            _hand_over(parameters, held)
            update(step, optimiser)
            _hand_back(parameters, held)
        history.append(parts)
        after_step(step + 1, parts)
        if enough(step + 1):
            break
    for parameter in parameters:
        parameter.grad = None
    if all(_trace(parameter) == was for parameter, was in zip(parameters, before, strict=True)):
        if any(bool((own != parameter).any()) for own, parameter in zip(held, parameters, strict=True)):
            raise ArithmeticError(
                f"no parameter moved: all steps together are less than {parameters[0].dtype} tells apart; raise the "
                "learning rate, or run the model in float32"
            )
        raise ArithmeticError("no parameter moved: the loss reaches none of those that were to train")
    return history


def rate_factor(step: int, steps: int, decay: float = DECAY) -> float:
    """Learning rate at a step over its peak: linear warm-up, flat, linear decay [0, 1]."""
    warm_up, falling = max(1.0, WARM_UP * steps), max(1.0, decay * steps)
    return min(1.0, (step + 1) / warm_up, (steps - step) / falling)


def _in_float32(parameter: nn.Parameter) -> nn.Parameter:
    """What the optimiser steps: the parameter, or a float32 copy of one in 16 bits."""
    return nn.Parameter(parameter.detach().float()) if parameter.dtype in HALVES else parameter


def _hand_over(parameters: list[nn.Parameter], held: list[nn.Parameter]) -> None:
    """Give the copies the gradients, which the parameters lose."""
    for parameter, own in zip(parameters, held, strict=True):
        if own is not parameter:
            own.grad = None if parameter.grad is None else parameter.grad.float()
            parameter.grad = None


@torch.no_grad()
def _hand_back(parameters: list[nn.Parameter], held: list[nn.Parameter]) -> None:
    """Round the parameters from their copies."""
    for parameter, own in zip(parameters, held, strict=True):
        if own is not parameter:
            parameter.copy_(own)
            own.grad = None


@torch.no_grad()
def _trace(parameter: Tensor) -> tuple[str, str]:
    """What tells whether a parameter was changed: a hash and the sum, since the hash of even numbers of equals is 0."""
    if parameter.is_meta or not parameter.numel():
        return "", ""
    return str(torch.hash_tensor(parameter.detach()).item()), str(parameter.detach().sum(dtype=torch.float64).item())
