"""Observe and score a model, ours or a foreign one, beside the base model and its gold twin."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prefect import flow

from flows.config import Experiment, load_experiment
from flows.models import model_at, placed
from flows.prepare import Insight, Subject, look_inside, prepare
from storage.artifacts import folder_digest
from storage.records import ModelRef, Observations, Observed, QuestionSet, Scorecard, Verdict
from storage.settings import configure_environment
from tasks import catalogue
from tasks.evaluation.metric import COSTLY
from tasks.evaluation.settings import StressSettings, UtilitySettings
from tasks.evaluation.task import (
    check_model,
    judge,
    measure_utility,
    observe_gradients,
    observe_model,
    observe_population,
    relearn,
    score,
    stress,
    trace_answers,
    view_latents,
)
from tasks.questions.task import make_question_set


@dataclass(frozen=True)
class Assessment:
    """Who was judged, what was asked, what every model answered and thought, the scores and what they come to."""

    model: ModelRef
    questions: QuestionSet
    observed: tuple[Observed, ...]
    scorecard: Scorecard
    verdict: Verdict

    def of(self, name: str) -> Observed:
        """What was observed of one of the models."""
        return next(each for each in self.observed if each.name == name)


def assess(
    subject: Subject, insight: Insight, model: ModelRef, experiment: Experiment, *, with_gold: bool = True
) -> Assessment:
    """Ask the base model, the model and the gold twin the same questions; put each under stress; score; judge."""
    questions = make_question_set(subject.world, subject.entities, subject.forget_set, experiment.questions)
    model = placed(model, experiment)
    models = {"base": subject.models.base, "unlearned": model}
    if with_gold and subject.models.gold is not None:
        models = {"base": subject.models.base, "gold": subject.models.gold, "unlearned": model}
    observed = [_observe(name, each, subject, insight, questions, experiment) for name, each in models.items()]
    observed += [
        _under_stress(f"{name}+{kind}", each, kind, subject, insight, questions, experiment)
        for kind in experiment.stresses.stresses
        for name, each in models.items()
    ]
    scorecard = score(subject.world, subject.forget_set, tuple(observed), experiment.scoring)
    return Assessment(model, questions, tuple(observed), scorecard, judge(scorecard, experiment.verdict))


def _observe(
    name: str, model: ModelRef, subject: Subject, insight: Insight, questions: QuestionSet, experiment: Experiment
) -> Observed:
    """All there is to see of one model that a metric asked for reads."""
    base, read = subject.models.base, tables_read(experiment.scoring.metrics)
    observations = observe_model(model, subject.world, questions, experiment.observation)
    population = observe_population(model, subject.world, subject.entities, experiment.observation)
    return Observed(
        name,
        observations,
        population,
        relearning=relearn(model, subject.world, subject.forget_set, experiment.relearning)
        if "relearning" in read
        else None,
        traces=trace_answers(base, model, questions, experiment.tracing) if "traces" in read else None,
        gradients=observe_gradients(model, questions, experiment.gradients) if "gradients" in read else None,
        latents=view_latents(observations, insight.sae, insight.selection, experiment.viewing)
        if "latents" in read
        else None,
        utility=_utility(model, experiment.utility),
    )


def tables_read(metrics: Sequence[str]) -> frozenset[str]:
    """Which of the tables that cost a stage of their own the metrics read; all of them where none is named."""
    if not metrics:
        return COSTLY
    return frozenset().union(*(catalogue.load("evaluation/metrics", name).reads for name in metrics))


def _utility(model: ModelRef, settings: UtilitySettings) -> Observations | None:
    """What the model is still good for; None where no task was asked for."""
    if not settings.utility_tasks:
        return None
    folder = settings.utility_folder
    return measure_utility(model, settings, folder_digest(Path(folder).expanduser()) if folder else "")


def _under_stress(
    name: str,
    model: ModelRef,
    kind: str,
    subject: Subject,
    insight: Insight,
    questions: QuestionSet,
    experiment: Experiment,
) -> Observed:
    """A model made from another one by a stress, asked the same questions."""
    settings = StressSettings(kind, stress_seed=experiment.stresses.stress_seed, device=experiment.stresses.device)
    stressed = stress(model, subject.world, subject.forget_set, settings)
    made = placed(stressed.model, experiment)
    observations = observe_model(made, subject.world, questions, experiment.observation)
    base, read = subject.models.base, tables_read(experiment.scoring.metrics)
    return Observed(
        name,
        observations,
        traces=trace_answers(base, made, questions, experiment.tracing) if "traces" in read else None,
        latents=view_latents(observations, insight.sae, insight.selection, experiment.viewing)
        if "latents" in read
        else None,
        stress=stressed.artifact,
    )


@flow(name="evaluate")
def evaluate(
    model: str, experiment: str = "default", overrides: list[str] | None = None, with_gold: bool = True
) -> Assessment:
    """Score a model, from a local folder or by its hub id, against an experiment's world and base model.

    with_gold: beside the gold twin too; without it, what needs a reference is said to be missing.
    """
    configure_environment()
    settings = load_experiment(experiment, overrides or ())
    found = dataclasses.replace(model_at(model), dtype=settings.model.dtype, chat=settings.model.chat)
    subject = prepare(settings)
    check_model(found, subject.models.base)
    return assess(subject, look_inside(subject, settings), found, settings, with_gold=with_gold)
