"""All scores as tables: one a split, the scores that are read at many places or in many ways folded below it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tasks.report.scoring import (
    METRIC_GROUPS,
    METRICS,
    MODELS,
    SPLITS,
    STATES,
    Row,
    Scores,
    is_place,
    number,
    site_words,
)

OTHER = "Other scores"
FEW = 2
"""Variants of a score that stand below it; more are folded."""


@dataclass(frozen=True)
class Line:
    """One line of a table."""

    words: str
    arrow: str
    better: str
    cells: tuple[tuple[str, str], ...]
    """(value, interval) of each model."""
    count: int
    note: str


@dataclass(frozen=True)
class Folded:
    """A score at every site it was read at."""

    words: str
    arrow: str
    better: str
    span: str
    """The unlearned model's lowest and highest value."""
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Part:
    """The scores of one split."""

    words: str
    count: int
    """Scores in it, however many sites they were read at."""
    groups: tuple[tuple[str, tuple[Line, ...]], ...]
    """(heading, lines)."""
    folded: tuple[Folded, ...]


def score_table(scores: Scores) -> list[Part]:
    """The splits in the order of the page."""
    splits: dict[str, dict[str, list[str]]] = {}
    for metric, split, site in scores.lines():
        splits.setdefault(split, {}).setdefault(metric, []).append(site)
    return [_part(scores, split, metrics) for split, metrics in splits.items()]


def _part(scores: Scores, split: str, metrics: Mapping[str, list[str]]) -> Part:
    heading = {metric: group for group, words in METRIC_GROUPS.items() for metric in words}
    groups: dict[str, list[Line]] = {}
    folded = []
    for metric, sites in metrics.items():
        words = METRICS.get(metric, metric)
        read = [site for site in sites if site]
        if "" in sites:
            lines = groups.setdefault(heading.get(metric, OTHER), [])
            lines.append(_line(words, scores.line(metric, split, "")))
            if len(read) <= FEW and not any(map(is_place, read)):
                lines += [_line(f"{words}: {site_words(site)}", scores.line(metric, split, site)) for site in read]
                continue
        if read:
            folded.append(_fold(scores, metric, split, read))
    told = tuple((name, tuple(lines)) for name, lines in groups.items())
    return Part(SPLITS.get(split, split), len(metrics), told, tuple(folded))


def _fold(scores: Scores, metric: str, split: str, sites: list[str]) -> Folded:
    rows = {site: scores.line(metric, split, site) for site in sites}
    after = [row.value for found in rows.values() if (row := found.get("unlearned")) is not None and row.there]
    lines = tuple(_line(site_words(site), found) for site, found in rows.items())
    low, high = (number(min(after)), number(max(after))) if after else ("", "")
    span = low if low == high else f"{low} to {high}"
    return Folded(METRICS.get(metric, metric), lines[0].arrow, lines[0].better, span, lines)


def _line(words: str, rows: Mapping[str, Row]) -> Line:
    better = next(row.better for row in rows.values())
    arrow = {"lower": "↓", "higher": "↑"}.get(better, "→")
    judged = rows.get("unlearned")
    cells = tuple(_cell(rows.get(model)) for model in MODELS)
    return Line(words, arrow, better, cells, judged.count if judged else 0, _remark(rows))


def _cell(row: Row | None) -> tuple[str, str]:
    if row is None:
        return "–", ""
    has_interval = row.there and np.isfinite(row.low) and np.isfinite(row.high)
    return number(row.value), f"{number(row.low)} to {number(row.high)}" if has_interval else ""


def _remark(rows: Mapping[str, Row]) -> str:
    """The states that are not `ok`, each with the models it is of."""
    models: dict[str, list[str]] = {}
    for model, row in rows.items():
        if row.state != "ok":
            models.setdefault(STATES.get(row.state, row.state), []).append(MODELS[model])
    return "; ".join(
        text if len(found) == len(rows) else f"{', '.join(found)}: {text}" for text, found in models.items()
    )
