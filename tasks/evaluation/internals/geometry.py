"""How alike two models' states are as wholes, and where a few of them went: for figures, not for verdicts."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from tasks.evaluation.metric import vectors
from tasks.evaluation.probing import Place


def linear_cka(first: Float[np.ndarray, "N D"], second: Float[np.ndarray, "N E"]) -> float:
    """‖YᵀX‖²_F / (‖XᵀX‖_F ‖YᵀY‖_F) of centred columns [0, 1]; NaN where one side does not vary.

    Unmoved by rotations and by one scale for all; biased up where rows are few beside the width.
    """
    x, y = ((each - each.mean(0, dtype=np.float64)).astype(np.float32) for each in (first, second))
    scale = float(np.linalg.norm(x.T @ x)) * float(np.linalg.norm(y.T @ y))
    return float(np.linalg.norm(y.T @ x)) ** 2 / scale if scale > 0 else np.nan


def principal(
    states: Float[np.ndarray, "N D"], count: int = 2
) -> tuple[Float[np.ndarray, "k D"], Float[np.ndarray, " k"]]:
    """The first principal directions of centred states, and the standard deviation along each.

    The sign is such that a direction's largest entry is positive.
    """
    centred = states.astype(np.float64) - states.mean(0, dtype=np.float64)
    variance, directions = np.linalg.eigh(centred.T @ centred / max(len(centred), 1))
    order = np.argsort(-variance, kind="stable")[:count]
    found = directions[:, order].T
    largest = found[np.arange(len(found)), np.abs(found).argmax(1)]
    return found * np.sign(largest)[:, None], np.sqrt(np.clip(variance[order], 0, None))


def paired_states(
    place: Place, *tables: Mapping[str, Any], kept: frozenset[str] | None = None
) -> tuple[np.ndarray, list[Float[np.ndarray, "N D"]]]:
    """Entities, and the states of the questions that all tables have (of some entities), in the order of the questions."""
    rows = [_rows(place, table, kept) for table in tables]
    questions = [np.asarray(table["question"])[at] for table, at in zip(tables, rows, strict=True)]
    shared = functools.reduce(np.intersect1d, questions)
    states = []
    for table, at, asked in zip(tables, rows, questions, strict=True):
        order = np.argsort(asked, kind="stable")
        at = at[order[np.searchsorted(asked[order], shared)]]
        entities = np.asarray(table["entity"])[at]
        states.append(vectors({place.site: np.asarray(table[place.site])[at]}, place.site))
    return entities, states


def _rows(place: Place, table: Mapping[str, Any], kept: frozenset[str] | None) -> np.ndarray:
    rows = place.rows(table)
    return rows if kept is None else rows[np.isin(np.asarray(table["entity"])[rows].astype(str), sorted(kept))]
