"""The answers, options and tokens of one model side by side, question by question, as metrics of answers read them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from storage.records import UsageError
from tasks.evaluation.metric import SPLITS, Case, Measurement, Tables, mean_measurement
from tasks.evaluation.statistics.language import destroyed

POWER = 0.5
"""A set of which the base model itself answers less tells nothing about forgetting."""
PLAIN = "paraphrase"
"""The set that plain numbers are of: held-out templates."""


@dataclass(frozen=True, eq=False)
class Offered:
    """What could be answered to one question: texts, and mean negative log-likelihoods (nats per token)."""

    accepted: list[str]
    """The canonical answer first."""
    right: float
    """Of the canonical answer; NaN without a scored token."""
    wrong: np.ndarray
    """Of each wrong answer."""

    @property
    def scored(self) -> bool:
        """Does every answer have a scored token?"""
        return not (math.isnan(self.right) or np.isnan(self.wrong).any())


_OFFERED: WeakKeyDictionary[Tables, dict[int, Offered]] = WeakKeyDictionary()
_TOKENS: WeakKeyDictionary[Tables, dict[int, dict[str, np.ndarray]]] = WeakKeyDictionary()
"""Made once for all metrics, kept as long as the tables are."""


def offered(tables: Tables) -> dict[int, Offered]:
    """Options of every question, none without a table of them; raises ArithmeticError for a log-probability that is no number."""
    if tables not in _OFFERED:
        _OFFERED[tables] = _offered(tables.options) if tables.options is not None else {}
    return _OFFERED[tables]


def _offered(table: Mapping[str, Any]) -> dict[int, Offered]:
    likelihood = np.asarray(table["log_probability"], dtype=float)
    tokens = np.asarray(table["tokens"])
    if np.isnan(likelihood).any():
        raise ArithmeticError(f"{int(np.isnan(likelihood).sum())} of {len(likelihood)} options have no log-probability")
    with np.errstate(divide="ignore", invalid="ignore"):
        loss = np.where(tokens > 0, -likelihood / tokens, math.nan)
    accepted = np.asarray(table["accepted"], dtype=bool)
    order = np.lexsort((np.asarray(table["option"]), np.asarray(table["question"])))
    found = {}
    for rows in _runs(np.asarray(table["question"]), order):
        right, wrong = rows[accepted[rows]], rows[~accepted[rows]]
        if not len(right):
            raise UsageError(f"question {table['question'][rows[0]]} has no accepted answer among its options")
        texts = [str(table["text"][row]) for row in right]
        found[int(table["question"][rows[0]])] = Offered(texts, float(loss[right[0]]), loss[wrong])
    return found


def answer_tokens(tables: Tables) -> dict[int, dict[str, np.ndarray]]:
    """Columns of the canonical answer's tokens of every question, in order of position."""
    if tables not in _TOKENS:
        _TOKENS[tables] = _answer_tokens(tables.tokens) if tables.tokens is not None else {}
    return _TOKENS[tables]


def _answer_tokens(table: Mapping[str, Any]) -> dict[int, dict[str, np.ndarray]]:
    order = np.lexsort((np.asarray(table["position"]), np.asarray(table["question"])))
    names = ("log_probability", "mean", "deviation", "hit")
    return {
        int(table["question"][rows[0]]): {name: np.asarray(table[name])[rows] for name in names}
        for rows in _runs(np.asarray(table["question"]), order)
    }


def _runs(question: np.ndarray, order: np.ndarray) -> Sequence[np.ndarray]:
    if not len(order):
        return []
    return np.split(order, np.flatnonzero(np.diff(question[order])) + 1)


def per_answer(case: Case, value: Callable[[dict[str, np.ndarray]], float], *, site: str = "") -> Iterator[Measurement]:
    """Mean of `value(tokens of the canonical answer)` over held-out templates; answers without a scored token are left out."""
    for model, tables in case.models.items():
        tokens = answer_tokens(tables)
        for split in SPLITS:
            if tables.tokens is None:
                yield missing(split, model, site)
                continue
            rows = [row for row in case.asked(model, split) if _question(tables, row) in tokens]
            values = np.array([value(tokens[_question(tables, row)]) for row in rows])
            entities = column(case, model, "entity", np.array(rows, dtype=int))
            yield mean_measurement(case, split, model, values, entities, site=site)


def column(case: Case, model: str, name: str, rows: np.ndarray) -> np.ndarray:
    """Some rows of a column of a model's answers."""
    return np.asarray(case.models[model].answers[name])[rows]


def truths(values: Any) -> np.ndarray:
    """A column of yes and no as bools; raises ArithmeticError for anything else."""
    numbers = np.asarray(values, dtype=float)
    if not np.isin(numbers, (0.0, 1.0)).all():
        raise ArithmeticError(
            f"{int((~np.isin(numbers, (0.0, 1.0))).sum())} of {len(numbers)} hits are neither yes nor no"
        )
    return numbers > 0


def per_output(case: Case, judge: Callable[[str, list[str], str], float], *, site: str = "") -> Iterator[Measurement]:
    """Mean of `judge(generated, accepted answers, relation)` over held-out templates, for every model and split.

    `degenerate` where the outputs are no language, or the base model has no power; `missing_reference` where no accepted answers were kept.
    """
    for model, tables in case.models.items():
        options = offered(tables)
        for split in SPLITS:
            rows = case.asked(model, split)
            if tables.options is None:
                yield missing(split, model, site)
                continue
            values = [judge(*each) for each in outputs(case, model, rows, options)]
            found = mean_measurement(
                case, split, model, np.array(values), column(case, model, "entity", rows), site=site
            )
            yield doubted(found, unanswered(case, split, PLAIN), destroyed(case, model, split))


def per_text(case: Case, value: Callable[[str], float]) -> Iterator[Measurement]:
    """Mean of `value(generated)` on held-out templates, without the outputs for which it is NaN."""
    for model, tables in case.models.items():
        for split in SPLITS:
            rows = case.asked(model, split)
            values = np.array([value(tables.answers["generated"][row]) for row in rows], dtype=float)
            kept = ~np.isnan(values)
            yield mean_measurement(case, split, model, values[kept], column(case, model, "entity", rows)[kept])


def outputs(
    case: Case, model: str, rows: np.ndarray, options: Mapping[int, Offered]
) -> Iterator[tuple[str, list[str], str]]:
    """(generated, accepted answers, relation) of some rows of a model's answers."""
    answers = case.models[model].answers
    for row in rows:
        yield (
            answers["generated"][row],
            options[int(answers["question"][row])].accepted,
            str(answers["relation"][row]),
        )


def per_option(
    case: Case, value: Mapping[str, Callable[[Offered], float]], *, splits: Sequence[str] = tuple(SPLITS)
) -> Iterator[Measurement]:
    """Mean of `value[split](options)`, or of `value[""]` for splits without one of their own, over held-out templates.

    Questions without a wrong answer are left out; an answer without a scored token makes the split `degenerate`.
    """
    for model, tables in case.models.items():
        options = offered(tables)
        for split in splits:
            if tables.options is None:
                yield missing(split, model)
                continue
            rows = [row for row in case.asked(model, split) if len(options[_question(tables, row)].wrong)]
            mine = [options[_question(tables, row)] for row in rows]
            if not all(each.scored for each in mine):
                yield missing(split, model, state="degenerate")
                continue
            measure = value.get(split, value[""])
            values = np.array([measure(each) for each in mine])
            yield mean_measurement(case, split, model, values, column(case, model, "entity", np.array(rows, dtype=int)))


def _question(tables: Tables, row: int) -> int:
    return int(tables.answers["question"][row])


def groups(case: Case, kind: str) -> list[str]:
    """Splits that a set asks the base model about, but those of unknown entities."""
    answers = case.models["base"].answers
    of_set = np.asarray(answers["split"])[np.asarray(answers["set"]) == kind]
    return [split for split in SPLITS if (of_set == split).any()]


def unanswered(case: Case, split: str, kind: str) -> bool:
    """Has the base model no power on a set: does it answer less than half of it, or was it not asked?"""
    hits = truths(column(case, "base", "hit", case.asked("base", split, kind)))
    return not len(hits) or float(hits.mean()) < POWER


def missing(split: str, model: str, site: str = "", state: str = "missing_reference") -> Measurement:
    """A score that could not be made, and why."""
    return Measurement(split, model, math.nan, math.nan, math.nan, 0, site, state)


def doubted(found: Measurement, *reasons: bool) -> Measurement:
    """The same value, but `degenerate` where any reason says that it means nothing."""
    return replace(found, state="degenerate") if any(reasons) and found.state == "ok" else found


def powerless(found: Measurement) -> bool:
    """Of the base model's own value: too low to tell forgetting by? An empty one is."""
    return not found.value >= POWER
