"""The door of training: one that explains too little is told of, and kept."""

import logging

import numpy as np
import pytest
import torch

from storage.artifacts import building
from storage.records import ActivationRef, Site
from storage.tables import write_table
from tasks.autoencoder.settings import AutoencoderSettings
from tasks.autoencoder.task import train_autoencoders
from tasks.models.states import to_stored


@pytest.mark.parametrize(("explained", "warned"), [(1.0, 1), (0.0, 0)])
def test_what_explains_too_little_is_told_of(
    own_home: object, caplog: pytest.LogCaptureFixture, explained: float, warned: int
) -> None:
    states = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    with building("activations", "made", {}) as build:
        columns = {"question": np.arange(200), "residual_1": to_stored(states, "float32")}
        write_table(build.folder / "part-00000.parquet", columns)
    settings = AutoencoderSettings(latents=16, active=8, steps=300, batch_size=64, explained=explained)
    activations = ActivationRef(build.artifact, (Site(1),), "float32", 200)
    with caplog.at_level(logging.WARNING, logger="sae_unlearn"):
        train_autoencoders.directly("made", {}, activations, settings)
    said = [line for line in caplog.messages if "residual_1 explains less than autoencoder.explained = 1" in line]
    assert len(said) == warned == len(caplog.messages)
