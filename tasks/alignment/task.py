"""Door of the alignment stage: the model that has forgotten."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from storage.artifacts import folder_of
from storage.records import ForgetSet, LatentSelection, ModelRef, SaeRef, Site, UnlearnedModel, UsageError, World
from storage.tables import read_table, write_table
from storage.weights import loading_of
from tasks import catalogue
from tasks.alignment.settings import AlignmentSettings
from tasks.caching import count_from_here, new_artifact, stage

if TYPE_CHECKING:
    from tasks.alignment.material import Facts
    from tasks.alignment.method import Method
    from tasks.models.adapters import Keeping
    from tasks.models.load import LoadedModel
    from tasks.models.sae import Autoencoder

logger = logging.getLogger("sae_unlearn")


@stage("alignment", tags=("gpu",))
def align(
    model: ModelRef,
    world: World,
    forget_set: ForgetSet,
    sae: SaeRef,
    selection: LatentSelection,
    settings: AlignmentSettings,
) -> UnlearnedModel:
    """Make the model forget by the chosen method: `model/`, and `training.parquet`, the loss parts of every step.

    With `keep_adapter` also `adapter/`, as peft reads it.
    """
    from tasks.models.load import load_model, save_model
    from tasks.models.sae import load_sae

    method = catalogue.load("alignment/methods", settings.method)(**dict(settings.settings))
    student = load_model(**loading_of(model), device=settings.device)
    facts = _facts(world, forget_set, settings)
    autoencoders = {
        site: load_sae(folder_of(sae.artifact) / site.name, device=str(student.device)) for site in sae.sites
    }
    latents = _selected(selection, sae.sites)
    turns = _turns(forget_set, settings)
    count_from_here()
    with new_artifact() as build:
        keep = _keeping(model, build.folder / "adapter", method, turns, settings) if settings.keep_adapter else None
        history = _forget_in_turn(student, facts, method, turns, autoencoders, latents, settings, keep)
        rows = [(step, name, value) for step, parts in enumerate(history, 1) for name, value in parts.items()]
        table = {column: [row[place] for row in rows] for place, column in enumerate(("step", "name", "value"))}
        save_model(student, build.folder / "model")
        write_table(build.folder / "training.parquet", table)
    return UnlearnedModel(
        build.artifact,
        ModelRef("artifact", "model", artifact=build.artifact, dtype=model.dtype, chat=model.chat),
        settings.method,
    )


def _keeping(
    model: ModelRef, folder: Path, method: Method, turns: Sequence[Sequence[str]], settings: AlignmentSettings
) -> Keeping:
    """Where the adapter goes and whose it is. Raises: UsageError where there would be none, or several."""
    from tasks.alignment.method import Trained
    from tasks.models.adapters import Keeping

    if not isinstance(method, Trained):
        raise UsageError(
            f"[alignment] keep_adapter: method '{settings.method}' trains nothing, so there is no adapter; "
            "use keep_adapter = false, or a method that trains"
        )
    if len(turns) > 1:
        raise UsageError(
            f'[alignment] keep_adapter: order = "sequence" trains {len(turns)} adapters, each on the model that the last '
            'one made, and one is kept; use order = "together", or keep_adapter = false'
        )
    return Keeping(folder, model.location, model.revision) if model.source == "hub" else Keeping(folder)


def _forget_in_turn(
    student: LoadedModel,
    facts: Facts,
    method: Method,
    turns: Sequence[Sequence[str]],
    autoencoders: Mapping[Site, Autoencoder],
    latents: Mapping[Site, Mapping[str, list[int]]],
    settings: AlignmentSettings,
    keep: Keeping | None = None,
) -> list[dict[str, float]]:
    """Make the student forget, in place, each turn from where the last left it; the loss parts of every step.

    Raises: UsageError for a method that edits what the model computes at every pass, where more turns would follow: a
    model can have one such edit.
    """
    from tasks.alignment.material import gather_material
    from tasks.alignment.training import align_model
    from tasks.models.intervention import attach

    history: list[dict[str, float]] = []
    for turn, targets in enumerate(turns, 1):
        material = gather_material(student, facts, method, settings, targets)
        aligned = align_model(student, method, material, autoencoders, latents, settings, keep=keep)
        if aligned.intervention is not None:
            if turn < len(turns):
                raise UsageError(
                    f'[alignment] order = "sequence" forgets in {len(turns)} turns, and method '
                    f"'{settings.method}' edits every pass of the model, which can be done once; use order = "
                    '"together", or one target'
                )
            attach(student, aligned.intervention)
        if aligned.history and len(aligned.history) < settings.steps:
            logger.info("alignment     stopped after %d of %d steps", len(aligned.history), settings.steps)
        history += aligned.history
    return history


def _turns(forget_set: ForgetSet, settings: AlignmentSettings) -> list[tuple[str, ...]]:
    """The targets of each training run: all at once, or so many after so many."""
    roles = read_table(folder_of(forget_set.artifact) / "roles.parquet")
    targets = [entity for entity, role in zip(roles["entity"], roles["role"], strict=True) if role == "target"]
    window = settings.window if settings.order == "sequence" else len(targets)
    return [tuple(targets[start : start + window]) for start in range(0, len(targets), window)]


def _facts(world: World, forget_set: ForgetSet, settings: AlignmentSettings) -> Facts:
    from tasks.alignment.material import Facts
    from tasks.alignment.passages import with_passages
    from tasks.answers.judging import names_of, own_words

    source = folder_of(world.artifact)
    entities = read_table(source / "entities.parquet")
    roles = read_table(folder_of(forget_set.artifact) / "roles.parquet")
    questions = read_table(source / "questions.parquet")
    role_of = dict(zip(roles["entity"], roles["role"], strict=True))
    if settings.forget_by != "questions":
        passages: dict[str, list[str]] = {}
        if (source / "passages.parquet").exists():
            for entity, text in zip(*read_table(source / "passages.parquet").values(), strict=True):
                passages.setdefault(entity, []).append(text)
        questions = with_passages(questions, passages, names_of(entities), role_of, settings.forget_by)
    return Facts(
        questions,
        role_of,
        dict(zip(entities["entity"], entities["type"], strict=True)),
        list(read_table(source / "general.parquet")["text"]),
        own_words(forget_set.asking, entities),
    )


def _selected(selection: LatentSelection, sites: tuple[Site, ...]) -> dict[Site, dict[str, list[int]]]:
    """Site -> `known` / `unknown` -> the latents that stand for it."""
    chosen = read_table(folder_of(selection.artifact) / "selection.parquet", columns=["site", "kind", "latent"])
    return {
        site: {
            kind: [int(n) for s, k, n in zip(*chosen.values(), strict=True) if (s, k) == (site.name, kind)]
            for kind in ("known", "unknown")
        }
        for site in sites
    }
