"""Every method tuned alike: the same number of trials, on targets that no table counts, by one score.

The first trial is the method's own defaults; the others are drawn by optuna's TPE sampler, seeded. Nothing is resumed from
a stored study: a broken-off one is walked through again, and its trials come out of the cache.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.config import Experiment
from flows.models import placed
from flows.prepare import Subject
from storage.records import ModelRef, Observed, Scorecard, UsageError
from tasks import catalogue
from tasks.evaluation.statistics.balance import METRICS
from tasks.evaluation.task import observe_model, observe_population, relearn, score
from tasks.questions.task import make_question_set

if TYPE_CHECKING:
    import optuna

logger = logging.getLogger("sae_unlearn")

RATE = "learning_rate"
"""The one setting of the search that belongs to the alignment and not to the method."""


@dataclass(frozen=True)
class Tuned:
    """A method with the settings of its best trial."""

    method: str
    learning_rate: float
    """0 means the method's own."""
    settings: tuple[tuple[str, Any], ...]
    trials: tuple[Mapping[str, Any], ...] = ()
    """One row a trial: number, value, settings as text, the reason of a failure."""
    study: tuple[optuna.trial.FrozenTrial, ...] = ()
    """The same as optuna keeps them."""


def tune(
    method: str, trials: int, objective: Callable[[float, tuple[tuple[str, Any], ...]], float], seed: int
) -> Tuned:
    """The best of so many trials of a method, the earlier of two that are alike.

    objective  (learning rate, the method's settings, those at their defaults left out) -> score, higher is better; a
               UsageError or an ArithmeticError counts as the worst score, 0, so that a method which diverges has spent
               its trial.
    """
    kind: Any = catalogue.load("alignment/methods", method)
    space: Mapping[str, Sequence[Any]] = kind.search
    budget = trials_of(method, trials)
    if not budget:
        return Tuned(method, 0.0, ())
    study = _study(seed)
    defaults = {entry.name: entry.default for entry in dataclasses.fields(kind)} | {RATE: rate_of(kind)}
    if space:
        study.enqueue_trial({name: defaults[name] for name in space})
    rows, given = [], []
    for number in range(budget):
        trial = study.ask()
        chosen = {name: _suggest(trial, name, bounds, defaults[name]) for name, bounds in space.items()}
        changed = {name: value for name, value in sorted(chosen.items()) if value != defaults[name]}
        rate, reason = changed.pop(RATE, 0.0), ""
        given.append((rate, tuple(changed.items())))
        try:
            value = objective(*given[-1])
        except (UsageError, ArithmeticError) as error:
            value, reason = 0.0, " ".join(str(error).split())
            trial.set_user_attr("failure", reason)
        study.tell(trial, value)
        shown = ", ".join(f"{name} {_short(each)}" for name, each in chosen.items()) or "its defaults"
        logger.info("%s, trial %d of %d: %.3f with %s", method, number + 1, budget, value, shown)
        rows.append(
            {
                "method": method,
                "trial": number,
                "value": value,
                RATE: chosen.pop(RATE, defaults[RATE]),
                "settings": ", ".join(f"{name}={each!r}" for name, each in sorted(chosen.items())),
                "failure": reason,
            }
        )
    best = max(range(budget), key=lambda number: (rows[number]["value"], -number))
    return Tuned(method, *given[best], tuple(rows), tuple(study.trials))


def trials_of(method: str, trials: int) -> int:
    """How many of the trials a method takes: one where it has nothing to search."""
    kind: Any = catalogue.load("alignment/methods", method)
    return trials if kind.search else min(trials, 1)


def rate_of(kind: Any) -> float:
    """A method's own learning rate; 0 where it trains nothing."""
    return getattr(kind, RATE, 0.0)


def score_for_tuning(subject: Subject, model: ModelRef, experiment: Experiment) -> Scorecard:
    """The few scores that `balance` needs, of the base model and the model, from the fewest questions that give them."""
    asked = dataclasses.replace(experiment.questions, sets=("base",))
    questions = make_question_set(subject.world, subject.entities, subject.forget_set, asked)
    observed = tuple(
        Observed(
            name,
            observe_model(each, subject.world, questions, experiment.observation),
            observe_population(each, subject.world, subject.entities, experiment.observation),
            relearning=relearn(each, subject.world, subject.forget_set, experiment.relearning),
        )
        for name, each in (("base", subject.models.base), ("unlearned", placed(model, experiment)))
    )
    settings = dataclasses.replace(experiment.scoring, metrics=METRICS, bootstrap_draws=100)
    return score(subject.world, subject.forget_set, observed, settings)


def keep_studies(folder: Path, tuned: Sequence[Tuned]) -> None:
    """Every trial, as a study of optuna's in `studies.journal`, for its dashboard and for other tools."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    path = folder / "studies.journal"
    path.unlink(missing_ok=True)
    storage = JournalStorage(JournalFileBackend(str(path)))
    for each in tuned:
        study = optuna.create_study(study_name=each.method, storage=storage, direction="maximize")
        study.add_trials(each.study)


def _study(seed: int) -> optuna.Study:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=4))


def _suggest(trial: optuna.Trial, name: str, bounds: Sequence[Any], default: Any) -> Any:
    """A value: two numbers are a range, logarithmic above 0; anything else is a choice."""
    numbers = len(bounds) == 2 and all(isinstance(each, int | float) and not isinstance(each, bool) for each in bounds)
    if not numbers:
        return trial.suggest_categorical(name, tuple(bounds))
    low, high = bounds
    if isinstance(default, int) and not isinstance(default, bool):
        return trial.suggest_int(name, int(low), int(high), log=low > 0)
    return trial.suggest_float(name, float(low), float(high), log=low > 0)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
