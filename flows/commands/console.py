"""What the commands print: tables for people, one JSON object for programs."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from flows.results import as_json, number, with_interval
from tasks.report.scoring import place_to_show


def print_table(
    header: Sequence[str], lines: Iterable[Sequence[str]], *, title: str = "", numbers: Sequence[str] = ()
) -> None:
    """A table on stdout; the columns named in `numbers` stand to the right."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title or None, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for name in header:
        table.add_column(name, justify="right" if name in numbers else "left", overflow="fold")
    for line in lines:
        table.add_row(*(cell.replace("[", "\\[") for cell in line))
    # A pipe has no width of its own; without one rich would fold at 80 columns.
    Console(width=None if sys.stdout.isatty() else 200).print(table)


SHOWN = ("recall", "answer_probability", "attack_recall", "sampled_recall", "relearned_recall", "knownness_auroc",
         "typicality", "uds", "uds_null", "js_gold", "perplexity")  # fmt: skip
"""Metrics that a terminal shows; the report, `--json` and the Parquet file hold all."""


def print_verdict(document: dict[str, Any]) -> None:
    """The verdict in a line, and the measures that decided it, each with its distance from the threshold."""
    print(f"verdict  {document['verdict']}")
    for each in document["evidence"]:
        if each["decided"]:
            place = " ".join(filter(None, (each["metric"], each["split"], each["site"])))
            shown = f"{number(each['value'])}, threshold {number(each['threshold'])}"
            print(f"         {each['measure']}: {shown} ({each['state']}; {place}, {each['model']})")


def print_scores(rows: Sequence[dict[str, Any]], title: str) -> None:
    """Before, after and gold of the scores of `SHOWN`; of metrics read at several sites, the deepest site."""
    rows = [row for row in rows if row["metric"] in SHOWN]
    deepest = {
        (row["metric"], row["split"]): row["site"] for row in sorted(rows, key=lambda row: place_to_show(row["site"]))
    }
    lines = [
        (
            row["split"],
            f"{row['metric']} ({row['site']})" if row["site"] else row["metric"],
            number(row["base"]),
            with_interval(row["value"], row["low"], row["high"], row["state"]),
            number(row["gold"]),
            row["better"],
        )
        for row in rows
        if row["site"] == deepest[row["metric"], row["split"]]
    ]
    print_table(
        ("split", "metric", "before", "after", "gold", "better"),
        lines,
        title=title,
        numbers=("before", "after", "gold"),
    )


def print_stages(stages: Iterable[Any], title: str) -> None:
    """Stage, what became of it, how long it took, and in what its key differed."""
    lines = [
        (run.stage, run.state, f"{run.seconds:.1f}" if run.seconds else "", "; ".join(run.reasons)) for run in stages
    ]
    print_table(("stage", "state", "seconds", "because"), lines, title=title, numbers=("seconds",))


def print_estimate(document: dict[str, Any]) -> None:
    """What a run will need: a line, and a line a stage."""
    parts = ("peak", "weights", "training", "held", "working", "disk")
    lines = [
        (each["stage"], str(each["times"]), *(sized(each[part]) for part in parts), duration(each["seconds"]))
        for each in document["stages"]
    ]
    numbers = ("times", *parts, "each")
    print_table(("stage", *numbers), lines, title="Memory and time, estimated", numbers=numbers)
    print(estimate_line(document))


def estimate_line(document: dict[str, Any]) -> str:
    """The estimate in one line."""
    alone = "" if document["placement"] == "one" else " were it to hold the whole model"
    return (
        f"estimate: {document['parameters'] / 1e9:.2f} billion parameters in {document['dtype']}; at most "
        f"{sized(document['peak_bytes'])} on the device{alone} ({document['peak_stage']}), {sized(document['disk_bytes'])} on disk, "
        f"{duration(document['seconds'])} of computing at {document['throughput_tflops']:g} TFLOP/s"
    )


def duration(seconds: float) -> str:
    """Seconds in words: `2.5 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def print_run(experiment: str, stages: Iterable[Any], made: dict[str, Any]) -> None:
    """The JSON object of a command that runs an experiment: its stages, and what came of them."""
    documents = [
        dataclasses.asdict(run) | {"reasons": list(run.reasons), "seconds": round(run.seconds, 3)} for run in stages
    ]
    print_json({"experiment": experiment, "stages": documents, **made})


def print_json(document: dict[str, Any]) -> None:
    print(json.dumps(as_json(document), ensure_ascii=False), flush=True)


def sized(count: int) -> str:
    """Bytes in words: `1.5 MB`."""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"
