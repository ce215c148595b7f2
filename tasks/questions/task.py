"""Door of the questions stage: all that is asked about a forget set, written down once for every model."""

from __future__ import annotations

import logging

from storage.artifacts import folder_of
from storage.records import EntitySet, ForgetSet, QuestionSet, World
from storage.tables import read_table, write_table
from tasks.caching import new_artifact, stage
from tasks.questions.settings import SETS, QuestionSettings

logger = logging.getLogger("sae_unlearn")


@stage("questions")
def make_question_set(
    world: World, entities: EntitySet, forget_set: ForgetSet, settings: QuestionSettings
) -> QuestionSet:
    """Ask about the targets straight, sideways and under attack, and about their neighbours and others beside.

    `questions.parquet`: question, set, variant, split, target, entity, relation, template, prompt, name_start,
    name_end, answers, wrong. A set that this world's facts do not allow is left out.
    """
    from tasks.questions.table import build_questions

    source = folder_of(world.artifact)
    columns = build_questions(
        read_table(source / "entities.parquet"),
        read_table(source / "questions.parquet"),
        read_table(folder_of(entities.artifact) / "entities.parquet", columns=["entity", "label"]),
        read_table(folder_of(forget_set.artifact) / "roles.parquet"),
        settings,
    )
    kinds = list(columns["set"])
    for name in SETS:
        if name in kinds:
            logger.info("%-16s %6d questions", name, kinds.count(name))
    with new_artifact() as build:
        write_table(build.folder / "questions.parquet", columns)
    return QuestionSet(build.artifact, len(kinds), forget_set.asking)
