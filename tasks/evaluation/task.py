"""Doors of the evaluation: observe a model once, attack it, score what was observed, and judge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from storage.artifacts import folder_of
from storage.records import (
    EntitySet,
    ForgetSet,
    LatentSelection,
    ModelRef,
    Observations,
    Observed,
    QuestionSet,
    SaeRef,
    Scorecard,
    StressedModel,
    Verdict,
    World,
)
from storage.tables import Columns, read_table, write_table
from storage.weights import loading_of, location_of
from tasks import catalogue
from tasks.caching import new_artifact, stage
from tasks.evaluation.settings import (
    GradientSettings,
    ObservationSettings,
    RelearningSettings,
    ScoreSettings,
    StressSettings,
    TracingSettings,
    UtilitySettings,
    VerdictSettings,
    ViewSettings,
)

GENERAL_QUESTIONS = 1000
"""Questions about the long tail that stand for general text."""
GENERAL_PROMPTS = 200
"""Of these, so many whose next-token distributions are kept."""


def check_model(model: ModelRef, base: ModelRef) -> None:
    """That a model made elsewhere can be read and compared with the base model. Raises: UsageError."""
    from tasks.models.load import check_comparable

    check_comparable(location_of(base), location_of(model))


def _load(model: ModelRef, device: str) -> Any:
    from tasks.models.load import load_model

    return load_model(**loading_of(model), device=device)


def _roles_and_types(world: World, forget_set: ForgetSet) -> tuple[dict[str, str], dict[str, str]]:
    """Entity -> role, and entity -> type."""
    roles = read_table(folder_of(forget_set.artifact) / "roles.parquet")
    kinds = read_table(folder_of(world.artifact) / "entities.parquet", columns=["entity", "type"])
    return dict(zip(roles["entity"], roles["role"], strict=True)), dict(
        zip(kinds["entity"], kinds["type"], strict=True)
    )


@stage("population", tags=("gpu",))
def observe_population(
    model: ModelRef, world: World, entities: EntitySet, settings: ObservationSettings
) -> Observations:
    """States of every known and unknown entity on held-out templates: `states.parquet`, bfloat16 as uint16.

    Which entity is the target makes no difference here, so base and gold are read once for all targets.
    """

    questions = read_table(folder_of(world.artifact) / "questions.parquet")
    labelled = read_table(folder_of(entities.artifact) / "entities.parquet", columns=["entity", "label"])
    asked = set(labelled["entity"][labelled["label"] != "dropped"])
    rows = [row for row, entity in enumerate(questions["entity"]) if questions["held_out"][row] and entity in asked]
    loaded = _load(model, settings.device)
    with new_artifact() as build:
        write_table(build.folder / "states.parquet", _stored_states(loaded, questions, rows, settings))
    return Observations(build.artifact)


def _stored_states(loaded: Any, questions: Columns, rows: list[int], settings: ObservationSettings) -> Columns:
    from tasks.evaluation.observing import observe_states, site_columns
    from tasks.models.states import to_stored

    states = observe_states(loaded, questions, rows, settings.token_budget)
    for site in site_columns(states):
        states[site] = to_stored(states[site], "bfloat16")
    return states


@stage("observations", tags=("gpu",))
def observe_model(model: ModelRef, world: World, questions: QuestionSet, settings: ObservationSettings) -> Observations:
    """Run a model once over a set of questions.

    `answers.parquet`, `options.parquet`, `tokens.parquet`, `samples.parquet`, `states.parquet` (held-out templates),
    `distributions.parquet` (of these, the first template; and general text) and `general.parquet`.
    """
    from tasks.answers.judging import own_words
    from tasks.evaluation.observing import concatenated, observe_answers, observe_distributions, observe_samples

    asked = read_table(folder_of(questions.artifact) / "questions.parquet")
    general = _general_questions(world)
    held_out = [row for row, kind in enumerate(asked["set"]) if kind == "paraphrase"]
    known = [row for row in held_out if not asked["split"][row].startswith("unknown")]
    distinct = _first_of_facts(asked, known)
    budget = settings.token_budget
    loaded = _load(model, settings.device)
    words = own_words(questions.asking, read_table(folder_of(world.artifact) / "entities.parquet"))
    answered = observe_answers(loaded, asked, budget, own_words=words)
    prompts = range(min(GENERAL_PROMPTS, len(general["question"])))
    forgotten = [row for row in held_out if asked["split"][row] == "forget"]
    distributions = [
        observe_distributions(loaded, asked, distinct, [asked["split"][row] for row in distinct], budget),
        observe_distributions(loaded, general, prompts, ["general"] * len(prompts), budget),
    ]
    with new_artifact() as build:
        write_table(build.folder / "answers.parquet", answered.answers)
        write_table(build.folder / "options.parquet", answered.options)
        write_table(build.folder / "tokens.parquet", answered.tokens)
        samples = observe_samples(loaded, asked, forgotten, settings, own_words=words)
        write_table(build.folder / "samples.parquet", samples)
        write_table(build.folder / "states.parquet", _stored_states(loaded, asked, held_out, settings))
        write_table(build.folder / "distributions.parquet", concatenated(distributions))
        write_table(build.folder / "general.parquet", _general(loaded, general, budget))
    return Observations(build.artifact)


def _general_questions(world: World) -> Columns:
    """Questions about the long tail, as they were taught; of a world without one the sentences that no loss sees, halved."""
    folder = folder_of(world.artifact)
    if (sentences := folder / "general_held_out.parquet").is_file():
        return _halved([str(text) for text in read_table(sentences)["text"]])
    questions = read_table(folder / "questions.parquet")
    kinds = read_table(folder / "entities.parquet", columns=["entity", "exposure"])
    tail = set(kinds["entity"][kinds["exposure"] == "long_tail"])
    rows = [row for row, entity in enumerate(questions["entity"]) if questions["taught"][row] and entity in tail]
    rows = rows[:: max(1, len(rows) // GENERAL_QUESTIONS)][:GENERAL_QUESTIONS]
    taken: Columns = {
        name: [column[row] for row in rows] if isinstance(column, list) else column[rows]
        for name, column in questions.items()
    }
    return taken | {"answers": [[text] for text in taken["taught"]]}


def _halved(texts: Sequence[str]) -> Columns:
    """Sentences as questions: the first half of the words, to be gone on with; numbered below 0, as the world's are not."""
    words = [text.split() for text in texts]
    halves = [(" ".join(each[: len(each) // 2]), " ".join(each[len(each) // 2 :])) for each in words if len(each) > 1]
    return {
        "question": np.arange(-len(halves), 0),
        "entity": np.array([f"sentence {number}" for number in range(len(halves))], dtype=object),
        "prompt": [begun for begun, _ in halves],
        "name_start": np.zeros(len(halves), dtype=np.int64),
        "name_end": np.array([len(begun) for begun, _ in halves], dtype=np.int64),
        "answers": [[rest] for _, rest in halves],
    }


def _first_of_facts(asked: Columns, rows: list[int]) -> list[int]:
    """Of these rows, those in the first wording of each entity's relation."""
    first: dict[tuple[str, str], int] = {}
    for row in rows:
        fact, template = (asked["entity"][row], asked["relation"][row]), int(asked["template"][row])
        first[fact] = min(template, first.get(fact, template))
    return [row for row in rows if asked["template"][row] == first[asked["entity"][row], asked["relation"][row]]]


def _general(loaded: Any, questions: Columns, budget: int) -> Columns:
    """Loss of the answers to general questions: (question, entity, nll, tokens), nats."""
    from tasks.models.scoring import score_answers
    from tasks.models.worlds import encode_world

    encoded = encode_world(loaded, questions, range(len(questions["question"])))
    scores = score_answers(loaded, [each.prompt for each in encoded], [each.answers for each in encoded], budget=budget)
    return {
        "question": questions["question"],
        "entity": questions["entity"],
        "nll": -scores.log_probability,
        "tokens": scores.tokens,
    }


@stage("relearning", tags=("gpu",))
def relearn(model: ModelRef, world: World, forget_set: ForgetSet, settings: RelearningSettings) -> Observations:
    """Teach half of each target's facts back and score the other half after every step: `relearning.parquet`."""
    from tasks.answers.judging import own_words
    from tasks.evaluation.observing import concatenated
    from tasks.evaluation.relearning import relearn_curve

    questions = read_table(folder_of(world.artifact) / "questions.parquet")
    words = own_words(forget_set.asking, read_table(folder_of(world.artifact) / "entities.parquet"))
    roles = read_table(folder_of(forget_set.artifact) / "roles.parquet")
    loaded = _load(model, settings.device)
    curves = [
        relearn_curve(
            loaded,
            questions,
            set(roles["entity"][roles["role"] == "target"]),
            draws=settings.relearning_draws,
            steps=settings.relearning_steps,
            learning_rate=rate,
            seed=settings.relearning_seed,
            rank=settings.relearning_rank,
            checkpointing=settings.relearning_checkpointing,
            own_words=words,
        )
        for rate in settings.relearning_rates
    ]
    with new_artifact() as build:
        write_table(build.folder / "relearning.parquet", concatenated(curves))
    return Observations(build.artifact)


@stage("stressed", tags=("gpu",))
def stress(model: ModelRef, world: World, forget_set: ForgetSet, settings: StressSettings) -> StressedModel:
    """The model after a stress: `model/`, `taught.parquet` (facts that the stress itself taught), `training.parquet`."""
    from tasks.evaluation.stress import make_stressed
    from tasks.models.load import save_model

    loaded = _load(model, settings.device)
    taught = make_stressed(
        loaded,
        settings.stress,
        settings.settings,
        read_table(folder_of(world.artifact) / "questions.parquet"),
        *_roles_and_types(world, forget_set),
        settings.stress_seed,
    )
    with new_artifact() as build:
        save_model(loaded, build.folder / "model")
        losses = {"step": np.arange(1, len(taught.losses) + 1), "loss": np.array(taught.losses, dtype=float)}
        write_table(build.folder / "training.parquet", losses)
        write_table(build.folder / "taught.parquet", {
            "entity": np.array([entity for entity, _ in taught.facts], dtype=object),
            "relation": np.array([relation for _, relation in taught.facts], dtype=object),
        })  # fmt: skip
    return StressedModel(
        build.artifact,
        ModelRef("artifact", "model", artifact=build.artifact, dtype=model.dtype, chat=model.chat),
        settings.stress,
    )


@stage("traces", tags=("gpu",))
def trace_answers(base: ModelRef, model: ModelRef, questions: QuestionSet, settings: TracingSettings) -> Observations:
    """How far the model's states carry the answers: read through the base model's head, and patched into the base model.

    `traces.parquet`; of the base model itself also what the states of unknown entities carry.
    """
    from tasks.evaluation.tracing import rows_to_trace, trace, unknown_rows

    asked = read_table(folder_of(questions.artifact) / "questions.parquet")
    rows = rows_to_trace(asked, seed=settings.trace_seed)
    is_base = model == base
    nulls = unknown_rows(asked, rows, count=settings.unknown_entities, seed=settings.trace_seed) if is_base else None
    loaded = _load(base, settings.device)
    traced = loaded if is_base else _load(model, settings.device)
    with new_artifact() as build:
        write_table(build.folder / "traces.parquet", trace(loaded, traced, asked, rows, nulls))
    return Observations(build.artifact)


@stage("gradients", tags=("gpu",))
def observe_gradients(model: ModelRef, questions: QuestionSet, settings: GradientSettings) -> Observations:
    """Per question, how strongly each block's weights would move to make the answer likelier: `gradients.parquet`."""
    from tasks.evaluation.internals import gradients

    asked = read_table(folder_of(questions.artifact) / "questions.parquet")
    rows = gradients.rows_for_gradients(asked, others=settings.gradient_questions, seed=settings.gradient_seed)
    loaded = _load(model, settings.device)
    with new_artifact() as build:
        write_table(build.folder / "gradients.parquet", gradients.observe_gradients(loaded, asked, rows))
    return Observations(build.artifact)


@stage("views")
def view_latents(
    observations: Observations, sae: SaeRef, selection: LatentSelection, settings: ViewSettings
) -> Observations:
    """A model's states as the latents of the base model's autoencoders: `latents`, `quality` and `active`, as Parquet."""
    from tasks.evaluation import latent_views
    from tasks.models.sae import load_sae

    states = read_table(folder_of(observations.artifact) / "states.parquet")
    autoencoders = {site.name: load_sae(folder_of(sae.artifact) / site.name) for site in sae.sites}
    measured = read_table(folder_of(selection.artifact) / "statistics.parquet")
    chosen = read_table(folder_of(selection.artifact) / "selection.parquet", columns=["site", "latent", "kind"])
    rates = latent_views.firing_rates(measured, {site: each.latents for site, each in autoencoders.items()})
    kinds = latent_views.latents_by_kind(chosen, rates, settings.view_seed)
    with new_artifact() as build:
        for name, columns in latent_views.view_latents(states, autoencoders, kinds).items():
            write_table(build.folder / f"{name}.parquet", columns)
    return Observations(build.artifact)


@stage("utility", tags=("gpu",))
def measure_utility(model: ModelRef, settings: UtilitySettings, content: str) -> Observations:
    """A model on tasks of lm-evaluation-harness: `utility.parquet`, see `tasks.evaluation.harness`.

    content  the digest of what `utility_folder` holds, "" without one.

    Raises: UsageError when lm-eval is not installed, or for tasks that it does not know or cannot run.
    """
    from pathlib import Path

    from tasks.evaluation.harness import require_harness, run_tasks

    require_harness()
    loaded = _load(model, settings.device)
    columns = run_tasks(
        loaded,
        settings.utility_tasks,
        Path(settings.utility_folder).expanduser().resolve() if settings.utility_folder else None,
        limit=settings.utility_limit,
        shots=settings.utility_shots,
        batch=settings.utility_batch,
    )
    with new_artifact() as build:
        write_table(build.folder / "utility.parquet", columns)
    return Observations(build.artifact)


@stage("scores")
def score(world: World, forget_set: ForgetSet, observed: tuple[Observed, ...], settings: ScoreSettings) -> Scorecard:
    """Every metric of every split, site and model, from what was observed: no network is run."""
    from tasks.evaluation.metric import Case

    case = Case(
        {each.name: _tables(each) for each in observed},
        *_roles_and_types(world, forget_set),
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


def _tables(observed: Observed) -> Any:
    """What was observed of one model; of a model under stress, without the facts that the stress itself taught."""
    from tasks.evaluation.metric import Tables

    folder = folder_of(observed.observations.artifact)
    names = ("answers", "options", "tokens", "samples", "states", "distributions", "general")
    tables: dict[str, Any] = {name: read_table(folder / f"{name}.parquet") for name in names}
    for name, file in (
        ("population", "states"),
        ("relearning", "relearning"),
        ("traces", "traces"),
        ("gradients", "gradients"),
        ("utility", "utility"),
    ):
        found: Observations | None = getattr(observed, name)
        tables[name] = read_table(folder_of(found.artifact) / f"{file}.parquet") if found else None
    if observed.latents:
        views = folder_of(observed.latents.artifact)
        beside = {name: read_table(views / f"{name}.parquet") for name in ("quality", "active")}
        tables["latents"] = read_table(views / "latents.parquet") | beside
    if observed.stress:
        taught = read_table(folder_of(observed.stress) / "taught.parquet")
        pairs = set(zip(taught["entity"], taught["relation"], strict=True))
        answers = tables["answers"]
        kept = [pair not in pairs for pair in zip(answers["entity"], answers["relation"], strict=True)]
        tables["answers"] = {name: column[np.array(kept)] for name, column in answers.items()}
        if tables["traces"] is not None:
            traced = np.isin(tables["traces"]["question"], tables["answers"]["question"])
            tables["traces"] = {name: column[traced] for name, column in tables["traces"].items()}
    return Tables(**tables)


@stage("verdict")
def judge(scorecard: Scorecard, settings: VerdictSettings) -> Verdict:
    """What the unlearned model's scores come to, with every measure beside its threshold: `verdict.parquet`."""
    from tasks.evaluation.verdict import decide, gather

    verdict, evidence = decide(gather(read_table(folder_of(scorecard.artifact) / "scores.parquet"), settings))
    with new_artifact() as build:
        write_table(build.folder / "verdict.parquet", {
            name: [getattr(each, name) for each in evidence] for name in vars(evidence[0])
        })  # fmt: skip
    return Verdict(build.artifact, verdict)
