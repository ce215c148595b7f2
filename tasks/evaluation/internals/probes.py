"""A probe for knownness: logistic regression on the states of other entities, and whether it may be believed.

Trained on three quarters of the known entities and on the unknown reference entities, held-out templates, targets and
other candidates left out; every (type, known or unknown) weighs the same. Inputs are standardised, the strength of L2
is chosen on a quarter of the training entities. It is admitted where it tells the remaining known from the unknown
held-out entities (AUROC at least .7, mean over types), and where it is selective (at least .1):

    selectivity = accuracy on true labels - accuracy on control labels, random but fixed per entity [-1, 1]

both trained on every other prompt of an entity and tested on the rest: a probe that learns names by heart does as well
on control labels.

Source:   control tasks: Hewitt & Liang 2019, arXiv 1909.03368.
Departs:  not balanced by the length of names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from jaxtyping import Bool, Float, Int

from tasks.evaluation.metric import Case, vectors
from tasks.evaluation.probing import KNOWN_ROLES, Place

STRENGTHS = (1e-4, 1e-3, 1e-2)
"""Inverse strengths of L2: weaker ones learn names by heart."""
LEAST_AUROC = 0.7
LEAST_SELECTIVITY = 0.1
CONTROLS = 3
"""Draws of control labels, averaged."""
STEPS = 30
TOLERANCE = 1e-5
"""Largest entry of the gradient per row at which a fit counts as done."""


@dataclass(frozen=True, eq=False)
class Sample:
    """States of known and unknown entities at one place; targets and other candidates are not among them."""

    states: Float[np.ndarray, "N D"]
    known: Bool[np.ndarray, " N"]
    entity: Int[np.ndarray, " N"]
    """Number of the entity, by its id."""
    kind: Int[np.ndarray, " N"]
    """Number of the entity's type, in `types`."""
    prompt: Int[np.ndarray, " N"]
    """Which of its entity's prompts it is, in the order of the question ids."""
    train: Bool[np.ndarray, " N"]
    types: tuple[str, ...] = ()

    def part(self, rows: Bool[np.ndarray, " N"]) -> Sample:
        """Some of the rows."""
        columns = {name: column[rows] for name, column in vars(self).items() if name != "types"}
        return Sample(**columns, types=self.types)


@dataclass(frozen=True, eq=False)
class Probe:
    """A direction and an offset; the standardisation is in them."""

    direction: Float[np.ndarray, " D"]
    offset: float

    def logit(self, states: Float[np.ndarray, "*B D"]) -> Float[np.ndarray, "*B"]:
        """log-odds of being known."""
        return states @ self.direction + self.offset


@dataclass(frozen=True, eq=False)
class Fitted:
    """A probe and what it is worth."""

    probe: Probe
    strength: float
    auroc: float
    """On held-out entities, mean over types [0, 1]."""
    held_out: int
    """Rows of these."""
    gains: Float[np.ndarray, " n"]
    """Per tested row, its part of the selectivity, which is their mean."""
    entity: Int[np.ndarray, " n"]
    """Entity of each of these rows."""

    @property
    def selectivity(self) -> float:
        return float(self.gains.mean()) if len(self.gains) else np.nan

    @property
    def admitted(self) -> bool:
        return self.auroc >= LEAST_AUROC and self.selectivity >= LEAST_SELECTIVITY


_FITTED: WeakKeyDictionary[Case, dict[tuple[str, Place], Fitted | None]] = WeakKeyDictionary()
"""Several metrics ask for the same probes."""


def home_of(model: str) -> str:
    """The model whose population says what known looks like in this one's space: a twin trained apart has its own."""
    return "gold" if model.partition("+")[0] == "gold" else "base"


def fitted(case: Case, model: str, place: Place) -> Fitted | None:
    """The probe of a model's own population; None where it was not observed or holds too few entities."""
    found = _FITTED.setdefault(case, {})
    if (model, place) not in found:
        population = case.models[model].population if model in case.models else None
        sample = sample_at(case, population, place) if population is not None else None
        found[model, place] = fit_and_admit(sample, case.seed) if sample is not None and _enough(sample) else None
    return found[model, place]


def sample_at(case: Case, population: Mapping[str, Any], place: Place) -> Sample:
    """Rows in the order of (entity, question), so that the order of the table makes no difference.

    Raises: ArithmeticError for states that are not finite.
    """
    rows = place.rows(population)
    names = np.asarray(population["entity"])[rows].astype(str)
    role = np.array([case.roles.get(name, "") for name in names])
    kept = np.isin(role, (*KNOWN_ROLES, "unknown_reference", "unknown_held_out"))
    rows, names, role = rows[kept], names[kept], role[kept]
    order = np.lexsort((np.asarray(population["question"])[rows], names))
    rows, names, role = rows[order], names[order], role[order]
    _, first, entity = np.unique(names, return_index=True, return_inverse=True)
    types, kind = np.unique([case.types[name] for name in names], return_inverse=True)
    known = np.isin(role, KNOWN_ROLES)
    states = vectors(population, place.site)[rows].astype(np.float64)
    if not np.isfinite(states).all():
        raise ArithmeticError(f"states at {place.name} are not finite")
    kept_out = _quarter(kind[first], known[first], np.random.default_rng(case.seed))
    train = np.where(known, ~kept_out[entity], role == "unknown_reference")
    return Sample(states, known, entity, kind, np.arange(len(rows)) - first[entity], train, tuple(types.tolist()))


def _quarter(kind: np.ndarray, label: np.ndarray, generator: np.random.Generator) -> Bool[np.ndarray, " E"]:
    """A quarter of the entities of every type and label."""
    taken = np.zeros(len(kind), dtype=bool)
    for each in np.unique(kind):
        for value in (False, True):
            members = np.flatnonzero((kind == each) & (label == value))
            taken[generator.permutation(members)[: (len(members) + 2) // 4]] = True
    return taken


def _enough(sample: Sample) -> bool:
    """Known and unknown entities of some type in both parts."""
    cells = {(bool(t), bool(k)) for t, k in zip(sample.train, sample.known, strict=True)}
    return len(cells) == 4 and len(np.unique(sample.entity[sample.train])) >= 8


def fit_and_admit(sample: Sample, seed: int) -> Fitted:
    """Choose the strength, fit, and see what it is worth."""
    train = sample.part(sample.train)
    entities, first = np.unique(train.entity, return_index=True)
    inner = _quarter(train.kind[first], train.known[first], np.random.default_rng(seed + 1))
    held = inner[np.searchsorted(entities, train.entity)]
    fit, check = train.part(~held), train.part(held)
    worth = {c: area_by_type(check, logistic(fit, fit.known, c).logit(check.states)) for c in STRENGTHS}
    strength = max(STRENGTHS, key=lambda c: (np.nan_to_num(worth[c]), -c))
    probe = logistic(train, train.known, strength)
    test = sample.part(~sample.train)
    gains, entity = selectivity(train, strength, seed)
    return Fitted(probe, strength, area_by_type(test, probe.logit(test.states)), len(test.states), gains, entity)


def logistic(sample: Sample, labels: Bool[np.ndarray, " N"], strength: float) -> Probe:
    """L2-regularised logistic regression on standardised states; every (type, label) weighs the same.

    Minimises strength · Σ weight · loss + ½‖w‖², the offset unpenalised, as scikit-learn does, by Newton steps solved
    with conjugate gradients: a dozen products with the states, where importing that library takes longer.
    """
    mean, deviation = sample.states.mean(0), sample.states.std(0)
    deviation = np.where(deviation > 0, deviation, 1.0)
    x = np.concatenate([(sample.states - mean) / deviation, np.ones((len(labels), 1))], 1).astype(np.float32)
    weight = (strength * balanced(sample.kind, labels)).astype(np.float32)
    penalty = np.ones(x.shape[1], dtype=np.float32)
    penalty[-1] = 0.0
    sign = np.where(labels, 1, -1).astype(np.float32)
    found = np.zeros(x.shape[1], dtype=np.float32)

    def objective(at: np.ndarray) -> float:
        return float(weight @ np.logaddexp(0, -sign * (x @ at)) + 0.5 * (penalty * at) @ at)

    value = objective(found)
    for _ in range(STEPS):
        chance = 1 / (1 + np.exp(-np.clip(x @ found, -30, 30)))
        gradient = x.T @ (weight * (chance - labels)) + penalty * found
        if np.abs(gradient).max() <= TOLERANCE * strength * len(labels):
            break
        curvature = weight * chance * (1 - chance)
        step = _conjugate(x, curvature, penalty, -gradient)
        while (then := objective(found + step)) > value and np.abs(step).max() > 1e-7:
            step = step / 2
        found, value = found + step, then
    direction = found[:-1].astype(np.float64) / deviation
    return Probe(direction, float(found[-1] - mean @ direction))


def _conjugate(x: np.ndarray, curvature: np.ndarray, penalty: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solves (xᵀ diag(curvature) x + diag(penalty)) s = right to a tenth of a percent."""
    found = np.zeros_like(right)
    residual, direction = right.copy(), right.copy()
    size = start = float(residual @ residual)
    for _ in range(len(right)):
        if size <= 1e-6 * start:
            break
        image = x.T @ (curvature * (x @ direction)) + penalty * direction
        length = size / float(direction @ image)
        found += length * direction
        residual -= length * image
        size, before = float(residual @ residual), size
        direction = residual + size / before * direction
    return found


def balanced(kind: Int[np.ndarray, " N"], labels: Bool[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """Weights of mean 1 that sum to the same for every (type, label)."""
    _, cell, count = np.unique(kind * 2 + labels, return_inverse=True, return_counts=True)
    return len(kind) / (len(count) * count[cell])


def area_by_type(sample: Sample, score: Float[np.ndarray, " N"]) -> float:
    """AUROC of known against unknown rows within each type, averaged; NaN where no type has both."""
    areas = [
        area(score[(sample.kind == kind) & sample.known], score[(sample.kind == kind) & ~sample.known])
        for kind in np.unique(sample.kind)
    ]
    areas = [each for each in areas if np.isfinite(each)]
    return float(np.mean(areas)) if areas else np.nan


def area(positive: np.ndarray, negative: np.ndarray) -> float:
    """P(positive > negative) + half P(equal); NaN where a side is empty."""
    if not len(positive) or not len(negative):
        return np.nan
    order = np.sort(negative)
    below, upto = np.searchsorted(order, positive, side="left"), np.searchsorted(order, positive, side="right")
    return float((below + upto).mean() / 2 / len(negative))


def selectivity(train: Sample, strength: float, seed: int) -> tuple[Float[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Per row of the other prompts, its part of accuracy on true less accuracy on control labels; and its entity."""
    odd = train.prompt % 2 == 1
    seen, asked = train.part(~odd), train.part(odd)
    if not len(asked.states):
        return np.zeros(0), np.zeros(0, dtype=np.int64)
    gains = _right(seen, asked, seen.known, asked.known, strength)
    generator = np.random.default_rng(seed + 2)
    entities, first = np.unique(train.entity, return_index=True)
    for _ in range(CONTROLS):
        control = np.zeros(len(entities), dtype=bool)
        for cell in np.unique(train.kind[first] * 2 + train.known[first]):
            members = np.flatnonzero(train.kind[first] * 2 + train.known[first] == cell)
            control[generator.permutation(members)[: len(members) // 2]] = True
        labels = [control[np.searchsorted(entities, part.entity)] for part in (seen, asked)]
        gains = gains - _right(seen, asked, labels[0], labels[1], strength) / CONTROLS
    return gains, asked.entity


def _right(
    seen: Sample, asked: Sample, labels: np.ndarray, truth: np.ndarray, strength: float
) -> Float[np.ndarray, " n"]:
    """Whether each row is told right, weighted so that every (type, label) counts the same."""
    told = logistic(seen, labels, strength).logit(asked.states) > 0
    return (told == truth) * balanced(asked.kind, truth)


def transfer(case: Case, model: str, place: Place) -> dict[str, tuple[float, int]]:
    """Type -> AUROC on its held-out entities of a probe trained on the other types, and their rows; empty without a probe."""
    own, population = fitted(case, model, place), case.models[model].population
    if own is None or population is None:
        return {}
    sample = sample_at(case, population, place)
    found = {}
    for kind in np.unique(sample.kind):
        mine = sample.kind == kind
        train, test = sample.part(sample.train & ~mine), sample.part(~sample.train & mine)
        if len(np.unique(train.known)) == 2 and len(np.unique(test.known)) == 2:
            area_ = area_by_type(test, logistic(train, train.known, own.strength).logit(test.states))
            found[sample.types[int(kind)]] = area_, len(test.states)
    return found
