"""Doors of the evaluation: observe a model once, attack it, and score what was observed."""

from __future__ import annotations

from typing import Any

from storage.artifacts import folder_of
from storage.records import EntitySet, ForgetSet, ModelRef, Observations, Scorecard, World
from storage.tables import Columns, read_table, write_table
from storage.weights import location_of
from tasks import catalogue
from tasks.caching import new_artifact, stage
from tasks.evaluation.settings import ObservationSettings, RelearningSettings, ScoreSettings

GENERAL_QUESTIONS = 1000
"""Questions about the long tail that stand for general text."""


@stage("observations", tags=("gpu",))
def observe_model(model: ModelRef, world: World, entities: EntitySet, settings: ObservationSettings) -> Observations:
    """Run a model once over the held-out questions of every known and unknown entity.

    `answers.parquet`, `states.parquet` (bfloat16 as uint16), `distributions.parquet` (known entities, first held-out
    template) and `general.parquet`. Which entity is the target makes no difference here, so base and gold are
    observed once for all targets.
    """
    from tasks.evaluation.observing import observe_answers, observe_distributions, observe_states, site_columns
    from tasks.models.load import load_model
    from tasks.models.states import to_stored

    questions = read_table(folder_of(world.artifact) / "questions.parquet")
    labelled = read_table(folder_of(entities.artifact) / "entities.parquet", columns=["entity", "label"])
    label = dict(zip(labelled["entity"], labelled["label"], strict=True))
    held_out = [row for row in range(len(questions["question"])) if questions["held_out"][row]]
    asked = [row for row in held_out if label.get(questions["entity"][row], "dropped") != "dropped"]
    first = min(int(questions["template"][row]) for row in asked)
    known = [row for row in asked if label[questions["entity"][row]] == "known" and questions["template"][row] == first]
    location, revision = location_of(model)
    loaded = load_model(location, revision=revision, device=settings.device)
    states = observe_states(loaded, questions, asked, settings.token_budget)
    for site in site_columns(states):
        states[site] = to_stored(states[site], "bfloat16")
    with new_artifact() as build:
        write_table(build.folder / "answers.parquet", observe_answers(loaded, questions, asked, settings.token_budget))
        write_table(build.folder / "states.parquet", states)
        write_table(
            build.folder / "distributions.parquet",
            observe_distributions(loaded, questions, known, settings.token_budget),
        )
        write_table(build.folder / "general.parquet", _general(loaded, questions, label, settings))
    return Observations(build.artifact)


def _general(loaded: Any, questions: Columns, label: dict[str, str], settings: ObservationSettings) -> Columns:
    """Loss of what the long tail was taught: (question, entity, nll, tokens), nats."""
    from tasks.models.scoring import score_answers
    from tasks.models.worlds import encode_world

    tail = [
        row
        for row in range(len(questions["question"]))
        if questions["taught"][row] and questions["entity"][row] not in label
    ]
    tail = tail[:: max(1, len(tail) // GENERAL_QUESTIONS)][:GENERAL_QUESTIONS]
    taught = {**questions, "answers": [[text] for text in questions["taught"]]}
    encoded = encode_world(loaded, taught, tail)
    scores = score_answers(
        loaded, [each.prompt for each in encoded], [each.answers for each in encoded], budget=settings.token_budget
    )
    return {
        "question": questions["question"][tail],
        "entity": questions["entity"][tail],
        "nll": -scores.log_probability,
        "tokens": scores.tokens,
    }


@stage("stress", tags=("gpu",))
def relearn(model: ModelRef, world: World, forget_set: ForgetSet, settings: RelearningSettings) -> Observations:
    """Teach half of each target's facts back and score the other half after every step: `relearning.parquet`."""
    from tasks.evaluation.relearning import relearn_curve
    from tasks.models.load import load_model

    questions = read_table(folder_of(world.artifact) / "questions.parquet")
    roles = read_table(folder_of(forget_set.artifact) / "roles.parquet")
    location, revision = location_of(model)
    curve = relearn_curve(
        load_model(location, revision=revision, device=settings.device),
        questions,
        set(roles["entity"][roles["role"] == "target"]),
        draws=settings.relearning_draws,
        steps=settings.relearning_steps,
        learning_rate=settings.relearning_rate,
        seed=settings.relearning_seed,
    )
    with new_artifact() as build:
        write_table(build.folder / "relearning.parquet", curve)
    return Observations(build.artifact)


@stage("scores")
def score(
    world: World,
    forget_set: ForgetSet,
    before: Observations,
    after: Observations,
    gold: Observations | None,
    relearned_before: Observations,
    relearned_after: Observations,
    relearned_gold: Observations | None,
    settings: ScoreSettings,
) -> Scorecard:
    """Every metric of every split, site and model, from what was observed: no network is run."""
    from tasks.evaluation.metric import Case, Tables

    def tables(observed: Observations, relearned: Observations) -> Tables:
        folder = folder_of(observed.artifact)
        return Tables(
            answers=read_table(folder / "answers.parquet"),
            states=read_table(folder / "states.parquet"),
            distributions=read_table(folder / "distributions.parquet"),
            general=read_table(folder / "general.parquet"),
            relearning=read_table(folder_of(relearned.artifact) / "relearning.parquet"),
        )

    models = {"base": tables(before, relearned_before), "unlearned": tables(after, relearned_after)}
    if gold is not None and relearned_gold is not None:
        models["gold"] = tables(gold, relearned_gold)
    roles = read_table(folder_of(forget_set.artifact) / "roles.parquet")
    kinds = read_table(folder_of(world.artifact) / "entities.parquet", columns=["entity", "type"])
    case = Case(
        models,
        dict(zip(roles["entity"], roles["role"], strict=True)),
        dict(zip(kinds["entity"], kinds["type"], strict=True)),
        settings.bootstrap_draws,
        settings.confidence,
        settings.score_seed,
    )
    rows = []
    for name in settings.metrics or catalogue.names("evaluation/metrics"):
        metric = catalogue.load("evaluation/metrics", name)()
        rows += [{"metric": name, **vars(m), "better": metric.direction(m.split)} for m in metric.measure(case)]
    columns = ("metric", "split", "site", "model", "value", "low", "high", "count", "better", "state")
    with new_artifact() as build:
        write_table(build.folder / "scores.parquet", {name: [row[name] for row in rows] for name in columns})
    return Scorecard(build.artifact)
