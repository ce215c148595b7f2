"""Methods, targets and seeds against one another: each cell is the whole chain, what cells share is computed once."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import flow

from flows.config import Experiment, load_experiment
from flows.prepare import prepare
from flows.results import place_to_show, verdict_document, with_interval
from flows.results import table_rows as rows_of
from flows.unlearn import unlearn_chain
from storage.artifacts import disk_errors, folder_of
from storage.keys import canonical, digest
from storage.records import UsageError, Verdict
from storage.settings import configure_environment, home
from storage.tables import read_table, write_table
from tasks.catalogue import module_of, names
from tasks.evaluation.aggregate import mean_over_cells

logger = logging.getLogger("sae_unlearn")

PLACE = ("tail", "method", "metric", "split", "site", "stress")


@dataclass(frozen=True)
class Cell:
    """One run of the comparison."""

    method: str
    target: str
    """Entity id."""
    name: str
    seed: int
    experiment: Experiment


@dataclass(frozen=True)
class Comparison:
    """The table: a row a cell and score, the same over all cells, and where both are kept."""

    folder: Path
    cells: int
    summary: list[dict[str, Any]]
    verdicts: list[dict[str, Any]]
    """One row a cell."""
    failures: tuple[str, ...]


@flow(name="compare")
def compare(
    experiment: str = "default",
    methods: list[str] | None = None,
    targets: list[str] | None = None,
    count: int = 3,
    seeds: list[int] | None = None,
    overrides: list[str] | None = None,
) -> Comparison:
    """Run every method on every target with every seed, one after the other.

    targets: names or ids; None takes the first `count` candidates that the model knows, one type after the other.
    A comparison that is broken off goes on where it was: its finished stages are in the cache.
    """
    configure_environment()
    settings = load_experiment(experiment, overrides or ())
    cells = list(_cells(settings, methods, targets, count, seeds or [0]))
    rows: list[dict[str, Any]] = []
    verdicts: list[dict[str, Any]] = []
    failures = []
    for number, cell in enumerate(cells, 1):
        logger.info("cell %d of %d: %s, %s, seed %d", number, len(cells), cell.method, cell.name, cell.seed)
        try:
            outcome = unlearn_chain(cell.experiment)
        except UsageError as error:
            failures.append(f"{cell.method}, {cell.name}, seed {cell.seed}: {error}")
            logger.warning("%s", failures[-1])
            continue
        rows += _cell_rows(cell, rows_of(outcome.assessment.scorecard))
        verdicts.append(_verdict_row(cell, outcome.assessment.verdict))
    if not rows:
        raise UsageError(f"no cell of the comparison could be run; the first says: {failures[0]}")
    summary = summarise(rows, settings.scoring.bootstrap_draws, settings.scoring.confidence)
    folder = _keep(settings, cells, rows, summary, verdicts)
    return Comparison(folder, len(cells) - len(failures), summary, verdicts, tuple(failures))


def _cells(
    experiment: Experiment, methods: list[str] | None, targets: list[str] | None, count: int, seeds: Sequence[int]
) -> Iterator[Cell]:
    methods = methods or names("alignment/methods")
    for method in methods:
        module_of("alignment/methods", method)
    chosen = chosen_targets(experiment, targets, count)
    own = experiment.alignment.settings
    for target, name in chosen:
        for method in methods:
            for seed in seeds:
                alignment = dataclasses.replace(
                    experiment.alignment,
                    method=method,
                    seed=seed,
                    settings=own if method == experiment.alignment.method else (),
                )
                roles = dataclasses.replace(experiment.roles, targets=(target,))
                yield Cell(
                    method, target, name, seed, dataclasses.replace(experiment, alignment=alignment, roles=roles)
                )


def chosen_targets(experiment: Experiment, asked: list[str] | None, count: int) -> list[tuple[str, str]]:
    """(id, name) of each target asked for, or of the first `count` candidates that the model knows."""
    subject = prepare(experiment)
    table = read_table(folder_of(subject.entities.artifact) / "entities.parquet")
    if asked:
        known = dict(zip(table["name"], table["entity"], strict=True)) | {each: each for each in table["entity"]}
        by_id = dict(zip(table["entity"], table["name"], strict=True))
        return [(known.get(each, each), by_id.get(known.get(each, each), each)) for each in asked]
    found = candidates(table)
    if len(found) < count:
        raise UsageError(
            f"--targets {count}: the model knows only {len(found)} candidates; ask for fewer, or name them"
        )
    return [(row["entity"], row["name"]) for row in found[:count]]


def candidates(table: dict[str, Any]) -> list[dict[str, Any]]:
    """Candidates that the model knows, the first of each type, then the second of each, and so on."""
    rows = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
    seen: dict[str, int] = {}
    ranked = []
    for row in rows:
        if row["candidate"] and row["label"] == "known":
            seen[row["type"]] = seen.get(row["type"], 0) + 1
            ranked.append((seen[row["type"]], row))
    return [row for _, row in sorted(ranked, key=lambda pair: pair[0])]


def _cell_rows(cell: Cell, scores: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The unlearned model under its method's name; base and gold, which no method changes, under theirs."""
    for row in scores:
        model, _, stress = row["model"].partition("+")
        method = cell.method if model == "unlearned" else f"({model})"
        place = {
            "tail": cell.experiment.world.tail,
            "method": method,
            "target": cell.target,
            "name": cell.name,
            "seed": cell.seed,
            "stress": stress,
        }
        yield place | {
            name: row[name] for name in ("metric", "split", "site", "value", "low", "high", "better", "state")
        }


def _verdict_row(cell: Cell, verdict: Verdict) -> dict[str, Any]:
    """A cell's verdict and the measures that decided it."""
    decided = [each["measure"] for each in verdict_document(verdict)["evidence"] if each["decided"]]
    place = {"tail": cell.experiment.world.tail, "method": cell.method, "target": cell.target, "name": cell.name}
    return place | {"seed": cell.seed, "verdict": verdict.verdict, "decided_by": "; ".join(decided)}


def summarise(rows: Sequence[dict[str, Any]], draws: int, confidence: float) -> list[dict[str, Any]]:
    """One row a tail, method, metric, split and site: mean over cells, interval, how many cells were `ok`."""
    once = {tuple(row[name] for name in (*PLACE, "target", "seed")): row for row in rows}
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in once.values():
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


def _holds_ideal(row: dict[str, Any]) -> bool:
    """Whether a cell's own interval holds the number that its metric is meant to come to, such as 0.5."""
    ideal = row["better"].removeprefix("toward ")
    return ideal.replace(".", "").isdigit() and bool(row["low"] <= float(ideal) <= row["high"])


def _keep(
    experiment: Experiment,
    cells: list[Cell],
    rows: list[dict[str, Any]],
    summary: list[dict[str, Any]],
    verdicts: list[dict[str, Any]],
) -> Path:
    """The folder `<home>/comparisons/<experiment>-<digest>`: cells, summary and verdicts as Parquet, and summary.md."""
    key = digest([[cell.method, cell.target, cell.seed, canonical(cell.experiment)] for cell in cells])[:12]
    folder = home() / "comparisons" / f"{experiment.name}-{key}"
    with disk_errors():
        folder.mkdir(parents=True, exist_ok=True)
        write_table(folder / "cells.parquet", _columns(rows))
        write_table(folder / "summary.parquet", _columns(summary))
        write_table(folder / "verdicts.parquet", _columns(verdicts))
        (folder / "summary.md").write_text(markdown(summary, verdicts) + "\n")
    return folder


def _columns(rows: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


SHOWN = (
    ("recall", "forget"),
    ("relearned_recall", "forget"),
    ("attack_recall", "forget"),
    ("uds", "forget"),
    ("knownness_auroc", "forget"),
    ("typicality", "forget"),
    ("js_gold", "forget"),
    ("recall", "neighbours"),
    ("recall", "retain"),
    ("perplexity", "general"),
)
"""Columns of the printed table; the Parquet files hold every score."""


def pivot(summary: Sequence[dict[str, Any]], verdicts: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the printed table: a line a method, its verdicts counted; of sites, the deepest.

    `k/n` behind a knownness: in so many cells the interval holds .5, the target being indistinguishable.
    """
    header = ["method", *(f"{split} {metric}" for metric, split in SHOWN), "verdicts"]
    methods = sorted({row["method"] for row in summary}, key=lambda name: (not name.startswith("("), name))
    lines = []
    for method in methods:
        cells = [method]
        for metric, split in SHOWN:
            wanted = (method, metric, split, "")
            found = [row for row in summary if (row["method"], row["metric"], row["split"], row["stress"]) == wanted]
            row = max(found, key=lambda each: place_to_show(each["site"]), default=None)
            shown = with_interval(row["value"], row["low"], row["high"]) if row else "-"
            if row and metric == "knownness_auroc":
                shown += f" {row['holding']}/{row['cells']}"
            cells.append(shown)
        counts = Counter(row["verdict"] for row in verdicts if row["method"] == method)
        lines.append([*cells, ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common()) or "-"])
    return header, lines


def markdown(summary: Sequence[dict[str, Any]], verdicts: Sequence[dict[str, Any]]) -> str:
    header, lines = pivot(summary, verdicts)
    ruled = [header, ["---"] + ["---:"] * (len(header) - 1), *lines]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in ruled)
