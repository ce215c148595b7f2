"""A model's answers beside those of the gold twin, which never saw the target, and beside those about unknown entities."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from tasks.evaluation.intervals import interval
from tasks.evaluation.metric import Case, Measurement, Tables
from tasks.evaluation.statistics.asked import Offered, answer_tokens, column, missing, offered
from tasks.evaluation.statistics.forget_quality import joined, ks_distance, resampled_distances
from tasks.evaluation.statistics.membership import ATTACKS, auc, resampled_aucs, scores
from tasks.evaluation.statistics.truth import log_truth_ratio

TOO_FEW = 4
"""Questions from which on two distributions can be told apart at p < .05 at all."""


def reference_of(case: Case, model: str) -> str | None:
    """The gold twin to compare a model with: under the same stress where it was observed so, else as it is."""
    stressed = f"gold+{model.partition('+')[2]}"
    return stressed if stressed in case.models else "gold" if "gold" in case.models else None


def compared(case: Case) -> list[str]:
    """Every model but the gold twins."""
    return [model for model in case.models if model.partition("+")[0] != "gold"]


@dataclass(frozen=True, eq=False)
class Separation:
    """D between the truth ratios of a model and of the gold twin on the target's questions."""

    distance: float
    low: float
    high: float
    count: int
    """Questions, the same of both."""

    @property
    def state(self) -> str:
        return "degenerate" if self.count < TOO_FEW else "saturated" if self.distance > 1 - 1e-9 else "ok"


def separations(case: Case) -> Iterator[tuple[str, Separation | Measurement]]:
    """Of every model but gold; where there is none, the measurement that says why."""
    for model in compared(case):
        gold = reference_of(case, model)
        if gold is None or any(case.models[each].options is None for each in (model, gold)):
            yield model, missing("forget", model)
            continue
        found = [_ratios(case, each) for each in (model, gold)]
        if None in found or not found[0]:
            yield model, missing("forget", model, state="degenerate")
            continue
        mine, theirs = (each or {} for each in found)
        if "+" in model:  # what a stress itself taught was left out, which may be other facts than the twin's
            theirs = {question: value for question, value in theirs.items() if question in mine}
        first, second = joined({q: v for q, (v, _) in mine.items()}, {q: v for q, (v, _) in theirs.items()})
        entities = [mine[question][1] for question in sorted(mine, key=str)]
        draws = resampled_distances(first, second, entities, draws=case.draws, seed=case.seed)
        yield model, Separation(ks_distance(first, second), *interval(draws, case.confidence), len(first))


def _ratios(case: Case, model: str) -> dict[int, tuple[float, str]] | None:
    """(log truth ratio, entity) of every question about the target on held-out templates; None where an answer has no token."""
    options, rows = offered(case.models[model]), case.asked(model, "forget")
    asked = [
        (int(question), options[int(question)], str(entity))
        for question, entity in zip(
            column(case, model, "question", rows), column(case, model, "entity", rows), strict=True
        )
        if len(options[int(question)].wrong)
    ]
    if not all(each.scored for _, each, _ in asked):
        return None
    return {question: (ratio_of(each), entity) for question, each, entity in asked}


def ratio_of(each: Offered) -> float:
    """log r of a question with wrong answers."""
    return log_truth_ratio(each.right, each.wrong)


@dataclass(frozen=True, eq=False)
class Exposure:
    """How well one attack tells the target's answers from those about unknown entities."""

    area: float
    draws: np.ndarray
    """The same, resampled; two models with the same seed draw the same entities."""
    count: int
    state: str


def exposures(case: Case, model: str) -> dict[str, Exposure]:
    """By attack: AUC of forget against held-out unknown entities asked the same relations; empty where there are none."""
    tables = case.models[model]
    if tables.tokens is None or tables.options is None:
        return {}
    forget = case.asked(model, "forget")
    nothing = Exposure(np.nan, np.full(case.draws, np.nan), 0, "degenerate")
    if not len(forget):
        return dict.fromkeys(ATTACKS, nothing)
    relations = set(column(case, model, "relation", forget))
    hold_out = [row for row in case.asked(model, "unknown_held_out") if tables.answers["relation"][row] in relations]
    (members, mine), (others, theirs) = (_scored(tables, rows) for rows in (list(forget), hold_out))
    if not others:
        return {}
    return {
        attack: _exposure(case, [each[attack] for each in members], [each[attack] for each in others], mine, theirs)
        if members
        else nothing
        for attack in ATTACKS
    }


def _scored(tables: Tables, rows: list[int]) -> tuple[list[dict[str, float]], list[str]]:
    """Scores and entity of every answer that has a scored token."""
    tokens, options = answer_tokens(tables), offered(tables)
    kept = [row for row in rows if int(tables.answers["question"][row]) in tokens]
    found = []
    for row in kept:
        question = int(tables.answers["question"][row])
        each = tokens[question]
        found.append(scores(each["log_probability"], each["mean"], each["deviation"], options[question].accepted[0]))
    return found, [str(tables.answers["entity"][row]) for row in kept]


def _exposure(case: Case, members: list[float], others: list[float], mine: list[str], theirs: list[str]) -> Exposure:
    first, second = np.array(members), np.array(others)
    equal = np.ptp(np.concatenate([first, second])) == 0
    draws = resampled_aucs(first, second, mine, theirs, draws=case.draws, seed=case.seed)
    return Exposure(auc(first, second), draws, len(first) + len(second), "degenerate" if equal else "ok")


def exposed_beside_gold(
    case: Case, attack: str, value: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> Iterator[Measurement]:
    """`value(AUC, AUC of gold)` for every model but gold; `saturated` where gold's AUC allows none."""
    for model in compared(case):
        gold = reference_of(case, model)
        mine = exposures(case, model).get(attack)
        theirs = exposures(case, gold).get(attack) if gold else None
        if mine is None or theirs is None:
            yield missing("forget", model)
            continue
        state = "degenerate" if "degenerate" in (mine.state, theirs.state) else "ok"
        found = float(value(np.array(mine.area), np.array(theirs.area)))
        drawn = value(mine.draws, theirs.draws)
        drawn = drawn[np.isfinite(drawn)]
        low, high = interval(drawn, case.confidence) if len(drawn) else (np.nan, np.nan)
        if state == "ok" and not np.isfinite(found):
            state = "saturated"
        yield Measurement("forget", model, found, low, high, mine.count, state=state)
