"""Where a model's weights are: the folder or hub id behind a ModelRef."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from storage.artifacts import folder_of
from storage.records import ModelRef, UsageError


def location_of(model: ModelRef) -> tuple[str | Path, str]:
    """(location, revision) for `tasks.models.load.load_model`."""
    if model.source == "artifact":
        if model.artifact is None:
            raise UsageError("a model of source 'artifact' names no artifact; make the record from a stage's result")
        return folder_of(model.artifact) / model.location, ""
    if model.source == "folder":
        return Path(model.location), ""
    return model.location, model.revision


def loading_of(model: ModelRef) -> dict[str, Any]:
    """What `tasks.models.load.load_model` is told of a model, by the names of its arguments."""
    location, revision = location_of(model)
    return {
        "location": location,
        "revision": revision,
        "dtype": model.dtype,
        "chat": model.chat,
        "placement": model.placement,
    }
