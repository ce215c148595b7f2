"""Door of the activations stage: what the model thinks from the entity's first token to the last prompt token."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from storage.artifacts import folder_of
from storage.records import ActivationRef, Answers, ModelRef, Site, World
from storage.tables import read_table, row_count, write_whole_table
from storage.weights import loading_of
from tasks.activations.settings import ActivationSettings
from tasks.caching import new_artifact, stage

logger = logging.getLogger("sae_unlearn")


@stage("activations", tags=("gpu",))
def extract_activations(model: ModelRef, world: World, answers: Answers, settings: ActivationSettings) -> ActivationRef:
    """Read the residual stream of all entities that the model was asked about, and of neutral text, into shards.

    A shard holds `question` (row number of the world's table, -1 for neutral text), `after_name` (0 at the name's
    last token), `before_end` (0 at the last prompt token) and one column a site. The files `part-*` hold neutral text
    and the entities that are clearly known or unknown; `rest-*` those in between, of whom another labelling may make
    use. Cut off, only the shards that are missing are made.
    """
    from tasks.activations.extraction import general_passages, passages_of, rows_to_read, shards
    from tasks.activations.workers import Work, make_shards
    from tasks.models.load import load_model
    from tasks.models.prompts import encode_texts
    from tasks.models.worlds import encode_world

    asked = read_table(folder_of(answers.artifact) / "entities.parquet")
    source = folder_of(world.artifact)
    questions = read_table(source / "questions.parquet")
    sites = tuple(Site(layer) for layer in sorted(set(settings.layers)))
    loading = loading_of(model) | {"device": settings.device, "blocks": sites[-1].layer + 1}
    loaded = load_model(**loading)
    passages = {}
    for name, entities in (("part", asked["entity"][asked["clear"]]), ("rest", asked["entity"][~asked["clear"]])):
        rows = rows_to_read(questions, set(entities))
        passages[name] = passages_of(encode_world(loaded, questions, rows), rows)
    texts = [str(text) for text in read_table(source / "general.parquet")["text"]]
    passages["part"] += general_passages(encode_texts(loaded.tokenizer, loaded.family, texts))
    with new_artifact(resumable=True) as build:
        planned = {
            build.folder / f"{name}-{number:05d}.parquet": shard
            for name, those in passages.items()
            for number, shard in enumerate(shards(those, settings.shard_sequences))
        }
        missing = {path: shard for path, shard in planned.items() if not path.exists()}
        work = Work(loading, sites, settings.dtype, settings.token_budget, write_whole_table)
        progress = _progress(list(planned), len(missing))
        progress()
        make_shards(loaded, work, missing, settings.workers, progress)
        total = sum(row_count(path) for path in planned)
    return ActivationRef(build.artifact, sites, total, loaded.width)


def _progress(paths: list[Path], missing: int) -> Callable[[], None]:
    """Says how many shards there are, when there are more, and how long the others may take."""
    shown, began = -1, time.monotonic()

    def say() -> None:
        nonlocal shown
        there = sum(path.exists() for path in paths)
        if there == shown:
            return
        shown, made = there, there - (len(paths) - missing)
        left = f", {(time.monotonic() - began) / made * (len(paths) - there):.0f} s left" if made else ""
        logger.info("activations   %d of %d shards%s", there, len(paths), left)

    return say
