"""Doors of the report (the page a person reads), of the release (the model with its card) and of tracking (the run in MLflow)."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from storage.artifacts import folder_of, read_manifest, share_folder
from storage.records import (
    Artifact,
    EntitySet,
    ForgetSet,
    LatentSelection,
    LatentStats,
    ModelRef,
    Observations,
    Observed,
    ReleasedModel,
    ReloadedModel,
    Report,
    SaeRef,
    Scorecard,
    TrackedRun,
    UnlearnedModel,
    Verdict,
    World,
    artifacts_in,
)
from storage.tables import read_table
from tasks.caching import new_artifact, stage
from tasks.report.settings import CardSettings, ReportSettings


@stage("report")
def write_report(
    world: World,
    entities: EntitySet,
    forget_set: ForgetSet,
    sae: SaeRef,
    selection: LatentSelection,
    statistics: LatentStats,
    unlearned: UnlearnedModel,
    observed: tuple[Observed, ...],
    scorecard: Scorecard,
    verdict: Verdict,
    settings: ReportSettings,
) -> Report:
    """`report.html`, one file without a network, and its figures as `figures/<name>.png`."""
    from tasks.report.latent_map import Entities
    from tasks.report.page import Material, Provenance, make_page

    folder = folder_of(world.artifact)
    named = read_table(folder / "entities.parquet", columns=["entity", "name", "type"])
    roles = read_table(folder_of(forget_set.artifact) / "roles.parquet")
    whole = {each.name: each for each in observed if each.population}
    dense, active = _encoders(sae)
    artifacts = [
        *(
            world.artifact,
            entities.artifact,
            forget_set.artifact,
            sae.artifact,
            statistics.artifact,
            selection.artifact,
        ),
        unlearned.artifact,
        *artifacts_in(observed),
        scorecard.artifact,
        verdict.artifact,
    ]
    made_by, made_with, versions = _provenance(artifacts)
    model = unlearned.model
    material = Material(
        method=unlearned.method,
        targets=forget_set.targets,
        who=Entities(
            names=dict(zip(named["entity"], named["name"], strict=True)),
            types=dict(zip(named["entity"], named["type"], strict=True)),
            roles=dict(zip(roles["entity"], roles["role"], strict=True)),
        ),
        questions=read_table(folder / "questions.parquet"),
        scores=read_table(folder_of(scorecard.artifact) / "scores.parquet"),
        training=read_table(folder_of(unlearned.artifact) / "training.parquet"),
        selection=read_table(folder_of(selection.artifact) / "selection.parquet", columns=["site", "latent", "kind"]),
        verdict=verdict.verdict,
        evidence=read_table(folder_of(verdict.artifact) / "verdict.parquet"),
        answers={name: _answers(each.observations) for name, each in whole.items()},
        states={
            name: _states(each.population, [site.name for site in sae.sites])
            for name, each in whole.items()
            if each.population
        },
        relearning={
            name: read_table(folder_of(each.relearning.artifact) / "relearning.parquet")
            for name, each in whole.items()
            if each.relearning
        },
        dense=dense,
        active=active,
        provenance=Provenance(
            stages=made_by,
            settings=made_with,
            versions=versions,
            model=f"artifacts/{model.artifact.stage}/{model.artifact.key}/{model.location}"
            if model.artifact
            else model.location,
        ),
        facts=_facts(folder),
    )
    page, figures = make_page(material, settings.examples, settings.latents)
    with new_artifact() as build:
        (build.folder / "report.html").write_text(page, encoding="utf-8")
        (build.folder / "figures").mkdir()
        for name, image in figures.items():
            (build.folder / "figures" / f"{name}.png").write_bytes(image)
    return Report(build.artifact)


def _facts(world: Path) -> str:
    """Where the facts of a world are from, in a sentence; "" for the testbed's, which has nothing to say of it."""
    told = world / "source.json"
    if not told.is_file():
        return ""
    origin = json.loads(told.read_text())
    if origin["source"] == "statements":
        return (
            "No facts were given: the target and all others are asked about what the model itself stated confidently "
            "before, which nobody checked."
        )
    place = " ".join(filter(None, (origin["repository"], origin["revision"][:12])))
    return f"Facts: {origin['source']}{f', {place}' if place else ''}; licence: {origin['licence']}."


@stage("release")
def release(
    base: ModelRef,
    world: World,
    forget_set: ForgetSet,
    unlearned: UnlearnedModel,
    scorecard: Scorecard,
    verdict: Verdict,
    reloaded: ReloadedModel,
    parameters: tuple[tuple[str, str], ...],
    version: str,
    settings: CardSettings,
) -> ReleasedModel:
    """`model/`, the saved model with its card (README.md) and, where one was kept, the adapter; `published.md`, the card
    for a hub.

    parameters  the settings of `[alignment]`, as text; version, that of the tool.
    """
    from storage.weights import location_of
    from tasks.report.card import CardContent, make_card

    made = folder_of(unlearned.artifact)
    source, _ = location_of(unlearned.model)
    adapter = made / "adapter"
    content = CardContent(
        base=_described(base),
        method=unlearned.method,
        targets=forget_set.targets,
        world=world.source,
        settings=parameters,
        verdict=verdict.verdict,
        evidence=read_table(folder_of(verdict.artifact) / "verdict.parquet"),
        scores=read_table(folder_of(scorecard.artifact) / "scores.parquet"),
        reread=f"Read again in a fresh process ({reloaded.reader}), it scored {reloaded.questions} questions as in the run: "
        f"log-probabilities at most {reloaded.apart:.1g} nats a token apart.",
        edited=reloaded.reader != "plain transformers",
        adapter=adapter.is_dir(),
        weights=unlearned.artifact.content,
        version=version,
    )
    with new_artifact() as build:
        share_folder(Path(source), build.folder / "model")
        if adapter.is_dir():
            share_folder(adapter, build.folder / "model" / "adapter")
        (build.folder / "model" / "README.md").write_text(make_card(content, named=True), encoding="utf-8")
        (build.folder / "published.md").write_text(make_card(content, named=settings.name_targets), encoding="utf-8")
    return ReleasedModel(build.artifact, dataclasses.replace(unlearned.model, artifact=build.artifact))


def _described(base: ModelRef) -> Any:
    """The base model as a card names it, with the licence that its own card states."""
    from storage.weights import location_of
    from tasks.models.hub import licence_of
    from tasks.models.load import model_folder
    from tasks.report.card import Base

    licence, named = licence_of(model_folder(*location_of(base)))
    if base.source == "hub":
        return Base(base.location, base.revision, on_hub=True, licence=licence, licence_name=named)
    return Base(_base_name(base), licence=licence, licence_name=named)


@stage("tracking")
def track(
    address: str,
    store: str,
    name: str,
    world: World,
    model: ModelRef,
    forget_set: ForgetSet,
    unlearned: UnlearnedModel,
    released: ReleasedModel,
    scorecard: Scorecard,
    verdict: Verdict,
    report: Report,
    parameters: tuple[tuple[str, str], ...],
) -> TrackedRun:
    """The run in MLflow, and its model in the registry there; `run.json` says where.

    address, store  `storage.tracking_store.public_address()` and `store_identity()`: in another store, or in one that was
                    deleted since, the run is written anew; in the same store it is found by the key of its model.
    name            of the experiment file.
    parameters      every setting of the experiment, as text.
    """
    import json

    from storage.tracking import Dataset, Metric, RunContent, write_run
    from storage.tracking_names import experiment_name, latest_of, metric_name, safe_name
    from storage.weights import location_of
    from tasks.report.tracked import description, score_metrics, training_curves

    scores = read_table(folder_of(scorecard.artifact) / "scores.parquet")
    values, states = score_metrics(scores)
    evidence = read_table(folder_of(verdict.artifact) / "verdict.parquet")
    sentence, told = description(scores, forget_set.targets, verdict.verdict, evidence)
    training = read_table(folder_of(unlearned.artifact) / "training.parquet")
    settings = dict(parameters)
    whose, targets = _base_name(model), ", ".join(forget_set.targets)
    worldly = f"{world.source} {world.artifact.content[:8]}"
    page = folder_of(report.artifact)
    folder, _ = location_of(released.model)
    content = RunContent(
        experiment=experiment_name(worldly, whose),
        name=f"{unlearned.method} · {targets}"[:200],
        summary=f"{unlearned.method} on {targets[:400]}: {verdict.verdict}. {sentence}",
        description=told,
        key=unlearned.artifact.key,
        content=unlearned.artifact.content,
        tags={
            "method": unlearned.method,
            "targets": targets[:4000],
            "seed": settings.get("alignment.seed", ""),
            "experiment": name,
            "verdict": verdict.verdict,
            "scores": scorecard.artifact.key,
            "report": report.artifact.key,
            **_flow_run(),
            **{f"state/{metric_name(score)}": state for score, state in states.items()},
        },
        parameters=settings,
        scores=[Metric(metric_name(*names), value) for names, value in values.items()],
        curves=[Metric(metric_name("train", part), value, step) for part, step, value in training_curves(training)],
        datasets=[
            Dataset(worldly, world.artifact.content[:12], folder_of(world.artifact) / "questions.parquet", "retain"),
            Dataset(
                targets[:400],
                forget_set.artifact.content[:12],
                folder_of(forget_set.artifact) / "roles.parquet",
                "forget",
            ),
        ],
        files=[
            (page / "report.html", ""),
            (page / "figures", "figures"),
            (folder_of(scorecard.artifact) / "scores.parquet", ""),
            (folder_of(verdict.artifact) / "verdict.parquet", ""),
        ],
        model=Path(folder),
        registered_model=safe_name("unlearned", worldly, whose, forget_set.artifact.content[:8]),
        method=unlearned.method,
        verdict=verdict.verdict,
    )
    written = write_run(content)
    document = {
        "address": address if address.startswith("http") else "the local store",
        "experiment": written.experiment,
        "run": written.run_id,
        "model": written.version,
        "alias": f"models:/{content.registered_model}@{latest_of(content.method)}",
    }
    with new_artifact() as build:
        (build.folder / "run.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return TrackedRun(build.artifact, written.run_id, written.experiment, written.version)


def _base_name(model: ModelRef) -> str:
    """What the base model is called: its folder in an artifact, its hub id, or the last part of its folder; and which of its kind."""
    if model.artifact is not None:
        return f"{model.location} {model.artifact.content[:8]}"
    return f"{model.location.rstrip('/').rpartition('/')[2] if model.source == 'folder' else model.location} {model.revision[:8]}".strip()


def _flow_run() -> dict[str, str]:
    """The tag that leads to the run in Prefect; none outside of one."""
    from prefect.runtime import flow_run

    return {"prefect.flow_run_id": str(flow_run.id)} if flow_run.id else {}


def _answers(observations: Observations) -> dict[str, Any]:
    """What was answered to held-out templates."""
    table = read_table(folder_of(observations.artifact) / "answers.parquet")
    kept = table["set"] == "paraphrase"
    return {name: column[kept] for name, column in table.items()}


def _states(population: Observations, sites: list[str]) -> dict[str, Any]:
    """float32 states at the last prompt token of held-out questions."""
    from tasks.models.states import from_stored

    table = read_table(folder_of(population.artifact) / "states.parquet", columns=["position", "entity", *sites])
    kept = table["position"] == "prompt_last"
    return {"entity": table["entity"][kept]} | {site: from_stored(table[site][kept]).numpy() for site in sites}


def _encoders(sae: SaeRef) -> tuple[dict[str, Any], dict[str, Any]]:
    """By site, the latents before the gate (the space the map is drawn in) and the latents as they fire."""
    import torch

    from storage.records import UsageError
    from tasks.models.sae import load_sae

    dense, active = {}, {}
    for site in sae.sites:
        autoencoder = load_sae(folder_of(sae.artifact) / site.name)

        def fires(states: Any, autoencoder: Any = autoencoder) -> Any:
            with torch.no_grad():
                return autoencoder.encode(torch.from_numpy(states)).numpy()

        def before_gate(states: Any, autoencoder: Any = autoencoder, fires: Any = fires) -> Any:
            try:
                with torch.no_grad():
                    return autoencoder.pre_activations(torch.from_numpy(states)).relu().numpy()
            except UsageError:
                return fires(states)

        dense[site.name], active[site.name] = before_gate, fires
    return dense, active


_Pairs = tuple[tuple[str, str], ...]


def _provenance(artifacts: list[Artifact]) -> tuple[tuple[tuple[str, str, str], ...], _Pairs, _Pairs]:
    """Stages with key and content, the settings in their keys, and library versions; no times and no paths."""
    stages: list[tuple[str, str, str]] = []
    settings: dict[str, dict[str, None]] = {}
    versions: dict[str, set[str]] = {}
    for artifact in artifacts:
        manifest = read_manifest(folder_of(artifact))
        stages.append((artifact.stage, artifact.key, artifact.content))
        for given in manifest["explanation"].get("inputs", {}).values():
            if isinstance(given, dict) and str(given.get("class", "")).endswith("Settings"):
                for name, value in given.items():
                    if name != "class":
                        settings.setdefault(f"{artifact.stage}.{name}", {})[str(value)] = None
        for name, value in manifest["versions"].items():
            versions.setdefault(name, set()).add(value)
    joined = {name: " and ".join(sorted(values)) for name, values in versions.items()}
    told = {name: " and ".join(values) for name, values in settings.items()}
    return tuple(dict.fromkeys(stages)), tuple(sorted(told.items())), tuple(sorted(joined.items()))
