"""The projected step: the optimiser's own where nothing is at stake, the nearest harmless one where something is."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as some
from torch import Tensor, nn

from tasks.alignment.material import Material
from tasks.alignment.method import Batch, Given, Group, Loss, Trained
from tasks.alignment.passes import compute
from tasks.alignment.projection import EPSILON, KEPT, GeometricProjection, multipliers
from tasks.alignment.terms import answer_log_probability, retain_likelihood
from tasks.models.load import LoadedModel

BETAS = (0.9, 0.98)


@dataclass(frozen=True)
class Ascent(Trained):
    """Pushes the forget answers down, and what is to be retained as well."""

    harm: float = 0.0
    needs: ClassVar = {"forget": frozenset({"answers"}), "retain": frozenset({"answers"})}

    def loss(self, batch: Batch, given: Given) -> Loss:
        forget, retain = (answer_log_probability(batch[name], batch[name].student).mean() for name in self.needs)
        return Loss(forget + self.harm * retain, {"forget": forget, "retain": retain})


class Twins:
    """Two parameters that AdamW moves along given gradients, once as it is and once projected."""

    def __init__(self, seed: int = 0, kept: int = KEPT) -> None:
        generator = torch.Generator().manual_seed(seed)
        start = [torch.randn(3, 2, generator=generator), torch.randn(4, generator=generator)]
        self.plain, self.projected = ([nn.Parameter(each.clone()) for each in start] for _ in range(2))
        self.optimisers = [self._optimiser(each) for each in (self.plain, self.projected)]
        self.retain: Sequence[Tensor] = []
        self.projection = GeometricProjection(self.projected, lambda step: self._retain_loss(), kept)

    def _optimiser(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=0.01, betas=BETAS, weight_decay=0.0)

    def _retain_loss(self) -> Tensor:
        return sum((g * p).sum() for g, p in zip(self.retain, self.projected, strict=True))  # type: ignore[return-value]

    def step(self, gradients: Sequence[Tensor], retain: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The plain and the projected step, flat, both from where the projected parameters are."""
        with torch.no_grad():
            for own, other in zip(self.plain, self.projected, strict=True):
                own.copy_(other)
        before = flat(self.projected)
        self.retain = retain
        for parameters in (self.plain, self.projected):
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient.clone()
        self.optimisers[0].step()
        self.projection.update(0, self.optimisers[1])
        return flat(self.plain) - before, flat(self.projected) - before

    def inverse_metric(self) -> Tensor:
        """1 / (√v̂ + ε)."""
        found = []
        for parameter in self.projected:
            state = self.optimisers[1].state[parameter]
            found.append((state["exp_avg_sq"] / (1 - BETAS[1] ** float(state["step"]))).sqrt().flatten())
        return 1 / (torch.cat(found).double() + EPSILON)


def flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([each.detach().flatten() for each in tensors]).double()


def gradients(generator: torch.Generator) -> list[Tensor]:
    return [torch.randn(3, 2, generator=generator), torch.randn(4, generator=generator)]


def test_without_an_active_constraint_the_step_is_the_optimisers_own() -> None:
    generator, twins = torch.Generator().manual_seed(1), Twins()
    start = flat(twins.projected)
    once = gradients(generator)
    for _ in range(12):
        plain, projected = twins.step(once, [2 * each for each in once])  # what is retained gains by it
        assert torch.equal(plain, projected)
        assert all(torch.equal(*pair) for pair in zip(twins.plain, twins.projected, strict=True)), "bit for bit"
    assert bool((flat(twins.projected) != start).all())
    assert len(twins.projection.gradients) == KEPT


@pytest.mark.parametrize("seed", range(4))
def test_one_gradient_is_met_by_hand(seed: int) -> None:
    generator, twins = torch.Generator().manual_seed(seed), Twins(seed, kept=1)
    corrected = 0
    for _ in range(10):
        retain = gradients(generator)
        plain, projected = twins.step(gradients(generator), retain)
        g, inverse = flat(retain), twins.inverse_metric()
        weight = max(0.0, float(g @ plain / (g @ (inverse * g))))
        torch.testing.assert_close(projected, plain - weight * inverse * g, rtol=1e-4, atol=1e-7)
        corrected += weight > 0
        assert float(g @ projected) <= 1e-4 * float(g.abs() @ plain.abs())
    assert 0 < corrected < 10, "both cases were there"


def test_past_gradients_count_until_they_are_forgotten() -> None:
    generator, twins = torch.Generator().manual_seed(5), Twins(kept=3)
    seen: list[Tensor] = []
    for _ in range(12):
        retain = gradients(generator)
        seen.append(flat(retain))
        plain, projected = twins.step(gradients(generator), retain)
        for g in seen[-3:]:
            assert float(g @ projected) <= 1e-4 * float(g.abs() @ plain.abs())
    assert len(twins.projection.gradients) == 3
    assert torch.equal(flat(twins.projection.gradients[0]), seen[-1])
    assert any(float(g @ projected) > 0 for g in seen[:-3]), "those may rise again"


def test_what_the_optimiser_never_moved_stays() -> None:
    """ε alone would make it the cheapest to move: a method's mask would be undone."""
    generator, twins = torch.Generator().manual_seed(2), Twins()
    start = [each.detach().clone() for each in twins.projected]
    for _ in range(5):
        masked = gradients(generator)
        masked[0][1] = 0
        retain = [other - each for each, other in zip(masked, gradients(generator), strict=True)]
        retain[0][1] = 100.0
        plain, projected = twins.step(masked, retain)
        assert not torch.equal(plain, projected)
        assert float(flat(retain) @ projected) <= 1e-4 * float(flat(retain) @ plain)
    assert torch.equal(twins.projected[0][1], start[0][1])
    assert bool((twins.projected[0][0] != start[0][0]).all())


def test_a_gradient_that_is_not_finite_is_refused() -> None:
    generator, twins = torch.Generator().manual_seed(2), Twins()
    broken = gradients(generator)
    broken[1][0] = torch.nan
    with pytest.raises(ArithmeticError, match="the gradient of the retain loss is not finite at step 0"):
        twins.step(gradients(generator), broken)


@dataclass(frozen=True, eq=False)
class Problem:
    """G `d r`, M⁻¹ `d`, Δ₀ `d`."""

    columns: np.ndarray
    inverse: np.ndarray
    step: np.ndarray

    @property
    def kernel(self) -> np.ndarray:
        return self.columns.T @ (self.inverse[:, None] * self.columns)

    @property
    def rise(self) -> np.ndarray:
        return self.columns.T @ self.step

    def solved(self) -> tuple[np.ndarray, np.ndarray]:
        """μ and Δ*."""
        weights = multipliers(self.kernel, self.rise)
        return weights, self.step - self.inverse * (self.columns @ weights)

    def cost(self, step: np.ndarray) -> float:
        return float(((step - self.step) ** 2 / self.inverse).sum())


@some.composite
def problems(draw: some.DrawFn) -> Problem:
    """Gradients of very different sizes, some of them copies of others or their opposites, and steps of any size."""
    random = np.random.default_rng(draw(some.integers(0, 10**6)))
    width, count = draw(some.integers(1, 10)), draw(some.integers(1, 8))
    columns = [random.normal(size=width)]
    for kind in draw(
        some.lists(some.sampled_from(["new", "copy", "near", "zero"]), min_size=count - 1, max_size=count - 1)
    ):
        other = columns[random.integers(len(columns))]
        columns.append(
            {
                "new": random.normal(size=width) * 10.0 ** random.uniform(-6, 6),
                "copy": other * random.choice([-1.0, 1.0]),
                "near": other + 0.03 * np.abs(other).max() * random.normal(size=width),
                "zero": np.zeros(width),
            }[kind]
        )  # fmt: skip
    inverse, size = 10.0 ** random.uniform(-1, 1, size=width), 10.0 ** draw(some.integers(-12, 3))
    return Problem(np.stack(columns, axis=1), inverse, size * random.normal(size=width))


@effort(max_examples=300, deadline=None)
@given(problem=problems())
def test_the_solution_is_optimal(problem: Problem) -> None:
    """Feasible, complementary, with multipliers that are not negative: the only minimum of a convex problem."""
    weights, step = problem.solved()
    size = np.sqrt(np.diag(problem.kernel))
    unit = np.abs(problem.rise[size > 0] / size[size > 0]).max()
    left = problem.columns.T @ step / np.where(size > 0, size, 1.0)
    assert (weights >= 0).all()
    assert left.max() <= 1e-6 * unit
    assert np.abs(left[weights > 0]).max(initial=0.0) <= 1e-6 * unit
    if (problem.rise <= 0).all():
        assert (weights == 0).all()


def test_no_other_harmless_step_is_nearer() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        columns, inverse = random.normal(size=(4, 2)), 10.0 ** random.uniform(-1, 1, size=4)
        problem = Problem(columns, inverse, random.normal(size=4))
        _, step = problem.solved()
        others = step + random.normal(size=(4000, 4)) * 10.0 ** random.uniform(-3, 0, size=(4000, 1))
        harmless = others[(others @ columns <= 0).all(axis=1)]
        assert len(harmless) > 100
        assert min(map(problem.cost, harmless)) >= problem.cost(step) - 1e-9


def test_by_hand_with_two_constraints() -> None:
    columns, inverse = np.array([[1.0, 1.0], [0.0, 1.0]]), np.ones(2)
    # Both rise; the step is undone as a whole: G μ = Δ₀ with μ = (1, 1).
    weights, step = Problem(columns, inverse, np.array([2.0, 1.0])).solved()
    np.testing.assert_allclose(weights, [1.0, 1.0])
    np.testing.assert_allclose(step, [0.0, 0.0], atol=1e-12)
    # To meet the second is to meet the first: (1, 3) becomes (-1, 1).
    weights, step = Problem(columns, inverse, np.array([1.0, 3.0])).solved()
    np.testing.assert_allclose(weights, [0.0, 2.0])
    np.testing.assert_allclose(step, [-1.0, 1.0])


@pytest.mark.parametrize("apart", [0.0, 1e-12, 1e-9, 1e-6, 1e-3])
def test_nearly_parallel_gradients_count_once(apart: float) -> None:
    random = np.random.default_rng(1)
    first, step = random.normal(size=6), random.normal(size=6)
    step = step if first @ step > 0 else -step
    columns = np.stack([first, *(first + apart * random.normal(size=6) for _ in range(3))], axis=1)
    alone = Problem(columns[:, :1], np.ones(6), step).solved()[1]
    weights, together = Problem(columns, np.ones(6), step).solved()
    assert np.isfinite(weights).all()
    np.testing.assert_allclose(together, alone, atol=max(1e-6, 20 * apart))
    assert (columns.T @ together).max() <= 1e-6
    _, opposed = Problem(np.stack([first, -first], axis=1), np.ones(6), step).solved()
    np.testing.assert_allclose(opposed, alone, atol=1e-9)


def retained(student: LoadedModel, material: Material, rows: Sequence[int]) -> Tensor:
    """The retain loss on these rows, nats."""
    picked = material.groups["retain"].pick(torch.tensor(rows))
    return retain_likelihood(Group(picked, compute(student, picked, (), states=False, answers=True), None))


def trained(student: LoadedModel) -> dict[str, nn.Parameter]:
    return {name: each for name, each in student.model.named_parameters() if "embed" not in name}


def test_the_retain_loss_of_a_model_does_not_rise_to_first_order(small: Any) -> None:
    method, settings = Ascent(harm=1.0), small.settings(steps=1, learning_rate=1e-4, forget_rows=8, retain_rows=14)
    material = small.material(method, settings)
    rows = material.steps[0]["retain"]
    start = small.model()
    before = retained(start, material, rows)
    gradient = flat(torch.autograd.grad(before, list(trained(start).values())))
    rises, slopes = {}, {}
    for projection in ("none", "geometric"):
        student, aligned = small.align(method, material, dataclasses.replace(settings, projection=projection))
        step = flat(list(trained(student).values())) - flat(list(trained(start).values()))
        assert len(aligned.history) == 1
        assert float((step != 0).double().mean()) > 0.5, "parameters moved"
        slopes[projection] = float(gradient @ step)
        with torch.no_grad():
            rises[projection] = float(retained(student, material, rows) - before)
    assert slopes["none"] > 0
    assert slopes["geometric"] <= 1e-3 * slopes["none"]
    assert rises["none"] > 0
    assert rises["geometric"] < 0.1 * rises["none"]


def test_a_projected_run_forgets_at_less_cost(small: Any) -> None:
    method = Ascent(harm=0.5)
    costs, forgotten = {}, {}
    for projection in ("none", "geometric"):
        settings = small.settings(steps=12, learning_rate=3e-4, projection=projection, forget_rows=8, retain_rows=12)
        material = small.material(method, settings)
        every = range(len(material.groups["retain"]))
        student, aligned = small.align(method, material, settings)
        with torch.no_grad():
            costs[projection] = float(retained(student, material, every) - retained(small.model(), material, every))
        forgotten[projection] = aligned.history[0]["forget"] - aligned.history[-1]["forget"]
    assert forgotten["geometric"] > 0.5 * forgotten["none"] > 0
    assert costs["none"] > 0
    assert costs["geometric"] < 0.3 * costs["none"], costs
