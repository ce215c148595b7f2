"""Autoencoders of every architecture that is trained here: sparse as asked, saved as they are used, equal every time."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from tasks.autoencoder.settings import AutoencoderSettings
from tasks.autoencoder.training import train_autoencoder, untrained
from tasks.models.sae import load_sae

ACTIVE = 4
SETTINGS = AutoencoderSettings(latents=64, active=ACTIVE, steps=250, learning_rate=3e-3, batch_size=256)
HOOK = "blocks.1.hook_resid_post"
SAVED = {"topk": "topk", "batchtopk": "jumprelu", "matryoshka": "jumprelu", "jumprelu": "jumprelu"}
"""As what each is read again."""


@pytest.fixture(scope="module")
def states() -> torch.Tensor:
    """[4000, 16]: three of 24 directions each, far from the origin."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(24, 16, generator=generator), dim=-1)
    on = torch.rand(4000, 24, generator=generator).topk(3, dim=-1).indices
    strength = 1 + torch.rand(4000, 24, generator=generator)
    return 7 * (torch.zeros(4000, 24).scatter(-1, on, 1.0) * strength) @ directions + 2


@pytest.mark.parametrize("architecture", SAVED)
def test_it_explains_the_states_with_as_many_latents_as_asked(
    states: torch.Tensor, tmp_path: Path, architecture: str
) -> None:
    settings = dataclasses.replace(SETTINGS, architecture=architecture)
    quality = train_autoencoder(states, HOOK, settings, tmp_path / "sae")
    assert quality["explained_variance"] > 0.75
    assert quality["active"] == pytest.approx(ACTIVE, rel=0.25)
    assert quality["dead"] < 0.8
    read = load_sae(tmp_path / "sae")
    assert (read.architecture, read.latents, read.width) == (SAVED[architecture], 64, 16)
    assert read.sae.cfg.metadata.hook_name == HOOK
    assert read.sae.cfg.normalize_activations == "none", "the scale is in the weights"


@pytest.mark.parametrize("architecture", ["matryoshka", "jumprelu"])
def test_equal_seeds_equal_bytes(states: torch.Tensor, tmp_path: Path, architecture: str) -> None:
    settings = dataclasses.replace(SETTINGS, architecture=architecture, steps=5)
    made = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train_autoencoder(states, HOOK, dataclasses.replace(settings, autoencoder_seed=seed), tmp_path / name)
        made.append((tmp_path / name / "sae_weights.safetensors").read_bytes())
    assert made[0] == made[1] != made[2]


def test_the_first_latents_of_a_matryoshka_do_by_themselves(states: torch.Tensor, tmp_path: Path) -> None:
    """The first half reconstructs more of the states than the first half of a plain one."""
    explained = {}
    for architecture in ("batchtopk", "matryoshka"):
        train_autoencoder(
            states, HOOK, dataclasses.replace(SETTINGS, architecture=architecture), tmp_path / architecture
        )
        read = load_sae(tmp_path / architecture)
        latents = read.encode(states)
        latents[:, 32:] = 0
        residue = (states - read.decode(latents)).pow(2).sum()
        explained[architecture] = 1 - float(residue / (states - states.mean(0)).pow(2).sum())
    assert explained["matryoshka"] > explained["batchtopk"] + 0.1


def test_the_levels_of_a_matryoshka_are_nested_at_every_size() -> None:
    for latents in (8, 9, 512):
        settings = AutoencoderSettings(architecture="matryoshka", latents=latents, active=2)
        widths = untrained(settings, 4, HOOK).cfg.matryoshka_widths
        assert widths == sorted(set(widths))
        assert widths[-1] == latents
