"""Observe and score a model, ours or a foreign one, beside the base model and its gold twin."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from prefect import flow

from flows.config import Experiment, load_experiment
from flows.prepare import Subject, prepare
from storage.artifacts import file_digest
from storage.records import ModelRef, Observations, Scorecard, UsageError
from storage.settings import configure_environment
from tasks.evaluation.task import observe_model, relearn, score


@dataclass(frozen=True)
class Assessment:
    """The three models as they answer, the same under attack, and the scores."""

    before: Observations
    after: Observations
    gold: Observations
    relearned_before: Observations
    relearned_after: Observations
    relearned_gold: Observations
    scorecard: Scorecard


def assess(subject: Subject, model: ModelRef, experiment: Experiment) -> Assessment:
    """Ask the base model, the model and the gold twin the same questions; attack each; score."""
    base, gold_twin = subject.testbed.base, subject.testbed.gold
    before, gold, after = (
        observe_model(each, subject.world, subject.entities, experiment.observation)
        for each in (base, gold_twin, model)
    )
    relearned_before, relearned_gold, relearned_after = (
        relearn(each, subject.world, subject.forget_set, experiment.relearning) for each in (base, gold_twin, model)
    )
    scorecard = score(
        world=subject.world,
        forget_set=subject.forget_set,
        before=before,
        after=after,
        gold=gold,
        relearned_before=relearned_before,
        relearned_after=relearned_after,
        relearned_gold=relearned_gold,
        settings=experiment.scoring,
    )
    return Assessment(before, after, gold, relearned_before, relearned_after, relearned_gold, scorecard)


def evaluate_chain(model: ModelRef, experiment: Experiment) -> Assessment:
    return assess(prepare(experiment), model, experiment)


@flow(name="evaluate")
def evaluate(model: str, experiment: str = "default", overrides: list[str] | None = None) -> Assessment:
    """Score the model in a local folder against an experiment's world, base model and gold twin."""
    configure_environment()
    return evaluate_chain(model_in_folder(model), load_experiment(experiment, overrides or ()))


def model_in_folder(location: str) -> ModelRef:
    """A local folder as a model, named by the digest of its files. Raises: UsageError when it holds no model."""
    folder = Path(location).expanduser().resolve()
    if not (folder / "config.json").is_file():
        raise UsageError(
            f"{location} holds no model: expected a folder with config.json, weights and tokenizer, as transformers saves it"
        )
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(folder).as_posix()} {file_digest(path)}\n".encode())
    return ModelRef(source="folder", location=str(folder), revision=digest.hexdigest()[:32])
