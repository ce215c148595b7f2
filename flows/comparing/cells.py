"""What a comparison consists of: whom it asks for, its cells, and the chain of one cell."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flows.comparing.tuning import Tuned
from flows.config import Experiment, load_experiment
from flows.evaluate import Assessment, assess
from flows.prepare import Insight, Subject, look_inside, prepare
from storage.artifacts import folder_of
from storage.keys import canonical, digest
from storage.records import UnlearnedModel, UsageError
from storage.tables import read_table
from tasks.alignment.task import align
from tasks.catalogue import module_of, names


@dataclass(frozen=True)
class Wanted:
    """A comparison as it is asked for; no stage has run."""

    worlds: tuple[Experiment, ...]
    """The experiment in each kind of world; the first is where methods are tuned."""
    methods: tuple[str, ...]
    targets: tuple[str, ...]
    """Names or ids; () for the first `count` candidates."""
    count: int
    seeds: tuple[int, ...]
    trials: int
    validation: int

    @property
    def cells(self) -> int:
        return len(self.worlds) * len(self.methods) * (len(self.targets) or self.count) * len(self.seeds)


@dataclass(frozen=True)
class Cell:
    """One run of the comparison."""

    method: str
    target: str
    """Entity id."""
    name: str
    seed: int
    experiment: Experiment

    @property
    def tail(self) -> str:
        return self.experiment.world.tail

    @property
    def key(self) -> str:
        """Digest of all that it is set to."""
        return digest([self.method, self.target, self.seed, canonical(self.experiment)])

    def __str__(self) -> str:
        return f"{self.method}, {self.tail}, {self.name}, seed {self.seed}"


def wanted(
    experiment: str = "default",
    methods: Sequence[str] | None = None,
    targets: Sequence[str] | None = None,
    count: int = 3,
    seeds: Sequence[int] | None = None,
    overrides: Sequence[str] | None = None,
    trials: int = 0,
    validation: int = 2,
    tails: Sequence[str] | None = None,
) -> Wanted:
    """The parameters of `flows.compare.compare`, checked. Raises: UsageError for a method or a world that is none."""
    settings = load_experiment(experiment, overrides or ())
    chosen = tuple(methods or names("alignment/methods"))
    for method in chosen:
        module_of("alignment/methods", method)
    worlds = tuple(_in_world(settings, tail) for tail in tails or [settings.world.tail])
    return Wanted(worlds, chosen, tuple(targets or ()), count, tuple(seeds or (0,)), trials, validation)


def _in_world(experiment: Experiment, tail: str) -> Experiment:
    """The experiment in a world of that kind. Raises: UsageError for a kind that is none."""
    known = dataclasses.fields(experiment.world)
    choices = next(entry.metadata["choices"] for entry in known if entry.name == "tail")
    if tail not in choices:
        raise UsageError(f"--tails: expected {', '.join(choices)}, given '{tail}'")
    if experiment.data.source and tail != experiment.world.tail:
        raise UsageError(
            f"--tails: kinds of the testbed's world, given '{tail}', and [data] source names {experiment.data.source}; "
            "leave one of the two out"
        )
    return dataclasses.replace(experiment, world=dataclasses.replace(experiment.world, tail=tail))


def cells_of(wanted: Wanted, tuned: Sequence[Tuned]) -> list[Cell]:
    """Every cell, world by world and target by target, so that what cells share is computed by the first of them."""
    return [
        cell_of(world, each, target, name, seed)
        for world in wanted.worlds
        for target, name in chosen_targets(world, wanted.targets, wanted.count)
        for each in tuned
        for seed in wanted.seeds
    ]


def cell_of(experiment: Experiment, tuned: Tuned, target: str, name: str, seed: int) -> Cell:
    alignment = dataclasses.replace(
        experiment.alignment,
        method=tuned.method,
        learning_rate=tuned.learning_rate,
        seed=seed,
        settings=tuned.settings,
    )
    roles = dataclasses.replace(experiment.roles, targets=(target,))
    return Cell(tuned.method, target, name, seed, dataclasses.replace(experiment, alignment=alignment, roles=roles))


def validation_targets(wanted: Wanted) -> list[tuple[str, str]]:
    """(id, name) of those that methods are tuned on: the first candidates that are a target in none of the worlds."""
    taken = {target for world in wanted.worlds for target, _ in chosen_targets(world, wanted.targets, wanted.count)}
    free = [each for each in chosen_targets(wanted.worlds[0], (), 0) if each[0] not in taken]
    if len(free) < wanted.validation:
        raise UsageError(
            f"--validation {wanted.validation}: only {len(free)} candidates are left beside the targets; "
            "ask for fewer targets"
        )
    return free[: wanted.validation]


def run_alignment(cell: Cell) -> tuple[Subject, Insight, UnlearnedModel]:
    """The chain up to the model that was made to forget."""
    subject = prepare(cell.experiment)
    insight = look_inside(subject, cell.experiment)
    made = align(
        subject.models.base,
        subject.world,
        subject.forget_set,
        insight.sae,
        insight.selection,
        cell.experiment.alignment,
    )
    return subject, insight, made


def run_cell(cell: Cell) -> tuple[UnlearnedModel, Assessment]:
    """The chain without its page."""
    subject, insight, made = run_alignment(cell)
    return made, assess(subject, insight, made.model, cell.experiment)


def chosen_targets(experiment: Experiment, asked: Sequence[str] | None, count: int) -> list[tuple[str, str]]:
    """(id, name) of each target asked for, or of the first `count` candidates that the model knows; 0 for all of them."""
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
    return [(row["entity"], row["name"]) for row in found[: count or None]]


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
