"""Primal-dual unlearning by hand: flat logits, and a weight that follows the bound after the frozen share."""

import dataclasses
from collections.abc import Callable
from math import log
from typing import Any

import pytest
import torch

from tasks.alignment.method import Forward, Given, Group, Loss, Start
from tasks.alignment.methods.likelihood.pdu import PDU


def retain_loss(p: float) -> float:
    """Of a one-token answer and its end, which has 0.5."""
    return -(log(p) + log(0.5)) / 2


def started(method: PDU, retain: Group, steps: int) -> Given:
    nothing: Any = None
    given = Given((), {}, {}, {}, 0, steps)
    start = Start(nothing, {"retain": retain}, given, lambda *_, **__: retain.student)
    return dataclasses.replace(given, prepared=method.prepare(start))


def at(method: PDU, given: Given, step: int, forget: Group, retain: Group) -> Loss:
    return method.loss({"forget": forget, "retain": retain}, dataclasses.replace(given, step=step))


def test_by_hand(answers: Callable[..., Group]) -> None:
    """The bound is the starting model's own retain loss plus the margin."""
    method = PDU(margin=0.2, retain_weight=3.0)
    given = started(method, answers([0.9]), 10)
    loss = at(method, given, 0, answers([0.2, 0.4], [0.8]), answers([0.6]))
    gaps = [log(0.8 / 0.2) / 2, log(0.6 / 0.4) / 2, log(0.8 / 0.2) / 2]  # the larger less the mean of the two
    forget = ((gaps[0] ** 2 + gaps[1] ** 2) / 2 + gaps[2] ** 2) / 2
    assert loss.parts["forget"].item() == pytest.approx(forget)
    assert loss.parts["retain"].item() == pytest.approx(retain_loss(0.6))
    assert loss.total.item() == pytest.approx(forget + 3 * (retain_loss(0.6) - retain_loss(0.9) - 0.2))


def test_logits_serve_as_well(answers: Callable[..., Group]) -> None:
    """max - mean is the same for logits and for log-probabilities."""
    forget = answers([0.5, 0.5])
    logits = torch.randn(1, 3, 6, generator=torch.Generator().manual_seed(0))
    method = PDU()
    given = started(method, answers([0.9]), 10)
    found = at(
        method, given, 0, dataclasses.replace(forget, student=Forward({}, logits.log_softmax(-1))), answers([0.9])
    )
    gap = (logits.amax(-1) - logits.mean(-1))[0, :2]
    assert found.parts["forget"].item() == pytest.approx(float(gap.pow(2).mean()))


def test_the_flattening_lowers_the_largest_and_leaves_the_end(
    answers: Callable[..., Group], slope: Callable[..., torch.Tensor]
) -> None:
    forget, retain = answers([0.9, 0.2], [0.5]), answers([0.6])
    method = PDU(retain_weight=7.0)
    loss = at(method, started(method, retain, 10), 0, forget, retain)
    flat = slope(loss, forget)
    assert flat[0, 0, 0] > 0 > flat[0, 0, 1]
    assert flat[0, 1, 1] > 0 > flat[0, 1, 0], "the largest, were it not the true one"
    counts = forget.rows.answer_mask
    assert float(flat[~counts].abs().max()) == 0
    assert float(flat[1, 0].abs().max()) == pytest.approx(0.0, abs=1e-6), "flat already"
    torch.testing.assert_close(slope(loss, retain)[0], torch.tensor([[-3.5, 0.0], [0.0, -3.5]]))


def test_the_weight_waits_then_follows_the_bound(answers: Callable[..., Group]) -> None:
    method = PDU(margin=0.0, retain_weight=2.0, dual_rate=4.0, frozen=0.5)
    given = started(method, answers([0.5]), 4)
    seen = []
    for step, p in enumerate([0.1, 0.1, 0.1, 0.9]):
        seen.append(at(method, given, step, answers([0.2]), answers([p])).parts["retain_weight"].item())
    broken = retain_loss(0.1) - retain_loss(0.5)
    # Steps 0 and 1 are frozen; what step 2 saw shows in step 3.
    assert seen == pytest.approx([2.0, 2.0, 2.0, 2.0 + 4 * broken])
    after = at(method, given, 4, answers([0.2]), answers([0.5])).parts["retain_weight"].item()
    assert after == pytest.approx(2 + 4 * broken + 4 * (retain_loss(0.9) - retain_loss(0.5)))
    assert after < seen[-1]


def test_the_weight_does_not_turn_negative(answers: Callable[..., Group]) -> None:
    method = PDU(margin=1.0, retain_weight=0.5, dual_rate=10.0, frozen=0.0)
    given = started(method, answers([0.5]), 4)
    at(method, given, 0, answers([0.2]), answers([0.5]))
    assert at(method, given, 1, answers([0.2]), answers([0.5])).parts["retain_weight"].item() == 0


def test_a_step_in_parts_moves_the_weight_once(answers: Callable[..., Group]) -> None:
    method = PDU(margin=0.0, retain_weight=2.0, dual_rate=4.0, frozen=0.0)
    given = started(method, answers([0.5]), 4)
    weights = [at(method, given, 0, answers([0.2]), answers([p])).parts["retain_weight"].item() for p in (0.1, 0.3)]
    assert weights == [2.0, 2.0], "the parts of a step share it"
    mean = (retain_loss(0.1) + retain_loss(0.3)) / 2 - retain_loss(0.5)
    assert at(method, given, 1, answers([0.2]), answers([0.5])).parts["retain_weight"].item() == pytest.approx(
        2 + 4 * mean
    )


def test_each_run_has_a_weight_of_its_own(answers: Callable[..., Group]) -> None:
    method = PDU(frozen=0.0)
    first, second = started(method, answers([0.5]), 4), started(method, answers([0.5]), 4)
    for step in range(3):
        at(method, first, step, answers([0.2]), answers([0.1]))
    assert first.prepared.weight > 100
    assert second.prepared.weight == 100


def test_in_the_loop_the_bound_is_what_was_measured(small: Any) -> None:
    method = PDU(frozen=0.0, margin=0.0)
    settings = small.settings(steps=3)
    history = small.align(method, small.material(method, settings), settings)[1].history
    assert history[0]["retain_weight"] == 100
    assert len({parts["retain_weight"] for parts in history}) == 3, "it moves from step to step"
