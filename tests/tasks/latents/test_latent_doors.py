"""The doors: states are encoded once, shard by shard; a new labelling is a question to the sparse tables."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from storage.artifacts import building, folder_of
from storage.records import (
    ActivationRef,
    Artifact,
    Asking,
    EntitySet,
    ForgetSet,
    LatentSelection,
    LatentStats,
    SaeRef,
    Site,
    UsageError,
    World,
)
from storage.tables import read_table, write_table
from tasks.latents.settings import LatentSettings
from tasks.latents.task import measure_latents, select_latents
from tasks.models.sae import Autoencoder

SITES = (Site(0), Site(1))
ENTITIES, ROWS = 24, 3
"""Each entity has so many rows: inside the name, at its last token, at the last prompt token."""
WIDTH = 5


def _kept(stage: str, tables: dict[str, dict[str, Any]], key: str = "made") -> Artifact:
    with building(stage, key, {}) as build:
        for name, columns in tables.items():
            write_table(build.folder / f"{name}.parquet", columns)
    return build.artifact


def _states() -> dict[str, np.ndarray]:
    """Coordinate 0 is high for the first half of the entities, 1 for the second, 2 for every third; the rest is noise."""
    random = np.random.default_rng(0)
    made = {site.name: random.uniform(0, 0.4, (ENTITIES * ROWS, WIDTH)).astype(np.float32) for site in SITES}
    entity = np.repeat(np.arange(ENTITIES), ROWS)
    for values in made.values():
        values[:, 0] += entity < ENTITIES // 2
        values[:, 1] += entity >= ENTITIES // 2
        values[:, 2] += entity % 3 == 0
    return made


@pytest.fixture
def measured(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Callable[[str], LatentStats], list[int]]:
    """Calls the door on three shards; and how many rows were encoded."""
    encoded: list[int] = []

    def taken_in(x: torch.Tensor) -> torch.Tensor:
        encoded.append(len(x))
        return x

    config = SimpleNamespace(d_in=WIDTH, d_sae=WIDTH, architecture=lambda: "jumprelu")
    each, nothing = torch.full((WIDTH,), 0.5), torch.zeros(WIDTH)
    sae = SimpleNamespace(cfg=config, W_enc=torch.eye(WIDTH), b_enc=nothing, threshold=each, process_sae_in=taken_in)
    monkeypatch.setattr("tasks.models.sae.load_sae", lambda folder, device: Autoencoder(sae))
    index = {
        "question": np.repeat(np.arange(ENTITIES), ROWS),
        "after_name": np.tile([-1, 0, 1], ENTITIES),
        "before_end": np.tile([2, 1, 0], ENTITIES),
    }
    columns = index | _states()
    shards = {"part-00000": slice(0, 30), "part-00001": slice(30, 60), "rest-00000": slice(60, None)}
    tables = {name: {column: values[part] for column, values in columns.items()} for name, part in shards.items()}
    activations = ActivationRef(_kept("activations", tables), SITES, len(index["question"]), WIDTH)
    world = World(_kept("world", {"questions": {"entity": [f"e{number}" for number in range(ENTITIES)]}}), "", 0, 0)
    autoencoders = SaeRef(_kept("autoencoder", {}), SITES, WIDTH)
    return lambda key: measure_latents.directly(key, {}, world, activations, autoencoders), encoded


def _select(latents: LatentStats, known: np.ndarray, key: str) -> LatentSelection:
    ids = [f"e{number}" for number in range(ENTITIES)]
    labelled = {
        "entity": ids,
        "type": ["city"] * ENTITIES,
        "label": np.where(known, "known", "unknown").astype(object),
        "half": np.where(np.arange(ENTITIES) // 2 % 2 == 0, "fit", "report").astype(object),
    }
    entities = EntitySet(_kept("entities", {"entities": labelled}, key), 0, 0, 0, Asking("exact"))
    roles = _kept("targets", {"roles": {"entity": ["e0"], "role": ["target"]}}, key)
    found: LatentSelection = select_latents.directly(
        key,
        {},
        latents,
        entities,
        ForgetSet(roles, ("e0",), Asking("exact")),
        LatentSettings(generic_rate=1.0, minimum_separation=0.5),
    )
    return found


def test_a_new_labelling_is_answered_without_encoding_again(
    measured: tuple[Callable[[str], LatentStats], list[int]],
) -> None:
    measure, encoded = measured
    latents = measure("made")
    assert sum(encoded) == ENTITIES * 2 * len(SITES)
    encoded.clear()
    number = np.arange(ENTITIES)
    for key, known, latent in (("halves", number < ENTITIES // 2, 0), ("thirds", number % 3 == 0, 2)):
        made = folder_of(_select(latents, known, key).artifact)
        chosen = read_table(made / "selection.parquet")
        of_known = chosen["kind"] == "known"
        assert set(chosen["latent"][of_known]) == {latent}
        assert list(chosen["auroc_report"][of_known]) == [1.0] * len(SITES)
        _statistics_are_those_of_dense_latents(made, known)
    assert not encoded


def _statistics_are_those_of_dense_latents(made: Path, known: np.ndarray) -> None:
    statistics = read_table(made / "statistics.parquet")
    half = np.where(np.arange(ENTITIES) // 2 % 2 == 0, "fit", "report")
    for row in range(len(statistics["latent"])):
        place = {name: statistics[name][row] for name in ("site", "position", "latent", "group", "half")}
        values = _states()[place["site"]][
            {"name_last": 1, "prompt_last": 2}[place["position"]] :: ROWS, place["latent"]
        ]
        members = (known == (place["group"] == "known")) & (half == place["half"]) & (np.arange(ENTITIES) > 0)
        values = np.where(values > 0.5, values, 0)[members].astype(np.float64)
        found = [statistics[name][row] for name in ("count", "fired", "sum", "sum_squares")]
        np.testing.assert_allclose(found, [len(values), (values > 0).sum(), values.sum(), (values**2).sum()], rtol=1e-6)


def test_no_label_enters_the_encoding() -> None:
    kinds = {parameter.annotation for parameter in inspect.signature(measure_latents.function).parameters.values()}
    assert kinds == {"World", "ActivationRef", "SaeRef"}


def test_a_second_try_encodes_only_the_shards_that_are_missing(
    measured: tuple[Callable[[str], LatentStats], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    measure, encoded = measured
    whole = folder_of(measure("whole").artifact)
    encoded.clear()
    from tasks.latents import task

    write = task.write_whole_table

    def cut_off(path: Path, columns: dict[str, Any]) -> None:
        if path.name == "active-part-00001.parquet":
            raise KeyboardInterrupt
        write(path, columns)

    monkeypatch.setattr(task, "write_whole_table", cut_off)
    with pytest.raises(KeyboardInterrupt):
        measure("tried")
    monkeypatch.setattr(task, "write_whole_table", write)
    assert encoded == [20, 20] * len(SITES)
    encoded.clear()
    again = folder_of(measure("tried").artifact)
    assert encoded == [20, 20, 8, 8]
    names = sorted(path.name for path in whole.glob("*.parquet"))
    assert len(names) == 6
    assert [path.name for path in sorted(again.glob("*.parquet"))] == names
    assert all((again / name).read_bytes() == (whole / name).read_bytes() for name in names)
    assert list(read_table(sorted(whole.glob("rows-*")))["row"]) == list(range(ENTITIES * 2))


def test_autoencoders_of_sites_that_were_not_stored_are_refused() -> None:
    nowhere = Artifact("activations", "none", "none")
    with pytest.raises(UsageError, match=r"are for residual_1 and no states .* set activations.layers = \[1\]"):
        measure_latents.function(
            World(nowhere, "", 0, 0), ActivationRef(nowhere, (Site(0),), 0, 1), SaeRef(nowhere, (Site(1),), 1)
        )
