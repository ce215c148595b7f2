"""Which model is meant: a folder or a hub id, found and named so that its content decides."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from pathlib import Path

from flows.experiment import Experiment
from storage.artifacts import file_digest
from storage.records import ModelRef, UsageError
from tasks.autoencoder.task import pinned
from tasks.models.published_saes.sources import parse_source
from tasks.sources.task import pinned as pinned_facts

HUB_ID = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")


def model_at(location: str) -> ModelRef:
    """A folder, or OWNER/NAME[@REVISION] on a hub, as a model. Raises: UsageError where there is none."""
    hub_id = _hub_id(location)
    if hub_id is None:
        return model_in_folder(location)
    from tasks.models.hub import commit_of

    return ModelRef("hub", hub_id["name"], commit_of(hub_id["name"], hub_id["revision"] or ""))


def pinned_experiment(experiment: Experiment) -> Experiment:
    """The experiment with the commit in the place of each branch and tag of a hub that it names, as they stand for now.

    Raises: UsageError for what can be had neither from the hub nor from its cache.
    """
    name, sources, data = experiment.model.name, experiment.autoencoder.sources, experiment.data
    if _hub_id(name) is not None:
        name = address_of(model_at(name))
    sources = tuple(each if parse_source(each).on_disk else pinned((each,))[0].written for each in sources)
    return dataclasses.replace(
        experiment,
        data=pinned_facts(data)[0] if data.source else data,
        model=dataclasses.replace(experiment.model, name=name),
        autoencoder=dataclasses.replace(experiment.autoencoder, sources=sources),
    )


def placed(model: ModelRef, experiment: Experiment) -> ModelRef:
    """The model as this run wants its weights placed: the record of a stage that was cached says what another run wanted.

    In a plan, what is pending stays as it is.
    """
    return dataclasses.replace(model, placement=experiment.model.placement) if isinstance(model, ModelRef) else model


def address_of(model: ModelRef) -> str:
    """What `model_at` finds the very same model by: its folder, or its hub id with the commit."""
    return f"{model.location}@{model.revision}" if model.source == "hub" else model.location


def model_in_folder(location: str) -> ModelRef:
    """A local folder as a model, named by the digest of its files. Raises: UsageError when it holds no model."""
    folder = Path(location).expanduser().resolve()
    if not (folder / "config.json").is_file():
        raise UsageError(
            f"{location} holds no model: expected a folder with config.json, weights and tokenizer, as transformers saves it"
        )
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(folder).as_posix()} {file_digest(path)}\n".encode())
    return ModelRef(source="folder", location=str(folder), revision=digest.hexdigest()[:32])


def _hub_id(location: str) -> re.Match[str] | None:
    """The parts of a hub id, unless a folder is called so."""
    return None if Path(location).expanduser().exists() else HUB_ID.fullmatch(location)
