"""What a comparison would compute, nothing being computed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flows.compare import mean_balance, trial_scores, tune_all
from flows.comparing.cells import Wanted, cells_of, run_cell, validation_targets
from flows.comparing.parts import read_parts
from flows.comparing.tuning import Tuned, trials_of, tune
from flows.prepare import prepare
from storage.records import Scorecard
from storage.settings import configure_environment
from tasks.caching import Pending, StageRun, journal


@dataclass
class StageTotals:
    """A stage over all cells and trials that can be foreseen; what several share counts once."""

    stage: str
    cached: int = 0
    to_compute: int = 0
    reasons: tuple[str, ...] = ()
    """Why the first of them would be computed."""


@dataclass(frozen=True)
class TrialsOfMethod:
    """How far a method's tuning can be walked through from the cache."""

    method: str
    trials: int
    cached: int


@dataclass(frozen=True)
class ComparisonPlan:
    """How much of a comparison is there, and how much has yet to be computed."""

    cells: int
    cached: int
    """Cells all of whose stages are there, or that another part holds."""
    unforeseen: int
    """Cells of which nobody can say: their targets or their settings are found on the way."""
    trials: list[TrialsOfMethod]
    stages: list[StageTotals] = field(default_factory=list)


class _Unforeseen(Exception):
    """A trial whose scores are not there: what the next one would try hangs on them."""


def plan_comparison(wanted: Wanted, parts: Sequence[str] = ()) -> ComparisonPlan:
    """Walk through the comparison as far as its results are there already, here or in the folders of other parts.

    Raises: UsageError as the comparison itself would, where that shows already.
    """
    configure_environment()
    others = read_parts(parts, wanted)
    stages: list[StageRun] = []
    with journal(planning=True) as log:
        ready = [_asked(prepare(world).entities) for world in wanted.worlds]
    stages += log.runs
    if not all(ready):
        budgets = [TrialsOfMethod(method, trials_of(method, wanted.trials), 0) for method in wanted.methods]
        return ComparisonPlan(wanted.cells, 0, wanted.cells, budgets if wanted.trials else [], _totals(stages))
    with journal(planning=True) as log:
        tuned, trials = _tuning(wanted, others.tuned)
    stages += log.runs
    with journal(planning=True):
        cells = cells_of(wanted, tuned)
    lacking = others.lacking(cells)
    cached = len(cells) - len(lacking)
    for cell in lacking:
        with journal(planning=True) as log:
            run_cell(cell)
        stages += log.runs
        cached += all(run.state == "cached" for run in log.runs)
    return ComparisonPlan(wanted.cells, cached, wanted.cells - len(cells), trials, _totals(stages))


def _asked(entities: Any) -> bool:
    """Whether the model was asked whom it knows."""
    return not isinstance(entities, Pending)


def _tuning(wanted: Wanted, known: Mapping[str, Tuned]) -> tuple[list[Tuned], list[TrialsOfMethod]]:
    """The methods whose settings are found already, and how many trials of each are there."""
    if not wanted.trials or known.keys() >= set(wanted.methods):
        return tune_all(wanted, known), []
    others = validation_targets(wanted)
    found, trials = [known[method] for method in wanted.methods if method in known], []
    for method in wanted.methods:
        if method in known:
            continue
        count = 0

        def score(rate: float, own: tuple[tuple[str, Any], ...], method: str = method) -> float:
            nonlocal count
            value = mean_balance(_foreseen(trial_scores(wanted, others, Tuned(method, rate, own))))
            count += 1
            return value

        with contextlib.suppress(_Unforeseen):
            found.append(tune(method, wanted.trials, score, wanted.seeds[0]))
        trials.append(TrialsOfMethod(method, trials_of(method, wanted.trials), count))
    return found, trials


def _foreseen(cards: Iterator[Scorecard]) -> Iterator[Scorecard]:
    """The cards, all of them or an error; those that are not there are all looked for first."""
    found: Sequence[Any] = list(cards)
    if any(isinstance(card, Pending) for card in found):
        raise _Unforeseen
    yield from found


def _totals(runs: Sequence[StageRun]) -> list[StageTotals]:
    """In the order of a run; a stage that follows one to be computed has no key yet and counts each time."""
    totals: dict[str, StageTotals] = {}
    seen: set[tuple[str, str]] = set()
    for run in runs:
        total = totals.setdefault(run.stage, StageTotals(run.stage))
        if run.key and (run.stage, run.key) in seen:
            continue
        seen.add((run.stage, run.key))
        if run.state == "cached":
            total.cached += 1
        else:
            total.to_compute += 1
            total.reasons = total.reasons or tuple(run.reasons)
    return list(totals.values())
