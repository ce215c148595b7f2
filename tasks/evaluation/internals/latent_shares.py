"""How far selected latents fire on the target's held-out prompts, model beside model, at places the autoencoder describes.

f is the mean over prompts of the share of a kind's latents that are on, or (sites ending in `:margin`) of what is positive
of their pre-activations. What is compared is paired by question, and the interval resamples questions (targets, where
there are several) for both models together. A place counts only where the autoencoder describes the scored states
about as well as the base model's: the fraction of variance it leaves unexplained there must stay within 1.25 times the
base model's.
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


def firing(
    case: Case, model: str, kind: str, place: tuple[str, str], role: str = "target", by: str = "firing"
) -> Firing:
    """f on the questions about entities of a role, as far as these were scored, in the order of the questions.

    Raises: ArithmeticError for a value that is no number.
    """
    tables = case.models[model]
    assert tables.latents is not None
    table, (site, position) = tables.latents, place
    here = (
        (np.asarray(table["site"]) == site)
        & (np.asarray(table["position"]) == position)
        & (np.asarray(table["kind"]) == kind)
        & np.isin(np.asarray(table["question"]), np.asarray(tables.answers["question"]))
        & np.isin(np.asarray(table["entity"]).astype(str), entities_of(case, role))
    )
    rows = np.flatnonzero(here)
    rows = rows[np.argsort(np.asarray(table["question"])[rows], kind="stable")]
    values = np.asarray(table[by], dtype=float)[rows]
    if not np.isfinite(values).all():
        raise ArithmeticError(f"{int((~np.isfinite(values)).sum())} of {len(values)} views of latents are not finite")
    return Firing(np.asarray(table["question"])[rows], np.asarray(table["entity"])[rows], values)


def entities_of(case: Case, role: str) -> list[str]:
    """Entities that play a role, sorted."""
    return sorted(entity for entity, each in case.roles.items() if each == role)


def together(*parts: Firing) -> tuple[np.ndarray, list[np.ndarray]]:
    """Entities and values of the questions that all parts have."""
    shared = set(parts[0].question.tolist()).intersection(*(part.question.tolist() for part in parts[1:]))
    rows = [np.array([row for row, q in enumerate(part.question) if q in shared], dtype=np.int64) for part in parts]
    return parts[0].entity[rows[0]], [part.value[row] for part, row in zip(parts, rows, strict=True)]


def of_unknown(case: Case, kind: str, place: tuple[str, str], by: str = "firing") -> Firing:
    """f of the base model on unknown held-out entities of the target's type, as a value for each of the target's questions."""
    own, others = (firing(case, "base", kind, place, role, by) for role in ("target", "unknown_held_out"))
    sentence = sentence_of(case.models["base"].answers)
    groups: dict[tuple[str, Any], list[float]] = {}
    for question, entity, value in zip(others.question, others.entity, others.value, strict=True):
        groups.setdefault((case.types[entity], sentence[int(question)]), []).append(float(value))
    keys = [(case.types[e], sentence[int(q)]) for q, e in zip(own.question, own.entity, strict=True)]
    kept = np.array([row for row, key in enumerate(keys) if key in groups], dtype=np.int64)
    means = np.array([np.mean(groups[keys[row]]) for row in kept])
    return Firing(own.question[kept], own.entity[kept], means)


def unexplained(tables: Tables, place: tuple[str, str], entities: Sequence[str]) -> float:
    """Fraction of variance that the autoencoder leaves unexplained in the states of some entities, [0, ∞)."""
    assert tables.latents is not None
    table: Mapping[str, Any] = tables.latents["quality"]
    site, position = place
    rows = (
        (np.asarray(table["site"]) == site)
        & (np.asarray(table["position"]) == position)
        & np.isin(np.asarray(table["entity"]).astype(str), entities)
    )
    scatter = float(np.asarray(table["scatter"])[rows].sum())
    return float(np.asarray(table["residue"])[rows].sum()) / scatter if scatter > 0 else np.nan


def described(case: Case, model: str, place: tuple[str, str], role: str = "target") -> bool:
    """Whether the autoencoder describes the model's states of these entities about as well as the base model's."""
    entities = entities_of(case, role)
    own, base = (unexplained(case.models[name], place, entities) for name in (model, "base"))
    return own <= GUARD * base


def ratio_measurement(
    case: Case,
    model: str,
    site: str,
    parts: Sequence[Firing],
    value: Callable[[list[np.ndarray]], np.ndarray],
    scale: Callable[[list[np.ndarray]], np.ndarray],
    described: bool,
) -> Measurement:
    """`value(means of the parts)` with its interval; `degenerate` where the scale it is measured on may be nothing."""
    entities, columns = together(*parts)
    if not len(entities):
        return Measurement("forget", model, np.nan, np.nan, np.nan, 0, site, "degenerate")
    whole = [np.array([column.mean()]) for column in columns]
    drawn = [resampled_means(column, list(entities), draws=case.draws, seed=case.seed) for column in columns]
    if interval(scale(drawn), case.confidence)[0] <= 0:
        return Measurement("forget", model, np.nan, np.nan, np.nan, len(entities), site, "degenerate")
    with np.errstate(divide="ignore", invalid="ignore"):
        resampled = value(drawn)
    low, high = interval(resampled[np.isfinite(resampled)], case.confidence)
    state = "ok" if described else "degenerate"
    return Measurement("forget", model, float(value(whole)[0]), low, high, len(entities), site, state)


def readings(case: Case) -> Iterator[tuple[tuple[str, str], str, str]]:
    """Every place, what is read there, and the score's site: firing shares under the place's name, margins beside it."""
    for place in places_of(case.models["base"]):
        for by in ("firing", "margin"):
            yield place, by, "@".join(place) + ("" if by == "firing" else ":margin")


def looked_at(case: Case) -> list[str]:
    """Models beside base; those under stress only where their latents were looked at."""
    return [
        model for model, tables in case.models.items()
        if model != "base" and not ("+" in model and tables.latents is None)
    ]  # fmt: skip


def without_views(case: Case, model: str, split: str = "forget") -> Measurement | None:
    """`missing_reference` where the base model or this one was not looked at through an autoencoder."""
    if any(case.models[name].latents is None for name in ("base", model)):
        return Measurement(split, model, np.nan, np.nan, np.nan, 0, state="missing_reference")
    return None


def suppressed(case: Case, kind: str) -> Iterator[Measurement]:
    """1 - f(model) / f(base), clipped to [0, 1], of every model but base that was looked at."""
    for model in looked_at(case):
        if missing := without_views(case, model):
            yield missing
            continue
        for place, by, site in readings(case):
            parts = [firing(case, name, kind, place, by=by) for name in ("base", model)]
            yield ratio_measurement(
                case,
                model,
                site,
                parts,
                lambda means: np.clip(1 - means[1] / means[0], 0, 1),
                lambda means: means[0],
                described(case, model, place),
            )


def spilled(case: Case, model: str, place: tuple[str, str], split: str, role: str) -> Measurement:
    """Mean over live latents of |f_j(model) - f_j(base)| over the rows of a role's entities."""
    site = "@".join(place)
    changes, counts = _changes(case, model, place, entities_of(case, role))
    if not len(counts) or not changes.shape[1]:
        return Measurement(split, model, np.nan, np.nan, np.nan, len(counts), site, "degenerate")
    value = float(np.abs(changes.sum(0) / counts.sum()).mean())
    generator = np.random.default_rng(case.seed)
    draws = min(case.draws, 500)
    weight = generator.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), draws).astype(float)
    drawn = np.abs(weight @ changes / (weight @ counts)[:, None]).mean(1)
    # The mean of absolute values grows with the noise of drawing: only its spread is taken.
    low, high = interval(np.maximum(drawn + (value - drawn.mean()), 0), case.confidence)
    state = "ok" if described(case, model, place, role) else "degenerate"
    return Measurement(split, model, value, low, high, len(counts), site, state)


def _changes(
    case: Case, model: str, place: tuple[str, str], entities: Sequence[str]
) -> tuple[Float[np.ndarray, "E J"], Float[np.ndarray, " E"]]:
    """Rows on which each live latent is on, more in the model than in base, per entity; and the rows of each entity."""
    fired, counts = [], []
    for name in ("base", model):
        tables = case.models[name]
        assert tables.latents is not None
        fired.append(_sparse(tables.latents["active"], place, "fired"))
        counts.append(
            {entity: count for (entity, _), count in _sparse(tables.latents["quality"], place, "count").items()}
        )
    kept = [e for e in entities if counts[0].get(e) and counts[0].get(e) == counts[1].get(e)]
    row = {entity: index for index, entity in enumerate(kept)}
    live = sorted({latent for part in fired for entity, latent in part if entity in row})
    column = {latent: index for index, latent in enumerate(live)}
    changes = np.zeros((len(kept), len(live)))
    for part, sign in zip(fired, (-1, 1), strict=True):
        for (entity, latent), value in part.items():
            if entity in row:
                changes[row[entity], column[latent]] += sign * value
    return changes, np.array([counts[0][entity] for entity in kept], dtype=float)


def _sparse(table: Mapping[str, Any], place: tuple[str, str], name: str) -> dict[tuple[str, int], float]:
    """(entity, latent) -> value at a place; latent -1 in a table without latents."""
    rows = np.flatnonzero((np.asarray(table["site"]) == place[0]) & (np.asarray(table["position"]) == place[1]))
    latents = np.asarray(table["latent"])[rows] if "latent" in table else np.full(len(rows), -1)
    entities = np.asarray(table["entity"])[rows]
    return {
        (str(entity), int(latent)): float(value)
        for entity, latent, value in zip(entities, latents, np.asarray(table[name])[rows], strict=True)
    }
