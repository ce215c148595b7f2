"""A comparison in parts: what was computed before, or on another machine, is counted and not computed again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.comparing.cells import Cell, Wanted
from flows.comparing.comparison import each_once, kept
from flows.comparing.tuning import Tuned
from flows.config import Experiment, flat_settings
from storage.records import UsageError

FILE = "comparison.json"
OWN = (
    "alignment.method",
    "alignment.learning_rate",
    "alignment.settings.",
    "alignment.seed",
    "entities.targets",
    "testbed.tail",
)
"""Settings, or how they begin, that differ from cell to cell."""
Place = tuple[str, str, str, int]
"""Tail, method, target and seed: what tells a cell from the others."""


@dataclass(frozen=True)
class Parts:
    """What other parts of a comparison hold, one after the other."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    verdicts: list[dict[str, Any]] = field(default_factory=list)
    trials: list[dict[str, Any]] = field(default_factory=list)
    tuned: dict[str, Tuned] = field(default_factory=dict)
    """Method -> the settings its cells have."""

    @property
    def cells(self) -> frozenset[Place]:
        return frozenset(map(_place, self.verdicts))

    def lacking(self, cells: Sequence[Cell]) -> list[Cell]:
        """Those that no part holds."""
        held = self.cells
        return [cell for cell in cells if (cell.tail, cell.method, cell.target, cell.seed) not in held]


def describe(asked: Wanted, tuned: Sequence[Tuned]) -> dict[str, Any]:
    """What the cells of a comparison share, and the settings of each method: `comparison.json`."""
    shared = _shared(asked.worlds[0])
    methods = {
        each.method: {"learning_rate": each.learning_rate, "settings": dict(each.settings)}
        for each in sorted(tuned, key=lambda each: each.method)
    }
    return {"shared": shared | {"--trials": asked.trials, "--validation": asked.validation}, "methods": methods}


def read_parts(folders: Sequence[str], asked: Wanted) -> Parts:
    """The parts in these folders, each cell once.

    Raises: UsageError for a folder that holds no comparison, or one whose cells have other settings than those asked for.
    """
    tuned: dict[str, Tuned] = {}
    found = Parts(tuned=tuned)
    wanted = describe(asked, ())["shared"]
    usual = _shared(Experiment())
    for folder in folders:
        document = _document(folder)
        for name in sorted(wanted.keys() | document["shared"].keys()):
            # A part that is older than a setting was made as that setting's default now says.
            mine, theirs = wanted.get(name), document["shared"].get(name, usual.get(name))
            if mine != theirs:
                raise UsageError(
                    f"--add {folder}: its {name} is {theirs!r}, expected {mine!r} as it is here; cells of other settings "
                    "are no part of this comparison"
                )
        for method, chosen in document["methods"].items():
            theirs = Tuned(method, chosen["learning_rate"], tuple(sorted(chosen["settings"].items())))
            if tuned.setdefault(method, theirs) != theirs:
                raise UsageError(
                    f"--add {folder}: '{method}' was tuned to other settings there than in the folder before; "
                    "leave one of the two out"
                )
        there = found.cells
        verdicts = [row for row in kept(Path(folder), "verdicts") if _place(row) not in there]
        new = {_place(row) for row in verdicts}
        shared_rows = ("(base)", "(gold)")
        found.rows.extend(
            row for row in each_once(kept(Path(folder), "cells")) if row["method"] in shared_rows or _place(row) in new
        )
        found.verdicts.extend(verdicts)
        if (Path(folder) / "trials.parquet").is_file():
            seen = {row["method"] for row in found.trials}
            found.trials.extend(row for row in kept(Path(folder), "trials") if row["method"] not in seen)
    return found


def _shared(experiment: Experiment) -> dict[str, Any]:
    """`section.key` -> value of what is the same in all cells."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in flat_settings(experiment, runtime=False).items()
        if not name.startswith(OWN)
    }


def _place(row: Mapping[str, Any]) -> Place:
    return row["tail"], row["method"], row["target"], row["seed"]


def _document(folder: str) -> dict[str, Any]:
    try:
        return json.loads((Path(folder) / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UsageError(
            f"--add {folder}: expected a folder that `sae-unlearn compare` left, with {FILE} in it, and it holds none"
        ) from None
