"""Doors of the world and testbed stages: real facts, and two small models that learnt them."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from storage.artifacts import folder_of
from storage.records import ModelRef, Testbed, UsageError, World
from storage.tables import read_table, write_table
from tasks.caching import new_artifact, stage
from tasks.testbed.settings import PretrainingSettings, WorldSettings

logger = logging.getLogger("sae_unlearn")

FACTS = Path(__file__).with_name("facts.parquet")
FACTS_DIGEST = "09143db6a01afad0073db53726da15310784bf3a6cdaad0aecd7fe13bbb39c9b"
"""sha256 of `facts.parquet`; stands here so that other facts make another key."""


@stage("world")
def make_world(settings: WorldSettings) -> World:
    """Draw a world from the facts that come with the project: entities, questions about them, neutral text."""
    from tasks.testbed.world import build_world

    if hashlib.sha256(FACTS.read_bytes()).hexdigest() != FACTS_DIGEST:
        raise UsageError(
            f"{FACTS} is not the file this version was made with; restore it, or set FACTS_DIGEST in {__name__}"
        )
    entities, questions, general = build_world(read_table(FACTS), settings.size, settings.tail, settings.seed)
    with new_artifact() as build:
        write_table(build.folder / "entities.parquet", entities)
        write_table(build.folder / "questions.parquet", questions)
        write_table(build.folder / "general.parquet", general)
    return World(
        build.artifact,
        source=f"testbed {settings.size}, tail {settings.tail}, seed {settings.seed}",
        entities=len(entities["entity"]),
        questions=len(questions["question"]),
    )


@stage("testbed")
def pretrain(world: World, settings: PretrainingSettings) -> Testbed:
    """Train the base model on the world, and its gold twin on the same without the candidates; measure recall."""
    from tasks.testbed.recall import mean_recall, recall_table
    from tasks.testbed.recipe import recipe_for
    from tasks.testbed.twins import train_twins

    recipe = recipe_for(settings)
    source = folder_of(world.artifact)
    entities = read_table(source / "entities.parquet")
    questions = read_table(source / "questions.parquet")
    texts = list(read_table(source / "general.parquet")["text"])
    with new_artifact() as build:
        twins = train_twins(entities, questions, texts, recipe, build.folder)
        recall = recall_table(entities, questions, twins.question, twins.hit)
        write_table(
            build.folder / "pretraining.parquet",
            {
                "model": [name for name, losses in twins.losses.items() for _ in losses],
                "step": [step for losses in twins.losses.values() for step in range(1, len(losses) + 1)],
                "loss": [float(loss) for losses in twins.losses.values() for loss in losses],
            },
        )
        write_table(build.folder / "recall.parquet", recall)
    known, never_seen = mean_recall(recall, "base", "known"), mean_recall(recall, "base", "never_seen")
    targets = mean_recall(recall, "gold", "candidate")
    logger.info(
        "%-13s recall %.3f of known, %.3f of never seen; the gold twin's of the candidates %.3f",
        "testbed", known, never_seen, targets,
    )  # fmt: skip
    return Testbed(
        build.artifact,
        base=ModelRef("artifact", "base", artifact=build.artifact),
        gold=ModelRef("artifact", "gold", artifact=build.artifact),
        known_recall=known,
        never_seen_recall=never_seen,
        gold_target_recall=targets,
    )
