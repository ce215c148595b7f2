"""One experiment, whole: a model is asked who it knows, made to forget one of them, and judged."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib.metadata import version

from prefect import flow

from flows.config import Experiment, flat_settings, load_experiment
from flows.evaluate import Assessment, assess
from flows.models import pinned_experiment
from flows.prepare import Insight, Subject, look_inside, prepare
from flows.results import markdown_of, score_rows
from storage.records import ReleasedModel, ReloadedModel, Report, TrackedRun, UnlearnedModel
from storage.settings import configure_environment
from storage.tracking_store import public_address, store_identity
from tasks.alignment.task import align
from tasks.reloading.task import reload
from tasks.report.task import release, track, write_report

logger = logging.getLogger("sae_unlearn")


@dataclass(frozen=True)
class Outcome:
    """All that a run made."""

    subject: Subject
    insight: Insight
    unlearned: UnlearnedModel
    assessment: Assessment
    report: Report
    reloaded: ReloadedModel
    released: ReleasedModel
    tracked: TrackedRun


def unlearn_chain(experiment: Experiment) -> Outcome:
    """The stages in order; under `journal(planning=True)` the same lines are the dry run."""
    experiment = pinned_experiment(experiment)
    subject = prepare(experiment)
    insight = look_inside(subject, experiment)
    unlearned = align(
        subject.models.base, subject.world, subject.forget_set, insight.sae, insight.selection, experiment.alignment
    )
    assessment = assess(subject, insight, unlearned.model, experiment)
    report = write_report(
        world=subject.world,
        entities=subject.entities,
        forget_set=subject.forget_set,
        sae=insight.sae,
        selection=insight.selection,
        statistics=insight.statistics,
        unlearned=unlearned,
        observed=assessment.observed,
        scorecard=assessment.scorecard,
        verdict=assessment.verdict,
        settings=experiment.report,
    )
    reloaded = reload(
        subject.models.base,
        unlearned,
        assessment.questions,
        assessment.of("unlearned").observations,
        experiment.reloading,
    )
    settings = tuple((name, str(value)) for name, value in sorted(flat_settings(experiment, runtime=False).items()))
    released = release(
        base=subject.models.base,
        world=subject.world,
        forget_set=subject.forget_set,
        unlearned=unlearned,
        scorecard=assessment.scorecard,
        verdict=assessment.verdict,
        reloaded=reloaded,
        parameters=tuple((name, value) for name, value in settings if name.startswith("alignment.")),
        version=version("sae-unlearn"),
        settings=experiment.card,
    )
    tracked = track(
        address=public_address(),
        store=store_identity(),
        name=experiment.name,
        world=subject.world,
        model=subject.models.base,
        forget_set=subject.forget_set,
        unlearned=unlearned,
        released=released,
        scorecard=assessment.scorecard,
        verdict=assessment.verdict,
        report=report,
        parameters=settings,
    )
    return Outcome(subject, insight, unlearned, assessment, report, reloaded, released, tracked)


@flow(name="unlearn")
def unlearn(experiment: str = "default", overrides: list[str] | None = None) -> Outcome:
    """Run an experiment by name, or from a TOML file; `overrides` are `section.key=value`."""
    configure_environment()
    outcome = unlearn_chain(load_experiment(experiment, overrides or ()))
    publish_scores(experiment, outcome)
    return outcome


def publish_scores(experiment: str, outcome: Outcome) -> None:
    """The score table in Prefect's pages; the run stands whether or not they can be reached."""
    try:
        from prefect.artifacts import create_markdown_artifact

        create_markdown_artifact(
            markdown_of(score_rows(outcome.assessment.scorecard)), key="scores", description=experiment
        )
    except Exception as error:  # noqa: BLE001
        logger.warning("the scores could not be shown in Prefect: %s", error)
