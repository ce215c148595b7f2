"""What of a run goes into MLflow: names of metrics, and the states of those that carry no number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tasks.report import summary
from tasks.report.scoring import Scores, layer_of

HEADLINE = (
    ("recall", "forget"),
    ("answer_probability", "forget"),
    ("recall", "retain"),
    ("recall", "neighbours"),
    ("relearned_recall", "forget"),
)
"""(metric, split) whose interval is tracked too."""


def score_metrics(columns: Mapping[str, Any]) -> tuple[dict[tuple[str, str], float], dict[str, str]]:
    """(section, name) -> value, and name of the unlearned model's score -> its state where that is not `ok`.

    Sections are the splits (`forget`, `neighbours`, `retain`, `general`) for the unlearned model, `inside` for what was
    read in the network, `gold` and `base` for the other two models. A score without a number is left out.
    """
    values: dict[tuple[str, str], float] = {}
    states: dict[str, str] = {}
    for row in Scores(columns).rows:
        if row.site:
            name = "_".join(filter(None, (row.metric, layer_of(row.site), row.site.partition("@")[2])))
            section = "inside" if row.model == "unlearned" else row.model
        elif row.model == "unlearned":
            section, name = row.split, row.metric
        else:
            section, name = row.model, f"{row.split}_{row.metric}"
        if row.state != "ok" and row.model == "unlearned":
            states[f"{section}/{name}"] = row.state
        if not row.there:
            continue
        values[section, name] = row.value
        if row.model == "unlearned" and (row.metric, row.split) in HEADLINE:
            ends = {"low": row.low, "high": row.high}
            values |= {(section, f"{name}_{end}"): value for end, value in ends.items() if math.isfinite(value)}
    return values, states


def description(columns: Mapping[str, Any], targets: Sequence[str]) -> tuple[str, str]:
    """What the report says of the run: its one sentence, and its claims in Markdown."""
    claims = summary.make_claims(Scores(columns), targets)
    sentence = summary.headline(claims)
    lines = [
        f"**{sentence}**",
        *(f"- {claim.text}" for claim in claims),
        "The whole page is the artifact `report.html`.",
    ]
    return sentence, "\n".join(lines)


def training_curves(columns: Mapping[str, Any]) -> list[tuple[str, int, float]]:
    """(loss part, step, value), every finite one."""
    rows = zip(columns["name"], columns["step"], np.asarray(columns["value"], dtype=float), strict=True)
    return [(str(name), int(step), float(value)) for name, step, value in rows if math.isfinite(value)]
