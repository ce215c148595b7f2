"""Methods, targets and seeds against one another: each cell is the whole chain, what cells share is computed once."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import flow

from flows.comparing.cells import Cell, Wanted, cell_of, cells_of, run_alignment, run_cell, validation_targets, wanted
from flows.comparing.comparison import as_runs, each_once, keep, paired_with_best, summarise
from flows.comparing.parts import describe, read_parts
from flows.comparing.tuning import Tuned, score_for_tuning, tune
from flows.results import table_rows as rows_of
from flows.results import verdict_document
from storage.artifacts import StorageError, folder_of, read_manifest
from storage.keys import digest
from storage.records import Artifact, Scorecard, UsageError, Verdict
from storage.settings import configure_environment, home
from storage.tracking import write_flat_runs
from tasks.evaluation.statistics.balance import METRICS, balance

logger = logging.getLogger("sae_unlearn")

BASELINES = ("base", "gold")
"""Models that stand beside the unlearned one in every cell and that no method changes."""
BALANCES = ("forgetting", "utility", "balance")


@dataclass(frozen=True)
class Comparison:
    """The table: a row a cell and score, the same over all cells, and where both are kept."""

    folder: Path
    cells: int
    """That could be run."""
    summary: list[dict[str, Any]]
    verdicts: list[dict[str, Any]]
    """One row a cell."""
    paired: list[dict[str, Any]]
    failures: tuple[str, ...]
    tuned: tuple[Tuned, ...]
    tracked: str
    """The experiment in MLflow that holds a run a cell; empty where it could not be written."""


@flow(name="compare")
def compare(
    experiment: str = "default",
    methods: list[str] | None = None,
    targets: list[str] | None = None,
    count: int = 3,
    seeds: list[int] | None = None,
    overrides: list[str] | None = None,
    trials: int = 0,
    validation: int = 2,
    tails: list[str] | None = None,
    parts: list[str] | None = None,
) -> Comparison:
    """Run every method on every target with every seed, one after the other.

    targets     names or ids; None takes the first `count` candidates that the model knows, one type after the other.
    trials      how often each method's settings are tried before, on other targets; 0 takes its defaults.
    validation  how many targets they are tried on: the first candidates that are not among the targets.
    tails       kinds of world; what is tuned is tuned in the first of them.
    parts       folders that other parts of this comparison left: their cells and their tuning are taken as they are.

    A cell that fails counts 0, as a trial does. A comparison that is broken off goes on where it was: its finished stages
    are in the cache.
    """
    configure_environment()
    asked = wanted(experiment, methods, targets, count, seeds, overrides, trials, validation, tails)
    others = read_parts(parts or (), asked)
    tuned = tune_all(asked, others.tuned)
    cells = others.lacking(cells_of(asked, tuned))
    rows: list[dict[str, Any]] = []
    verdicts: list[dict[str, Any]] = []
    failures = []
    for number, cell in enumerate(cells, 1):
        logger.info("cell %d of %d: %s", number, len(cells), cell)
        try:
            made, assessment = run_cell(cell)
        except (UsageError, ArithmeticError) as error:
            reason = " ".join(str(error).split())
            failures.append(f"{cell}: {reason}")
            logger.warning("%s", failures[-1])
            rows += _cell_rows(cell, [_score(name, "unlearned", 0.0, "higher", "failed") for name in BALANCES])
            verdicts.append(_place(cell) | {"verdict": "failed", "decided_by": reason})
            continue
        scores = rows_of(assessment.scorecard)
        rows += _cell_rows(cell, [*scores, *_balances(scores), *_cost(made.artifact)])
        verdicts.append(_verdict_row(cell, assessment.verdict))
    if cells and len(failures) == len(cells):
        raise UsageError(f"no cell of the comparison could be run; the first says: {failures[0]}")
    name = f"{asked.worlds[0].name}-{digest([[cell.key for cell in cells], sorted(others.cells)])[:12]}"
    tracked = _track(f"comparison {name}", cells, rows, verdicts)
    rows, verdicts = each_once(others.rows + rows), others.verdicts + verdicts
    scoring = asked.worlds[0].scoring
    summary = summarise(rows, scoring.bootstrap_draws, scoring.confidence)
    paired = paired_with_best(rows, scoring.bootstrap_draws, scoring.confidence)
    every = tuple(({each.method: each for each in tuned} | others.tuned).values())
    tried = others.trials + [dict(row) for each in tuned for row in each.trials]
    tables = {"cells": rows, "summary": summary, "verdicts": verdicts, "paired": paired, "trials": tried}
    folder = keep(home() / "comparisons" / name, tables, describe(asked, every), tuned)
    run = sum(row["verdict"] != "failed" for row in verdicts)
    return Comparison(folder, run, summary, verdicts, paired, tuple(failures), tuple(tuned), tracked)


def tune_all(wanted: Wanted, known: Mapping[str, Tuned] | None = None) -> list[Tuned]:
    """Every method with the settings it is compared with; the experiment's own settings belong to its own method.

    known  methods that were tuned in another part of the comparison.
    """
    own, known = wanted.worlds[0].alignment, known or {}
    if not wanted.trials:
        return [
            Tuned(method, own.learning_rate, own.settings) if method == own.method else Tuned(method, 0.0, ())
            for method in wanted.methods
        ]
    if known.keys() >= set(wanted.methods):
        return [known[method] for method in wanted.methods]
    others = validation_targets(wanted)
    logger.info("tuning on %s", ", ".join(name for _, name in others))
    return [
        known.get(method)
        or tune(method, wanted.trials, functools.partial(_try, wanted, others, method), wanted.seeds[0])
        for method in wanted.methods
    ]


def _try(
    wanted: Wanted, others: Sequence[tuple[str, str]], method: str, rate: float, settings: tuple[tuple[str, Any], ...]
) -> float:
    return mean_balance(trial_scores(wanted, others, Tuned(method, rate, settings)))


def trial_scores(wanted: Wanted, others: Sequence[tuple[str, str]], tried: Tuned) -> Iterator[Scorecard]:
    """The scores of one trial, a card a validation target."""
    for target, name in others:
        cell = cell_of(wanted.worlds[0], tried, target, name, wanted.seeds[0])
        subject, _, made = run_alignment(cell)
        yield score_for_tuning(subject, made.model, cell.experiment)


def mean_balance(cards: Iterator[Scorecard]) -> float:
    values = [balance(rows_of(card), "unlearned")["balance"] for card in cards]
    return sum(values) / len(values)


def _score(metric: str, model: str, value: float, better: str, state: str = "ok") -> dict[str, Any]:
    """A row in the form of a score table, without an interval of its own."""
    nothing = float("nan")
    place = {"metric": metric, "split": "", "site": "", "model": model}
    return place | {"value": value, "low": nothing, "high": nothing, "better": better, "state": state}


def _balances(scores: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Forgetting, utility and their balance, where the experiment's metrics suffice for them.

    An unlearned model of which one of them is no number has none, and counts 0, as in tuning.
    """
    for model in (*BASELINES, "unlearned"):
        if not {row["metric"] for row in scores if row["model"] == model} >= set(METRICS):
            continue
        try:
            found, state = balance(scores, model), "ok"
        except ArithmeticError:
            if model in BASELINES:
                continue
            found, state = dict.fromkeys(BALANCES, 0.0), "degenerate"
        for name, value in found.items():
            yield _score(name, model, value, "higher", state)


def _cost(artifact: Artifact) -> Iterator[dict[str, Any]]:
    """What forgetting cost when it was computed, the model being loaded, where that was counted; as fair as the machine
    was quiet. The peak is that above the loaded model, of the accelerator where one was in use."""
    manifest = read_manifest(folder_of(artifact))
    yield _score("seconds", "unlearned", manifest["seconds"], "lower")
    if "memory_bytes" in manifest:
        peak = manifest["device_bytes"] or manifest["memory_bytes"]
        yield _score("peak_megabytes", "unlearned", peak / 1e6, "lower")


def _place(cell: Cell) -> dict[str, Any]:
    return {"tail": cell.tail, "method": cell.method, "target": cell.target, "name": cell.name, "seed": cell.seed}


def _cell_rows(cell: Cell, scores: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The unlearned model under its method's name; base and gold, which no method changes, under theirs."""
    for row in scores:
        model, _, stress = row["model"].partition("+")
        place = _place(cell) | {"method": cell.method if model == "unlearned" else f"({model})", "stress": stress}
        yield place | {
            name: row[name] for name in ("metric", "split", "site", "value", "low", "high", "better", "state")
        }


def _verdict_row(cell: Cell, verdict: Verdict) -> dict[str, Any]:
    """A cell's verdict and the measures that decided it."""
    decided = [each["measure"] for each in verdict_document(verdict)["evidence"] if each["decided"]]
    return _place(cell) | {"verdict": verdict.verdict, "decided_by": "; ".join(decided)}


def _track(
    experiment: str, cells: Sequence[Cell], rows: Sequence[dict[str, Any]], verdicts: Sequence[dict[str, Any]]
) -> str:
    """A run a cell in MLflow; the comparison stands whether or not that can be reached."""
    try:
        write_flat_runs(experiment, as_runs(experiment, cells, rows, verdicts))
    except StorageError as error:
        logger.warning("%s", error)
        return ""
    return experiment
