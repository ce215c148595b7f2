"""Door of the alignment stage: the model that has forgotten."""

from __future__ import annotations

from storage.artifacts import folder_of
from storage.records import ForgetSet, LatentSelection, ModelRef, SaeRef, UnlearnedModel, World
from storage.tables import read_table, write_table
from storage.weights import location_of
from tasks import catalogue
from tasks.alignment.settings import AlignmentSettings
from tasks.caching import new_artifact, stage


@stage("alignment", tags=("gpu",))
def align(
    model: ModelRef,
    world: World,
    forget_set: ForgetSet,
    sae: SaeRef,
    selection: LatentSelection,
    settings: AlignmentSettings,
) -> UnlearnedModel:
    """Train the model by the chosen method; `training.parquet` holds the loss parts of every step."""
    from tasks.alignment.material import gather_material
    from tasks.alignment.training import align_model
    from tasks.models.load import load_model
    from tasks.models.sae import load_sae

    method = catalogue.load("alignment/methods", settings.method)(**dict(settings.settings))
    source = folder_of(world.artifact)
    entities = read_table(source / "entities.parquet", columns=["entity", "type"])
    roles = read_table(folder_of(forget_set.artifact) / "roles.parquet")
    location, revision = location_of(model)
    student = load_model(location, revision=revision, device=settings.device)
    material = gather_material(
        student,
        read_table(source / "questions.parquet"),
        dict(zip(roles["entity"], roles["role"], strict=True)),
        dict(zip(entities["entity"], entities["type"], strict=True)),
        method.references,
        settings,
    )
    folder = folder_of(sae.artifact)
    chosen = read_table(folder_of(selection.artifact) / "selection.parquet", columns=["site", "kind", "latent"])
    latents = {
        site: {
            kind: [int(n) for s, k, n in zip(*chosen.values(), strict=True) if (s, k) == (site.name, kind)]
            for kind in ("known", "unknown")
        }
        for site in sae.sites
    }
    history = align_model(
        student,
        method,
        material,
        {site: load_sae(folder / site.name, device=str(student.device)) for site in sae.sites},
        latents,
        learning_rate=settings.learning_rate or method.learning_rate,
        seed=settings.seed,
    )
    with new_artifact() as build:
        student.model.save_pretrained(build.folder / "model")
        student.tokenizer.save_pretrained(build.folder / "model")
        names = list(history[0])
        write_table(
            build.folder / "training.parquet",
            {
                "step": [step + 1 for step in range(len(history)) for _ in names],
                "name": names * len(history),
                "value": [parts[name] for parts in history for name in names],
            },
        )
    return UnlearnedModel(build.artifact, ModelRef("artifact", "model", artifact=build.artifact), settings.method)
