"""Scores as a person or a program reads them: rows, a Markdown table, and what `--json` prints."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from storage.artifacts import folder_of
from storage.records import Scorecard, Verdict
from storage.tables import read_table
from tasks.report.scoring import place_to_show as place_to_show

SPLITS = ("forget", "neighbours", "retain", "general")


def table_rows(scorecard: Scorecard) -> list[dict[str, Any]]:
    """`scores.parquet` as it is, one dictionary a row."""
    return in_rows(read_table(folder_of(scorecard.artifact) / "scores.parquet"))


def in_rows(columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A table's columns as one dictionary a row, of plain numbers and words."""
    return [
        {name: value.item() if hasattr(value, "item") else value for name, value in zip(columns, row, strict=True)}
        for row in zip(*columns.values(), strict=True)
    ]


def score_rows(scorecard: Scorecard) -> list[dict[str, Any]]:
    """One row a metric, split and site: the unlearned model's score, with `base` and `gold` beside it."""
    rows = table_rows(scorecard)
    beside = {(_place(row), row["model"]): row["value"] for row in rows}
    scored = [row for row in rows if row["model"] == "unlearned"]
    joined = [
        {name: value for name, value in row.items() if name != "model"}
        | {model: beside.get((_place(row), model)) for model in ("base", "gold")}
        for row in scored
    ]
    return sorted(joined, key=lambda row: (_order(row["split"]), row["metric"], row["site"]))


def made_by(outcome: Any) -> dict[str, Any]:
    """What a run came to, and where its model, report and MLflow run are."""
    return {
        "scores": score_rows(outcome.assessment.scorecard),
        "verdict": verdict_document(outcome.assessment.verdict),
        "model": str(model_folder(outcome)),
        "report": str(folder_of(outcome.report.artifact) / "report.html"),
        "mlflow_run": outcome.tracked.run_id,
    }


def model_folder(outcome: Any) -> Path:
    """The model with its card."""
    return folder_of(outcome.released.artifact) / outcome.released.model.location


def verdict_document(verdict: Verdict) -> dict[str, Any]:
    """The verdict and each measure beside its threshold, the deciding ones first."""
    rows = in_rows(read_table(folder_of(verdict.artifact) / "verdict.parquet"))
    return {"verdict": verdict.verdict, "evidence": sorted(rows, key=lambda row: not row["decided"])}


def _place(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["metric"], row["split"], row["site"]


def _order(split: str) -> int:
    return SPLITS.index(split) if split in SPLITS else len(SPLITS)


def markdown_of(rows: Sequence[dict[str, Any]]) -> str:
    """The score table in Markdown: before, after (with its interval), gold."""
    lines = ["| split | metric | before | after | gold | better |", "|---|---|---:|---:|---:|---|"]
    for row in rows:
        metric = f"{row['metric']} ({row['site']})" if row["site"] else row["metric"]
        after = with_interval(row["value"], row["low"], row["high"], row["state"])
        lines.append(
            f"| {row['split']} | {metric} | {number(row['base'])} | {after} | {number(row['gold'])} | {row['better']} |"
        )
    return "\n".join(lines)


def number(value: float | None) -> str:
    """Three digits after the point, fewer for large values; a dash for what was not measured."""
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.0f}"


def with_interval(value: float | None, low: float | None, high: float | None, state: str = "ok") -> str:
    """`0.120 [0.050, 0.210]`, with the state in words where it is not `ok`."""
    text = number(value)
    if text != "-" and number(low) != "-" and number(high) != "-":
        text += f" [{number(low)}, {number(high)}]"
    return text if state == "ok" else f"{text} ({state})"


def as_json(value: Any) -> Any:
    """The same with every number that JSON cannot hold as null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: as_json(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    return value
