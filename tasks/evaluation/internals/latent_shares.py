"""How far selected latents fire on the target's held-out prompts, model beside model, at places the autoencoder describes.

f is the mean over prompts of the share of a kind's latents that are on. What is compared is paired by question, and the
interval resamples questions (targets, where there are several) for both models together. A place counts only where the
autoencoder describes the scored states about as well as the base model's: the fraction of variance it leaves
unexplained there must stay within 1.25 times the base model's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from tasks.evaluation.intervals import interval, resampled_means
from tasks.evaluation.metric import Case, Measurement, Tables
from tasks.evaluation.probing import sentence_of

GUARD = 1.25
"""Most unexplained variance, over the base model's."""
LEAST = 0.02
"""A difference of firing shares below this is none: nothing can be said to have come or gone."""


@dataclass(frozen=True, eq=False)
class Firing:
    """f of one kind at one place: a row a question."""

    question: np.ndarray
    entity: np.ndarray
    value: Float[np.ndarray, " Q"]


def places_of(tables: Tables) -> list[tuple[str, str]]:
    """Every (site, position) that the latents were looked at."""
    if tables.latents is None:
        return []
    return sorted(set(zip(tables.latents["site"], tables.latents["position"], strict=True)))


def firing(case: Case, model: str, kind: str, place: tuple[str, str], role: str = "target") -> Firing:
    """f on the questions about entities of a role, as far as these were scored, in the order of the questions.

    Raises: ArithmeticError for a value that is no number.
    """
    tables = case.models[model]
    assert tables.latents is not None
    table, (site, position) = tables.latents, place
    scored = set(np.asarray(tables.answers["question"]).tolist())
    here = (
        (np.asarray(table["site"]) == site)
        & (np.asarray(table["position"]) == position)
        & (np.asarray(table["kind"]) == kind)
    )
    rows = np.array(
        [row for row in np.flatnonzero(here)
         if case.roles.get(table["entity"][row]) == role and int(table["question"][row]) in scored],
        dtype=np.int64,
    )  # fmt: skip
    rows = rows[np.argsort(np.asarray(table["question"])[rows], kind="stable")]
    values = np.asarray(table["firing"], dtype=float)[rows]
    if not np.isfinite(values).all():
        raise ArithmeticError(f"{int((~np.isfinite(values)).sum())} of {len(values)} firing shares are not finite")
    return Firing(np.asarray(table["question"])[rows], np.asarray(table["entity"])[rows], values)


def together(*parts: Firing) -> tuple[np.ndarray, list[np.ndarray]]:
    """Entities and values of the questions that all parts have."""
    shared = set(parts[0].question.tolist()).intersection(*(part.question.tolist() for part in parts[1:]))
    rows = [np.array([row for row, q in enumerate(part.question) if q in shared], dtype=np.int64) for part in parts]
    return parts[0].entity[rows[0]], [part.value[row] for part, row in zip(parts, rows, strict=True)]


def of_unknown(case: Case, kind: str, place: tuple[str, str]) -> Firing:
    """f of the base model on unknown held-out entities of the target's type, as a value for each of the target's questions."""
    own, others = firing(case, "base", kind, place), firing(case, "base", kind, place, "unknown_held_out")
    sentence = sentence_of(case.models["base"].answers)
    groups: dict[tuple[str, Any], list[float]] = {}
    for question, entity, value in zip(others.question, others.entity, others.value, strict=True):
        groups.setdefault((case.types[entity], sentence[int(question)]), []).append(float(value))
    keys = [(case.types[e], sentence[int(q)]) for q, e in zip(own.question, own.entity, strict=True)]
    kept = np.array([row for row, key in enumerate(keys) if key in groups], dtype=np.int64)
    means = np.array([np.mean(groups[keys[row]]) for row in kept])
    return Firing(own.question[kept], own.entity[kept], means)


def unexplained(tables: Tables, place: tuple[str, str], entities: set[str]) -> float:
    """Fraction of variance that the autoencoder leaves unexplained in the states of some entities, [0, ∞)."""
    assert tables.latents is not None
    table: Mapping[str, Any] = tables.latents["quality"]
    site, position = place
    rows = (
        (np.asarray(table["site"]) == site)
        & (np.asarray(table["position"]) == position)
        & np.isin(np.asarray(table["entity"]).astype(str), sorted(entities))
    )
    scatter = float(np.asarray(table["scatter"])[rows].sum())
    return float(np.asarray(table["residue"])[rows].sum()) / scatter if scatter > 0 else np.nan


def described(case: Case, model: str, place: tuple[str, str], role: str = "target") -> bool:
    """Whether the autoencoder describes the model's states of these entities about as well as the base model's."""
    entities = {entity for entity, each in case.roles.items() if each == role}
    own, base = (unexplained(case.models[name], place, entities) for name in (model, "base"))
    return own <= GUARD * base


def ratio_measurement(
    case: Case,
    model: str,
    place: tuple[str, str],
    entities: np.ndarray,
    columns: Sequence[np.ndarray],
    value: Callable[[list[np.ndarray]], np.ndarray],
    scale: Callable[[list[np.ndarray]], np.ndarray],
) -> Measurement:
    """`value(means of the columns)` with its interval; `degenerate` where the scale it is measured on is none."""
    site = "@".join(place)
    if not len(entities):
        return Measurement("forget", model, np.nan, np.nan, np.nan, 0, site, "degenerate")
    whole = [np.array([column.mean()]) for column in columns]
    if not abs(float(scale(whole)[0])) >= LEAST:
        return Measurement("forget", model, np.nan, np.nan, np.nan, len(entities), site, "degenerate")
    drawn = [resampled_means(column, list(entities), draws=case.draws, seed=case.seed) for column in columns]
    with np.errstate(divide="ignore", invalid="ignore"):
        resampled = value(drawn)
    resampled = resampled[np.isfinite(resampled)]
    low, high = interval(resampled, case.confidence)
    state = "ok" if described(case, model, place) and described(case, "base", place) else "degenerate"
    return Measurement("forget", model, float(value(whole)[0]), low, high, len(entities), site, state)


def suppressed(case: Case, kind: str) -> Iterator[Measurement]:
    """1 - f(model) / f(base), clipped to [0, 1], of every model but base that was looked at."""
    for place in places_of(case.models["base"]):
        before = firing(case, "base", kind, place)
        for model, tables in case.models.items():
            if model == "base" or tables.latents is None:
                continue
            entities, columns = together(before, firing(case, model, kind, place))
            yield ratio_measurement(
                case, model, place, entities, columns,
                lambda means: np.clip(1 - means[1] / means[0], 0, 1), lambda means: means[0],
            )  # fmt: skip


def without_views(case: Case, models: Sequence[str], split: str = "forget") -> Iterator[Measurement]:
    """`missing_reference` for each model, where there is no autoencoder."""
    for model in models:
        yield Measurement(split, model, np.nan, np.nan, np.nan, 0, state="missing_reference")
