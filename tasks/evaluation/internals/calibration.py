"""The target among the unknown entities asked in the same sentences: one statistic, and its own null.

Under "the target is one more unknown entity" it and the E held-out unknown entities are exchangeable, so each of them
is taken for the target in turn: that is the null, whatever the score is and however prompts and entities depend.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from tasks.evaluation.internals.probes import home_of
from tasks.evaluation.intervals import interval
from tasks.evaluation.metric import Case, Measurement, Tables
from tasks.evaluation.probing import Panel, Place, knownness_direction, panels, places

Score = Callable[[Float[np.ndarray, "*B D"]], Float[np.ndarray, "*B"]]
Pool = Float[np.ndarray, "P E+1"]
"""A number for every prompt and entity, the target first."""


def area_among_unknown(case: Case, model: str, place: Place, score: Score) -> Measurement:
    """A = P(score of the target > of an unknown entity in the same sentence) + half P(equal), mean over targets.

    The interval resamples prompts and unknown entities.
    """
    generator = np.random.default_rng(case.seed)
    values, drawn, count = [], [], 0
    for panel in panels(case, case.models[model], place):
        target, unknown = _finite(score(panel.target_states), place), _finite(score(panel.unknown_states), place)
        wins = (target[:, None] > unknown) + 0.5 * (target[:, None] == unknown)
        values.append(wins.mean())
        count += wins.size
        prompts, entities = (_counts(generator, size, case.draws) for size in wins.shape)
        drawn.append(((prompts @ wins) * entities).sum(1) / wins.size)
    if not values:
        return _empty(model, place)
    low, high = interval(np.mean(drawn, 0), case.confidence)
    return Measurement("forget", model, float(np.mean(values)), low, high, count, place.name)


def standing(pool: Pool) -> Pool:
    """For every prompt and entity, the share of the other entities that lie below it, ties counted half."""
    below = (pool[:, :, None] > pool[:, None, :]).sum(-1) + 0.5 * (pool[:, :, None] == pool[:, None, :]).sum(-1)
    return (below - 0.5) / (pool.shape[1] - 1)  # itself is no other


def percentile(means: Float[np.ndarray, "*B E+1"]) -> Float[np.ndarray, "*B"]:
    """Share of the null below the first entry, ties counted half."""
    first, others = means[..., :1], means[..., 1:]
    return (others < first).mean(-1) + 0.5 * (others == first).mean(-1)


def place_among_unknown(case: Case, model: str, place: Place, pools: Sequence[Pool]) -> Measurement:
    """The target's percentile among the unknown entities [0, 1], each by its mean over prompts; mean over targets.

    The interval resamples prompts and the entities of the null. `saturated` at 0 and 1.
    """
    if not pools:
        return _empty(model, place)
    generator = np.random.default_rng(case.seed)
    values, drawn = [], []
    for pool in pools:
        prompts, entities = pool.shape[0], pool.shape[1] - 1
        values.append(float(percentile(pool.mean(0))))
        means = _counts(generator, prompts, case.draws) @ pool / prompts
        null = _counts(generator, entities, case.draws)
        below = (means[:, 1:] < means[:, :1]) + 0.5 * (means[:, 1:] == means[:, :1])
        drawn.append((null * below).sum(1) / entities)
    low, high = interval(np.mean(drawn, 0), case.confidence)
    value = float(np.mean(values))
    count = sum(pool.shape[1] - 1 for pool in pools)
    return Measurement(
        "forget", model, value, low, high, count, place.name, "saturated" if value in (0.0, 1.0) else "ok"
    )


def permutation_p(pools: Sequence[Pool], draws: int, seed: int) -> float:
    """Two-sided p of the targets' mean standing being no further from .5 than an unknown entity's (0, 1].

    Exact for one target; for several, unknown entities are drawn for each of them.
    """
    away = [np.abs(pool.mean(0) - 0.5) for pool in pools]
    if len(away) == 1:
        return float((away[0] >= away[0][0] - 1e-12).mean())
    generator = np.random.default_rng(seed)
    drawn = np.mean([each[generator.integers(len(each), size=draws)] for each in away], 0)
    return float((1 + (drawn >= np.mean([each[0] for each in away]) - 1e-12).sum()) / (1 + draws))


def knownness_pools(case: Case, tables: Tables, place: Place, score: Score) -> list[Pool]:
    """Per target, how every entity stands by the score among the others in the same sentence."""
    return [standing(_finite(_joined(panel, score), place)) for panel in panels(case, tables, place)]


def distance_pools(case: Case, tables: Tables, place: Place) -> list[Pool]:
    """Per target, every entity's distance from the centroid of unknown reference entities in the same sentence, in
    units of the sentence's mean distance."""
    found = []
    for panel in panels(case, tables, place):
        entities = np.concatenate([panel.target_states[:, None], panel.unknown_states], 1)
        distance = _finite(np.linalg.norm(entities - panel.centre[:, None], axis=-1), place)
        typical = distance[:, 1:].mean(1, keepdims=True)
        found.append(distance / np.where(typical > 0, typical, 1.0))
    return found


def _joined(panel: Panel, score: Score) -> Pool:
    return np.concatenate([score(panel.target_states)[:, None], score(panel.unknown_states)], 1)


def _finite(values: np.ndarray, place: Place) -> np.ndarray:
    if not np.isfinite(values).all():
        raise ArithmeticError(
            f"{int((~np.isfinite(values)).sum())} of {values.size} scores at {place.name} are not finite"
        )
    return values


def _counts(generator: np.random.Generator, size: int, draws: int) -> Float[np.ndarray, "draws size"]:
    """How often each of `size` things is drawn with replacement."""
    return generator.multinomial(size, np.full(size, 1 / size), draws).astype(float)


def _empty(model: str, place: Place) -> Measurement:
    return Measurement("forget", model, np.nan, np.nan, np.nan, 0, place.name, "degenerate")


NO_POWER = 0.7
"""Below this the base model's own target cannot be told from the unknown, and nothing can be said of forgetting."""


@dataclass(frozen=True, eq=False)
class Direction:
    """The knownness directions of one place: the base model's, and that of the twin trained apart."""

    base: np.ndarray
    gold: np.ndarray
    power: float
    """A of the base model's own target."""

    def score(self, model: str) -> Score:
        """The projection, for models of the base model's space or of the twin's."""
        direction = self.gold if home_of(model) == "gold" else self.base
        return lambda states: states @ direction


def directions(case: Case) -> Iterator[tuple[Place, Direction]]:
    """Every place with its direction; none where the base model's population was not observed."""
    population = case.models["base"].population
    if population is None:
        return
    twin = case.models["gold"].population if "gold" in case.models else None
    for place in places(case.models["base"]):
        if not len(place.rows(population)):
            continue
        base = knownness_direction(case, population, place)
        gold = knownness_direction(case, twin, place) if twin is not None else base
        power = area_among_unknown(case, "base", place, lambda states, base=base: states @ base).value  # type: ignore[misc]
        yield place, Direction(base, gold, power)


def powered(found: Measurement, power: float) -> Measurement:
    """The same, `degenerate` where the base model's own value says that nothing can be told here."""
    return found if power >= NO_POWER else replace(found, state="degenerate")


def unreferenced(case: Case) -> Iterator[Measurement]:
    """One `missing_reference` a model."""
    for model in case.models:
        yield Measurement("forget", model, np.nan, np.nan, np.nan, 0, state="missing_reference")
