"""The score table as rows that can be asked for, and the few words for numbers and states."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MODELS = ("base", "unlearned", "gold")
"""In the order of tables and figures."""

SPLITS = {
    "forget": "the targets",
    "neighbours": "neighbours",
    "retain": "other known entities",
    "general": "neutral text",
}
"""Split -> what it holds, in the order of tables."""

METRICS = {
    "recall": "Recall on unseen wordings",
    "answer_probability": "Probability of the true answer",
    "rank": "Rank of the true answer (log10)",
    "refusal_rate": "Says it does not know",
    "knownness_auroc": "Knownness (AUROC against unknown)",
    "typicality": "Distance to unknowns (a typical unknown is 1)",
    "js_gold": "Distance of its next words to the gold twin's",
    "js_change": "Distance of its next words to the base model's",
    "relearned_recall": "Recall of the other half after relearning",
    "perplexity": "Perplexity",
}
"""Metric -> what a person calls it, in the order of tables."""

POSITIONS = {"name_last": "last token of the name", "prompt_last": "last token of the prompt"}
"""Position of a site -> where that is."""

STATES = {
    "ok": "",
    "degenerate": "degenerate, carries no information",
    "missing_reference": "there is no reference",
    "saturated": "at a floor or ceiling, where models cannot be ranked",
}


@dataclass(frozen=True)
class Row:
    """One score of one model."""

    metric: str
    split: str
    site: str
    model: str
    value: float
    low: float
    high: float
    count: int
    better: str
    state: str

    @property
    def there(self) -> bool:
        """Whether there is a number at all."""
        return math.isfinite(self.value)

    @property
    def judged(self) -> bool:
        """Whether the number and its interval may carry a claim."""
        ends = math.isfinite(self.low) and math.isfinite(self.high)
        return self.there and ends and self.state in ("ok", "saturated")


class Scores:
    """The rows of `scores.parquet`, found by metric, split, site and model."""

    def __init__(self, columns: Mapping[str, Any]) -> None:
        names = ("metric", "split", "site", "model", "value", "low", "high", "count", "better", "state")
        self.rows = [
            Row(str(m), str(s), str(i), str(d), float(v), float(lo), float(hi), int(n), str(b), str(t))
            for m, s, i, d, v, lo, hi, n, b, t in zip(*(columns[name] for name in names), strict=True)
        ]
        self._found = {(row.metric, row.split, row.site, row.model): row for row in self.rows}

    def get(self, metric: str, split: str, model: str, site: str = "") -> Row | None:
        """The row, or None when it was not scored or has no number."""
        row = self._found.get((metric, split, site, model))
        return row if row is not None and row.there else None

    def sites(self, metric: str, split: str = "forget") -> list[str]:
        """Sites at which the metric was scored, by layer."""
        found = {
            row.site for row in self.rows if row.metric == metric and row.split == split and row.site and row.there
        }
        return sorted(found, key=site_order)

    def lines(self) -> list[tuple[str, str, str]]:
        """(metric, split, site) of every line of a table, by split, metric and layer."""
        splits, metrics = list(SPLITS), list(METRICS)

        def order(line: tuple[str, str, str]) -> tuple[Any, ...]:
            metric, split, site = line
            first = splits.index(split) if split in splits else len(splits)
            second = metrics.index(metric) if metric in metrics else len(metrics)
            return first, split, second, metric, site_order(site)

        return sorted({(row.metric, row.split, row.site) for row in self.rows}, key=order)

    def line(self, metric: str, split: str, site: str) -> dict[str, Row]:
        """model -> row, whether or not there is a number in it."""
        keys = {model: (metric, split, site, model) for model in MODELS}
        return {model: self._found[key] for model, key in keys.items() if key in self._found}


def site_order(site: str) -> tuple[str, int, str]:
    """Sorts by position in the prompt, then `residual_2` before `residual_10`."""
    place, _, position = site.partition("@")
    layer = place.rpartition("_")[2]
    return position, int(layer) if layer.isdigit() else -1, place


def layer_of(site: str) -> str:
    """The layer of `residual_2@prompt_last`, or the whole name of another kind of site."""
    place = site.partition("@")[0]
    layer = place.removeprefix("residual_")
    return layer if layer.isdigit() else place


def position_of(site: str) -> str:
    """Where in the prompt the site was read, in words; empty where the name does not say."""
    position = site.partition("@")[2]
    return POSITIONS.get(position, position)


def site_words(site: str) -> str:
    """`layer 2, last prompt token`."""
    layer, position = layer_of(site), position_of(site)
    where = f"layer {layer}" if layer.isdigit() else layer
    return f"{where}, {position}" if position else where


def number(value: float) -> str:
    """Three digits that matter, and no exponent where a person can do without."""
    if not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    if abs(value) >= 1e5 or abs(value) < 1e-3:
        return f"{value:.1e}".replace("-", "\u2212")
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{min(digits, 3)}f}".replace("-", "\u2212")


def percent(value: float) -> str:
    """A share as a whole percentage; what is not quite all or nothing is not rounded to it."""
    if not math.isfinite(value):
        return "–"
    if 0 < value < 0.005:
        return "<1%"
    if 0.995 < value < 1:
        return ">99%"
    return f"{100 * value:.0f}%"
