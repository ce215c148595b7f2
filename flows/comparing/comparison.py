"""What a comparison comes to: means with intervals, who is as good as the best, tables, a figure and MLflow runs."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flows.comparing.cells import Cell
from flows.comparing.tuning import Tuned, keep_studies, rate_of
from flows.results import in_rows, place_to_show, with_interval
from storage.artifacts import disk_errors
from storage.tables import read_table, write_table
from storage.tracking import FlatRun
from storage.tracking_names import metric_name
from tasks import catalogue
from tasks.evaluation.aggregate import mean_over_cells, paired_difference

PLACE = ("tail", "method", "metric", "split", "site", "stress")

SHOWN = (
    ("recall", "forget"),
    ("relearned_recall", "forget"),
    ("attack_recall", "forget"),
    ("uds_null", "forget"),
    ("knownness_auroc", "forget"),
    ("typicality", "forget"),
    ("js_gold", "forget"),
    ("recall", "neighbours"),
    ("recall", "retain"),
    ("perplexity", "general"),
    ("balance", ""),
    ("seconds", ""),
    ("peak_megabytes", ""),
)
"""Columns of the printed table; the Parquet files hold every score."""


def each_once(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a score of a model, on one target with one seed: base and gold come with every cell anew."""
    return list({tuple(row[name] for name in (*PLACE, "target", "seed")): row for row in rows}.values())


def summarise(rows: Sequence[dict[str, Any]], draws: int, confidence: float) -> list[dict[str, Any]]:
    """One row a tail, method, metric, split and site: mean over cells, interval, how many cells were `ok`."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in each_once(rows):
        groups.setdefault(tuple(row[name] for name in PLACE), []).append(row)
    summary = []
    for place, members in sorted(groups.items()):
        values, targets = [row["value"] for row in members], [row["target"] for row in members]
        mean, low, high = mean_over_cells(values, targets, draws=draws, confidence=confidence)
        states = [row["state"] for row in members if row["state"] != "ok"]
        state = "ok" if not states else f"{states[0]} in {len(states)} of {len(members)}"
        entry = dict(zip(PLACE, place, strict=True))
        summary.append(
            entry
            | {
                "value": mean,
                "low": low,
                "high": high,
                "cells": len(members),
                "holding": sum(_holds_ideal(row) for row in members),
                "better": members[0]["better"],
                "state": state,
            }
        )
    return summary


def paired_with_best(rows: Sequence[dict[str, Any]], draws: int, confidence: float) -> list[dict[str, Any]]:
    """Each method's balance less that of the best one, on the same targets and seeds, with its interval.

    `level` unless the interval lies below 0: these cells do not tell it from the best; of one target they tell nobody from
    anybody. The best is that of the mean balance.
    """
    cells: dict[str, dict[str, dict[tuple[str, int], float]]] = {}
    for row in rows:
        if row["metric"] == "balance" and not row["stress"] and not row["method"].startswith("("):
            cells.setdefault(row["tail"], {}).setdefault(row["method"], {})[row["target"], row["seed"]] = row["value"]
    paired = []
    for tail, methods in sorted(cells.items()):
        best = max(methods, key=lambda name: sum(methods[name].values()) / len(methods[name]))
        for method, values in sorted(methods.items()):
            both = sorted(values.keys() & methods[best].keys())
            differences = [values[cell] - methods[best][cell] for cell in both]
            mean, low, high = paired_difference(
                differences, [target for target, _ in both], draws=draws, confidence=confidence
            )
            place = {"tail": tail, "method": method, "best": best, "cells": len(both)}
            paired.append(place | {"difference": mean, "low": low, "high": high, "level": not high < 0})
    return paired


def _holds_ideal(row: dict[str, Any]) -> bool:
    """Whether a cell's own interval holds the number that its metric is meant to come to, such as 0.5."""
    ideal = row["better"].removeprefix("toward ")
    return ideal.replace(".", "").isdigit() and bool(row["low"] <= float(ideal) <= row["high"])


def keep(
    folder: Path,
    tables: Mapping[str, list[dict[str, Any]]],
    description: Mapping[str, Any],
    tuned: Sequence[Tuned],
) -> Path:
    """The tables as Parquet; `comparison.json`, what its cells share; `summary.md`; `pareto.png`; the studies.

    tables  `cells`, `summary`, `verdicts`, `paired` and `trials`, a dictionary a row; an empty one is left out.
    tuned   methods that were tuned here, with their studies.
    """
    from tasks.report.figures.pareto import draw_pareto

    with disk_errors():
        folder.mkdir(parents=True, exist_ok=True)
        for name, table in tables.items():
            if table:
                write_table(folder / f"{name}.parquet", {key: [row[key] for row in table] for key in table[0]})
        (folder / "comparison.json").write_text(json.dumps(description, indent=1, sort_keys=True) + "\n")
        shown = markdown(tables["summary"], tables["verdicts"], tables["paired"])
        (folder / "summary.md").write_text(shown + "\n")
        (folder / "pareto.png").write_bytes(draw_pareto(tables["summary"]))
        studied = [each for each in tuned if each.study]
        if studied:
            keep_studies(folder, studied)
    return folder


def as_runs(
    comparison: str, cells: Sequence[Cell], rows: Iterable[Mapping[str, Any]], verdicts: Sequence[Mapping[str, Any]]
) -> list[FlatRun]:
    """A run a cell: what it was set to, the scores of the printed table, forgetting, utility, and its verdict.

    verdicts: one a cell, in the order of `cells`.
    """
    tracked = {*SHOWN, ("forgetting", ""), ("utility", "")}
    scores: dict[tuple[Any, ...], dict[str, float]] = {}
    for row in sorted(rows, key=lambda row: place_to_show(row["site"])):
        if not row["stress"] and (row["metric"], row["split"]) in tracked:
            cell = tuple(row[name] for name in ("tail", "method", "target", "seed"))
            scores.setdefault(cell, {})[metric_name(row["split"], row["metric"])] = row["value"]
    return [
        FlatRun(
            key=cell.key,
            name=f"{cell.method} · {cell.name} · {cell.tail} · {cell.seed}"[:200],
            tags={**_place(cell), "name": cell.name, "comparison": comparison, "verdict": verdict["verdict"]},
            parameters={**_place(cell), **_settings(cell)},
            metrics=scores[cell.tail, cell.method, cell.target, cell.seed],
            failed=verdict["verdict"] == "failed",
        )
        for cell, verdict in zip(cells, verdicts, strict=True)
    ]


def _place(cell: Cell) -> dict[str, str]:
    return {"method": cell.method, "target": cell.target, "seed": str(cell.seed), "tail": cell.tail}


def _settings(cell: Cell) -> dict[str, str]:
    """Learning rate and every setting of the method, its defaults too, so that runs of one method have the same columns."""
    kind: Any = catalogue.load("alignment/methods", cell.method)
    alignment = cell.experiment.alignment
    own = {entry.name: entry.default for entry in dataclasses.fields(kind)} | dict(alignment.settings)
    return {"learning_rate": str(alignment.learning_rate or rate_of(kind))} | {
        name: str(value) for name, value in sorted(own.items())
    }


def kept(folder: Path, name: str) -> list[dict[str, Any]]:
    """A table of a comparison that was kept, one dictionary a row."""
    return in_rows(read_table(folder / f"{name}.parquet"))


def pivot(
    summary: Sequence[dict[str, Any]], verdicts: Sequence[dict[str, Any]], paired: Sequence[dict[str, Any]] = ()
) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the printed table: a line a tail and method, its verdicts counted; of sites, the deepest.

    Best balance first, base and gold above. `k/n` behind a knownness: in so many cells the interval holds .5, the target
    being indistinguishable. `=` behind a balance: not told from the best by these cells.
    """
    tails = sorted({row["tail"] for row in summary})
    names = [f"{metric} {split}".strip().replace("_", " ") for metric, split in SHOWN]
    header = [*(["tail"] if len(tails) > 1 else []), "method", *names, "verdicts"]
    level = {(row["tail"], row["method"]) for row in paired if row["level"]}
    chosen: dict[tuple[str, str, str, str], dict[str, Any]] = {}
    for row in sorted(summary, key=lambda row: place_to_show(row["site"])):
        if not row["stress"]:
            chosen[row["tail"], row["method"], row["metric"], row["split"]] = row
    lines = []
    for tail in tails:
        methods = {row["method"] for row in summary if row["tail"] == tail}

        def rank(method: str, tail: str = tail) -> tuple[bool, float, str]:
            found = chosen.get((tail, method, "balance", ""))
            return not method.startswith("("), -found["value"] if found else 0.0, method

        for method in sorted(methods, key=rank):
            cells = [*([tail] if len(tails) > 1 else []), method]
            for metric, split in SHOWN:
                cells.append(_shown(chosen.get((tail, method, metric, split)), (tail, method) in level))
            counts = Counter(row["verdict"] for row in verdicts if (row["tail"], row["method"]) == (tail, method))
            lines.append([*cells, ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common()) or "-"])
    return header, lines


def _shown(row: dict[str, Any] | None, level: bool) -> str:
    if row is None:
        return "-"
    if row["metric"] in ("seconds", "peak_megabytes"):
        return f"{row['value']:.{1 if row['value'] < 10 else 0}f}"
    shown = with_interval(row["value"], row["low"], row["high"])
    if row["metric"] == "knownness_auroc":
        shown += f" {row['holding']}/{row['cells']}"
    return f"{shown} =" if row["metric"] == "balance" and level else shown


def markdown(
    summary: Sequence[dict[str, Any]], verdicts: Sequence[dict[str, Any]], paired: Sequence[dict[str, Any]] = ()
) -> str:
    header, lines = pivot(summary, verdicts, paired)
    ruled = [header, ["---"] + ["---:"] * (len(header) - 1), *lines]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in ruled)
