"""What must agree: a loss with its formula in plain loops, a method with the one it becomes, one batch with its parts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from storage.records import Site
from tasks import catalogue
from tasks.alignment.examples import Rows
from tasks.alignment.method import Batch, Forward, Given, Group, Method
from tasks.models.sae import Autoencoder

VOCABULARY, ROWS = 7, 5
SITE, WIDTH = Site(0), 3
GIVEN = Given((), {}, {}, {}, 0)


def method(name: str, **settings: Any) -> Any:
    return catalogue.load("alignment/methods", name)(**settings)


def answering(seed: int, rows: int = ROWS) -> tuple[Group, Tensor, Tensor]:
    """Random rows of one to four answer tokens and the end, padded; and the logits that they came from."""
    generator = torch.Generator().manual_seed(seed)
    length = torch.randint(1, 5, (rows, 1), generator=generator)
    place = torch.arange(5)
    now, before = (torch.randn(rows, 5, VOCABULARY, generator=generator, dtype=torch.float64) * 2 for _ in range(2))
    now.requires_grad_()
    ones = torch.ones(rows, 5, dtype=torch.long)
    tokens = torch.randint(0, VOCABULARY, (rows, 5), generator=generator)
    made = Rows(ones, ones, ones[:, :1], ones[:, :1].bool(), ones[:, :1], ones, tokens, place < length, place == length)
    group = Group(made, Forward({}, now.log_softmax(-1)), Forward({}, before.log_softmax(-1)))
    return group, now, before


# The slow reference: one row, one token, one number at a time.

Logits = list[list[list[float]]]


def log_p(logits: Sequence[float], token: int) -> float:
    return logits[token] - math.log(sum(math.exp(each) for each in logits))


def log_sigmoid(x: float) -> float:
    return -math.log(1 + math.exp(-x))


def summed(group: Group, logits: Logits, row: int, *, end: bool = False) -> tuple[float, int]:
    """Sum of log p over a row's answer tokens, with the end or without; and how many they were."""
    total, count = 0.0, 0
    for place in range(len(logits[row])):
        own, last = bool(group.rows.answer_mask[row, place]), bool(group.rows.end_mask[row, place])
        if own or (end and last):
            total += log_p(logits[row][place], int(group.rows.answer_tokens[row, place]))
            count += 1
    return total, count


def slow_retain(group: Group, logits: Logits) -> float:
    total = 0.0
    for row in range(len(logits)):
        value, count = summed(group, logits, row, end=True)
        total -= value / count
    return total / len(logits)


def slow_npo(groups: Batch, now: dict[str, Logits], before: dict[str, Logits], beta: float) -> float:
    total = 0.0
    for row in range(ROWS):
        new, old = (summed(groups["forget"], logits["forget"], row)[0] for logits in (now, before))
        total -= 2 / beta * log_sigmoid(-beta * (new - old))
    return total / ROWS


def slow_dpo(groups: Batch, now: dict[str, Logits], before: dict[str, Logits], beta: float, wanted: str) -> float:
    total = 0.0
    for row in range(ROWS):
        new, old = (summed(groups["forget"], logits["forget"], row)[0] for logits in (now, before))
        up, start = (summed(groups[wanted], logits[wanted], row, end=True)[0] for logits in (now, before))
        total -= 2 / beta * log_sigmoid(beta * ((up - start) - (new - old)))
    return total / ROWS


def slow_sim_npo(groups: Batch, now: dict[str, Logits], beta: float, margin: float) -> float:
    total = 0.0
    for row in range(ROWS):
        value, count = summed(groups["forget"], now["forget"], row)
        total -= 2 / beta * log_sigmoid(beta * (-value / count - margin))
    return total / ROWS


CASES: list[tuple[str, dict[str, Any], Callable[..., float]]] = [
    ("npo", {"beta": 0.3}, lambda groups, now, before: slow_npo(groups, now, before, 0.3)),
    ("dpo", {"beta": 0.3}, lambda groups, now, before: slow_dpo(groups, now, before, 0.3, "refusal")),
    ("alt_po", {"beta": 0.7}, lambda groups, now, before: slow_dpo(groups, now, before, 0.7, "alternative")),
    (
        "sim_npo",
        {"beta": 1.3, "margin": 0.4, "forget_weight": 1.0},
        lambda groups, now, _: slow_sim_npo(groups, now, 1.3, 0.4),
    ),
]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("name", "settings", "reference"), CASES, ids=[name for name, _, _ in CASES])
def test_loss_and_slope_are_those_of_the_formula(
    name: str, settings: dict[str, Any], reference: Callable[..., float], seed: int
) -> None:
    names = ("forget", "retain", "refusal", "alternative")
    made = {each: answering(10 * seed + place) for place, each in enumerate(names)}
    groups = {each: group for each, (group, _, _) in made.items()}
    now: dict[str, Logits] = {each: logits.tolist() for each, (_, logits, _) in made.items()}
    before: dict[str, Logits] = {each: logits.tolist() for each, (_, _, logits) in made.items()}

    def slow() -> float:
        return reference(groups, now, before) + 0.7 * slow_retain(groups["retain"], now["retain"])

    loss = method(name, retain_weight=0.7, **settings).loss(groups, GIVEN).total
    assert loss.item() == pytest.approx(slow(), rel=1e-10)

    read = [each for each in names if each in method(name).needs]
    slopes = dict(zip(read, torch.autograd.grad(loss, [made[each][1] for each in read]), strict=True))
    step = 1e-5
    for each in read:
        for row, place, token in ((0, 0, 0), (1, 1, 3), (2, 2, 5), (ROWS - 1, 4, 6)):
            at = now[each][row][place]
            there = at[token]
            at[token] = there + step
            above = slow()
            at[token] = there - step
            slope = (above - slow()) / (2 * step)
            at[token] = there
            assert slopes[each][row, place, token].item() == pytest.approx(slope, rel=1e-4, abs=1e-8)


def slopes_of(chosen: Method, forget: Group, logits: Tensor, **more: Group) -> tuple[float, Tensor]:
    """Loss, and its gradient with respect to the logits of the forget rows."""
    loss = chosen.loss({"forget": forget, **more}, GIVEN).total  # type: ignore[attr-defined]
    (gradient,) = torch.autograd.grad(loss, [logits], retain_graph=True)
    return loss.item(), gradient


def test_npo_becomes_gradient_ascent_as_beta_falls() -> None:
    """On the summed log-probability: the loss itself goes to infinity, its direction does not."""
    forget, logits, _ = answering(1)
    retain = answering(2)[0]
    token = forget.student.log_probabilities
    assert token is not None
    summed = (token.gather(-1, forget.rows.answer_tokens[..., None])[..., 0] * forget.rows.answer_mask).sum(-1).mean()
    (ascent,) = torch.autograd.grad(summed, [logits], retain_graph=True)
    distances = []
    for beta in (1.0, 0.1, 1e-5):
        _, found = slopes_of(method("npo", beta=beta, retain_weight=0.0), forget, logits, retain=retain)
        distances.append(float((found - ascent).norm() / ascent.norm()))
    assert distances[0] > distances[1] > distances[2]
    assert distances[2] < 1e-4


def test_npo_is_dpo_whose_wanted_answer_stands_still() -> None:
    forget, logits, _ = answering(1)
    refusal, retain = answering(3)[0], answering(2)[0]
    assert refusal.reference is not None
    still = dataclasses.replace(refusal, student=refusal.reference)
    one = slopes_of(method("npo", beta=0.4), forget, logits, retain=retain)
    other = slopes_of(method("dpo", beta=0.4), forget, logits, refusal=still, retain=retain)
    assert one[0] == pytest.approx(other[0], rel=1e-12)
    torch.testing.assert_close(one[1], other[1])


@pytest.mark.parametrize(
    ("special", "settings", "general", "of_general"),
    [
        ("wga", {"beta": 0.0, "retain_weight": 0.0}, "gradient_ascent", {}),
        ("wga", {"beta": 0.0, "retain_weight": 2.0}, "grad_diff", {"forget_weight": 1.0, "retain_weight": 2.0}),
        (
            "sat_imp",
            {"beta_saturation": 0.0, "beta_importance": 0.0, "forget_weight": 0.6, "retain_weight": 2.0},
            "grad_diff",
            {"forget_weight": 0.6, "retain_weight": 2.0},
        ),
        (
            "sat_imp",
            {"beta_saturation": 1.5, "beta_importance": 0.0, "forget_weight": 1.0, "retain_weight": 2.0},
            "wga",
            {"beta": 1.5, "retain_weight": 2.0},
        ),
    ],
)
def test_weighted_ascent_without_weights_is_plain(
    special: str, settings: dict[str, Any], general: str, of_general: dict[str, Any]
) -> None:
    forget, logits, _ = answering(4)
    retain = answering(5)[0]
    one = slopes_of(method(special, **settings), forget, logits, retain=retain)
    other = slopes_of(method(general, **of_general), forget, logits, retain=retain)
    assert one[0] == pytest.approx(other[0], rel=1e-6)  # weights are float32
    torch.testing.assert_close(one[1], other[1], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", ["npo", "dpo", "meow"])
def test_eight_rows_at_once_are_eight_parts_of_one(name: str, small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = method(name)
    settings = small.settings(forget_rows=8, retain_rows=8)
    material = small.material(chosen, settings)
    assert all(len(step["forget"]) == 8 for step in material.steps)
    runs = []
    for parts in (1, 8):
        seen: list[dict[str, Tensor]] = []

        def note(self: Any, parameters: Any, given: Given, seen: list[dict[str, Tensor]] = seen) -> None:
            seen.append({key: parameter.grad.clone() for key, parameter in parameters.items()})

        monkeypatch.setattr(type(chosen), "shape_gradients", note)
        _, aligned = small.align(chosen, material, small.settings(accumulation=parts))
        runs.append((aligned.history, seen[0]))
    (whole, at_once), (summed, in_parts) = runs
    for one, other in zip(whole, summed, strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    assert at_once
    for key, gradient in at_once.items():
        torch.testing.assert_close(in_parts[key], gradient, rtol=1e-3, atol=1e-5 * float(gradient.abs().max()), msg=key)


def test_sae_guided_without_pull_and_push_is_its_retain_term() -> None:
    """In plain loops, over positions that count."""
    generator = torch.Generator().manual_seed(0)
    old, now = (torch.randn(ROWS, 4, WIDTH, generator=generator, dtype=torch.float64) for _ in range(2))
    counts = torch.arange(4) < torch.tensor([[4], [1], [2], [3], [1]])
    scale = torch.tensor([0.5, 2.0, 1.1], dtype=torch.float64)
    made, logits, before = answering(6)
    rows = dataclasses.replace(made.rows, state_mask=counts)
    assert made.reference is not None
    student = Forward({SITE: now}, made.student.log_probabilities)
    retain = Group(rows, student, Forward({SITE: old}, made.reference.log_probabilities))
    unknown = {SITE: torch.randn(ROWS, 2, 4, WIDTH, generator=generator, dtype=torch.float64)}
    forget = Group(rows, Forward({SITE: now}, None), Forward({SITE: old}, None), unknown, unknown)
    columns, bias = torch.eye(WIDTH, dtype=torch.float64), torch.zeros(WIDTH, dtype=torch.float64)
    sae = SimpleNamespace(W_enc=columns, b_enc=bias, cfg=None, process_sae_in=lambda x: x)
    given = Given((SITE,), {SITE: Autoencoder(sae)}, {}, {SITE: scale}, 0)
    chosen = method("sae_guided", pull=0.0, push=0.0, answers=0.0, erase=0.0, retain_states=3.0, retain_answers=0.5)

    squares, states = 0.0, 0
    divergence, tokens = 0.0, 0
    for row in range(ROWS):
        for place in range(4):
            if counts[row, place]:
                moved = [float(now[row, place, d] - old[row, place, d]) for d in range(WIDTH)]
                squares += sum(each * each for each in moved) / WIDTH / (sum(scale.tolist()) / WIDTH)
                states += 1
        for place in range(5):
            if rows.answer_mask[row, place] or rows.end_mask[row, place]:
                for token in range(VOCABULARY):
                    first, second = (log_p(each[row, place].tolist(), token) for each in (before, logits))
                    divergence += math.exp(first) * (first - second)
                tokens += 1
    loss = chosen.loss({"forget": forget, "retain": retain}, given)
    assert loss.total.item() == pytest.approx(3 * squares / states + 0.5 * divergence / tokens, rel=1e-6)
    assert loss.parts["pull"] > 0
