"""What of a run goes into MLflow: names of metrics, and the states of those that carry no number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tasks.report import summary
from tasks.report.evidence import caveats, read_evidence
from tasks.report.scoring import METRICS, Row, Scores, is_place, layer_of, site_order

HEADLINE = (
    ("recall", "forget"),
    ("answer_probability", "forget"),
    ("recall", "retain"),
    ("recall", "neighbours"),
    ("relearned_recall", "forget"),
)
"""(metric, split) whose interval is tracked too."""

STRESSED = ("recall", "sampled_recall")
"""Metrics on the targets that are tracked for the unlearned model under stress."""

ASKED = ("set_recall", "attack_recall", "knownness_auroc")
"""Metrics on the targets that are tracked at every site before other scores on others are."""

MOST_SCORES = 120
"""Scores of a run that are tracked, intervals and the loss apart; `scores.parquet` beside them holds all."""


def score_metrics(columns: Mapping[str, Any]) -> tuple[dict[tuple[str, str], float], dict[str, str]]:
    """(section, name) -> value, and name of the unlearned model's score -> its state where that is not `ok`.

    Sections are the splits (`forget`, `neighbours`, `retain`, `general`) for the unlearned model, `inside` for what was
    read in the network, `stress` for the model under stress, `gold` and `base` for the other two models. A score without
    a number is left out; so are, of many scores, those that say least by themselves.
    """
    values: dict[tuple[str, str], float] = {}
    states: dict[str, str] = {}
    tracked = [row for row in Scores(columns).rows if _rank(row) is not None]
    for row in sorted(tracked, key=_order)[:MOST_SCORES]:
        section, name = _address(row)
        if row.state != "ok" and row.model == "unlearned":
            states[f"{section}/{name}"] = row.state
        if not row.there:
            continue
        values[section, name] = row.value
        if row.model == "unlearned" and not row.site and (row.metric, row.split) in HEADLINE:
            ends = {"low": row.low, "high": row.high}
            values |= {(section, f"{name}_{end}"): value for end, value in ends.items() if math.isfinite(value)}
    return values, states


def _rank(row: Row) -> int | None:
    """How soon a score is taken, 0 first; None for those that never are."""
    headline, whole = (row.metric, row.split) in HEADLINE, not row.site
    if "+" in row.model:
        told = row.model.startswith("unlearned+") and row.split == "forget" and whole and row.metric in STRESSED
        return 1 if told else None
    if row.model != "unlearned":
        if is_place(row.site):
            return 7 if row.metric == "knownness_auroc" else None
        return None if row.site else 3 if headline else 6
    if whole:
        return 0 if headline else 4 if row.split in ("neighbours", "retain") else 1
    return 2 if row.metric in ASKED and row.split == "forget" else 5


def _order(row: Row) -> tuple[Any, ...]:
    known = list(METRICS)
    metric = known.index(row.metric) if row.metric in known else len(known)
    return _rank(row), metric, row.metric, row.split, site_order(row.site), row.model


def _address(row: Row) -> tuple[str, str]:
    """Section and name of a score."""
    place, _, position = row.site.partition("@")
    name = "_".join(filter(None, (row.metric, layer_of(place), position)))
    if "+" in row.model:
        return "stress", f"{row.model.replace('+', '_')}_{row.metric}"
    if is_place(row.site):
        return (
            "inside" if row.model == "unlearned" else row.model
        ), name if row.split == "forget" else f"{row.split}_{name}"
    return (row.split, name) if row.model == "unlearned" else (row.model, f"{row.split}_{name}")


def description(
    columns: Mapping[str, Any], targets: Sequence[str], verdict: str, evidence: Mapping[str, Any]
) -> tuple[str, str]:
    """What the report says of the run: its one sentence, and the verdict, caveats and claims in Markdown."""
    scores, read = Scores(columns), read_evidence(evidence)
    sentence = summary.headline(verdict, read)
    lines = [
        f"**{verdict.capitalize()}.** {sentence}",
        caveats(read, scores),
        *(f"- {claim.text}" for claim in summary.make_claims(scores, targets)),
        "The whole page is the artifact `report.html`.",
    ]
    return sentence, "\n".join(filter(None, lines))


def training_curves(columns: Mapping[str, Any]) -> list[tuple[str, int, float]]:
    """(loss part, step, value), every finite one."""
    rows = zip(columns["name"], columns["step"], np.asarray(columns["value"], dtype=float), strict=True)
    return [(str(name), int(step), float(value)) for name, step, value in rows if math.isfinite(value)]
