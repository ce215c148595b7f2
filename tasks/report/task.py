"""Doors of the report stage (the page a person reads) and of the tracking stage (the run in MLflow)."""

from __future__ import annotations

from typing import Any

from storage.artifacts import folder_of, read_manifest
from storage.records import (
    Artifact,
    EntitySet,
    ForgetSet,
    LatentSelection,
    LatentStats,
    Observations,
    Report,
    SaeRef,
    Scorecard,
    UnlearnedModel,
    World,
)
from storage.tables import read_table
from tasks.caching import new_artifact, stage
from tasks.report.settings import ReportSettings


@stage("report")
def write_report(
    world: World,
    entities: EntitySet,
    forget_set: ForgetSet,
    sae: SaeRef,
    selection: LatentSelection,
    statistics: LatentStats,
    unlearned: UnlearnedModel,
    before: Observations,
    after: Observations,
    gold: Observations | None,
    relearned_before: Observations,
    relearned_after: Observations,
    relearned_gold: Observations | None,
    scorecard: Scorecard,
    settings: ReportSettings,
) -> Report:
    """`report.html`, one file without a network, and its figures as `figures/<name>.png`."""
    from tasks.report.latent_map import Entities
    from tasks.report.page import Material, Provenance, make_page

    folder = folder_of(world.artifact)
    named = read_table(folder / "entities.parquet", columns=["entity", "name", "type"])
    roles = read_table(folder_of(forget_set.artifact) / "roles.parquet")
    observed = {"base": before, "unlearned": after} | ({"gold": gold} if gold else {})
    relearned = {"base": relearned_before, "unlearned": relearned_after} | (
        {"gold": relearned_gold} if relearned_gold else {}
    )
    dense, active = _encoders(sae)
    stages = [
        world,
        entities,
        forget_set,
        sae,
        selection,
        statistics,
        unlearned,
        *observed.values(),
        *relearned.values(),
        scorecard,
    ]
    made_by, made_with, versions = _provenance([record.artifact for record in stages])
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
        answers={model: read_table(folder_of(each.artifact) / "answers.parquet") for model, each in observed.items()},
        states={model: _states(each, world, [site.name for site in sae.sites]) for model, each in observed.items()},
        relearning={
            model: read_table(folder_of(each.artifact) / "relearning.parquet") for model, each in relearned.items()
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
    )
    page, figures = make_page(material, settings.examples, settings.latents)
    with new_artifact() as build:
        (build.folder / "report.html").write_text(page, encoding="utf-8")
        (build.folder / "figures").mkdir()
        for name, image in figures.items():
            (build.folder / "figures" / f"{name}.png").write_bytes(image)
    return Report(build.artifact)


def _states(observations: Observations, world: World, sites: list[str]) -> dict[str, Any]:
    """float32 states at the last prompt token of held-out questions."""
    from tasks.models.states import from_stored

    table = read_table(
        folder_of(observations.artifact) / "states.parquet", columns=["question", "position", "entity", *sites]
    )
    asked = read_table(folder_of(world.artifact) / "questions.parquet", columns=["question", "held_out"])
    held_out = {int(question) for question, held in zip(asked["question"], asked["held_out"], strict=True) if held}
    kept = [
        row
        for row, (question, position) in enumerate(zip(table["question"], table["position"], strict=True))
        if position == "prompt_last" and int(question) in held_out
    ]

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
    stages, settings, versions = [], {}, {}
    for artifact in artifacts:
        manifest = read_manifest(folder_of(artifact))
        stages.append((artifact.stage, artifact.key, artifact.content))
        for given in manifest["explanation"].get("inputs", {}).values():
            if isinstance(given, dict) and str(given.get("class", "")).endswith("Settings"):
                settings |= {f"{artifact.stage}.{name}": str(value) for name, value in given.items() if name != "class"}
        for name, value in manifest["versions"].items():
            versions.setdefault(name, set()).add(value)
    joined = {name: " and ".join(sorted(values)) for name, values in versions.items()}
    return tuple(dict.fromkeys(stages)), tuple(sorted(settings.items())), tuple(sorted(joined.items()))
