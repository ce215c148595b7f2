"""`forget NAME --model MODEL`: the experiment that a name alone stands for."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence

logger = logging.getLogger("sae_unlearn")


def changes_for(name: str, model: str, kind: str, experiment: str, changes: Sequence[str]) -> tuple[str, ...]:
    """The experiment's changes that make it forget this name: its facts from the built-in table where it is there, else the
    model's own confident statements; layers in the middle of the model unless some are given; then the user's.

    kind: what the name is, for the statements.

    Raises: UsageError for a model that cannot be read, or an experiment that cannot be.
    """
    from flows.config import load_experiment
    from flows.models import model_at
    from storage.settings import configure_environment
    from storage.weights import location_of
    from tasks.sources.task import in_built_in_facts

    named = [f"model.name={json.dumps(model)}", f"entities.targets={json.dumps([name])}"]
    own_source = any(change.partition("=")[0].strip() == "data.source" for change in changes)
    if own_source or load_experiment(experiment, named).data.source:
        return (*named, *changes)
    built_in = in_built_in_facts(name)
    source = [f"data.source={'wikidata' if built_in else 'statements'}", f"data.include={json.dumps([name])}"]
    if built_in:
        logger.info("'%s' is among the built-in facts: those are asked about", name)
    else:
        source.append(f"data.type={kind}")
        logger.info("'%s' is not among the built-in facts: the model's own confident statements are taken", name)
    given = load_experiment(experiment, [*named, *source, *changes])
    if given.activations.layers == load_experiment().activations.layers:
        configure_environment()
        from tasks.models.load import depth_of

        source.append(f"activations.layers={list(middle_layers(depth_of(*location_of(model_at(model)))))}")
    return (*named, *source, *changes)


def middle_layers(depth: int) -> tuple[int, ...]:
    """Two blocks below the middle of a model of so many, where entities are recognised: 1 and 2 of four, 9 and 13 of 26."""
    return tuple(sorted({3 * depth // 8, depth // 2}))
