"""Sparse encoding, statistics by DuckDB and the choice of latents, against plain NumPy."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from storage.tables import named_query, read_table, write_table
from tasks.latents.settings import LatentSettings
from tasks.latents.statistics import auroc, choose_latents, encode_sparse, separations
from tasks.models.sae import Autoencoder


def _autoencoder(architecture: str) -> Autoencoder:
    """23 latents over 7 numbers, of which 4 fire, or those above thresholds of their own."""
    generator = torch.Generator().manual_seed(1)
    columns, bias = torch.randn(7, 23, generator=generator), torch.randn(23, generator=generator)
    threshold = torch.rand(23, generator=generator)

    def encode(x: torch.Tensor) -> torch.Tensor:
        before = x @ columns + bias
        if architecture == "jumprelu":
            return before.relu() * (before > threshold)
        values, place = before.topk(4)
        return torch.zeros_like(before).scatter(1, place, values.relu())

    config = SimpleNamespace(d_in=7, d_sae=23, k=4, architecture=lambda: architecture)
    sae = SimpleNamespace(cfg=config, W_enc=columns, b_enc=bias, process_sae_in=lambda x: x, encode=encode)
    if architecture == "gated":
        del sae.b_enc
    if architecture == "jumprelu":
        sae.threshold = threshold
    return Autoencoder(sae)


@pytest.mark.parametrize("architecture", ["jumprelu", "topk"])
@pytest.mark.parametrize("latents_at_once", [23, 22, 5, 3])
def test_sparse_encoding_holds_what_is_on_however_few_latents_are_held(architecture: str, latents_at_once: int) -> None:
    autoencoder = _autoencoder(architecture)
    states = torch.randn(1100, 7, generator=torch.Generator().manual_seed(0)) * 2
    row, latent, value = encode_sparse(autoencoder, states, latents_at_once)
    dense = np.zeros((1100, 23), dtype=np.float32)
    dense[row, latent] = value
    expected = autoencoder.encode(states).numpy()
    np.testing.assert_array_equal(dense > 0, expected > 0)
    np.testing.assert_allclose(dense, expected, rtol=1e-5)
    assert list(zip(latent, row, strict=True)) == sorted(zip(latent, row, strict=True))


def test_what_has_no_single_pre_activation_is_encoded_as_it_says() -> None:
    autoencoder = _autoencoder("gated")
    states = torch.randn(300, 7, generator=torch.Generator().manual_seed(0))
    row, latent, value = encode_sparse(autoencoder, states)
    dense = np.zeros((300, 23), dtype=np.float32)
    dense[row, latent] = value
    np.testing.assert_array_equal(dense, autoencoder.encode(states).numpy())


def test_no_more_latents_are_encoded_at_once_than_may_be() -> None:
    class Watched(Autoencoder):
        def pre_activations(self, x, latents=None):  # type: ignore[no-untyped-def]
            found = super().pre_activations(x, latents)
            widths.append(found.shape[1])
            return found

    widths: list[int] = []
    encode_sparse(Watched(_autoencoder("jumprelu").sae), torch.zeros(600, 7), 10)
    assert widths == [10, 10, 3] * 3, "three chunks of states"


def world(folder: Path) -> dict[str, np.ndarray]:
    """Latent 0 fires for known entities of both types, 1 for unknown ones, 2 for known players only, 3 in any text."""
    rows, active = [], []
    for index in range(48):
        kind = "player" if index % 2 else "city"
        label = "known" if index < 24 else "unknown"
        rows.append((f"e{index}", kind, label, "fit" if (index // 2) % 2 else "report"))
        on = [label == "known", label == "unknown", label == "known" and kind == "player", True]
        active += [("s", latent, index, 1.0 + latent) for latent in range(4) if on[latent]]
    active += [("s", 3, 48, 1.0), ("s", 3, 49, 1.0)]
    entity = [row[0] for row in rows] + ["", ""]
    place = ["prompt_last"] * 48 + ["general"] * 2
    write_table(
        folder / "rows.parquet",
        {"row": np.arange(50, dtype=np.int32), "position": place, "entity": entity},
    )
    active.sort(key=lambda each: (each[1], each[2]))
    columns = dict(zip(("site", "latent", "row", "value"), map(list, zip(*active, strict=True)), strict=True))
    write_table(folder / "active.parquet", columns)
    names = ("entity", "type", "label", "half")
    write_table(folder / "groups.parquet", dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))
    return named_query("latent_statistics", {name: folder / f"{name}.parquet" for name in ("rows", "active", "groups")})


def test_statistics_count_rows_that_do_not_fire(tmp_path: Path) -> None:
    statistics = world(tmp_path)
    players = (statistics["latent"] == 2) & (statistics["group"] == "known") & (statistics["half"] == "fit")
    assert statistics["count"][players].tolist() == [6]
    assert statistics["fired"][players].tolist() == [6]
    assert statistics["sum"][players].tolist() == [18.0]
    assert statistics["sum_squares"][players].tolist() == [54.0]
    found = separations(statistics, "fit", ["city", "player"])
    assert found["s", "prompt_last", 0] == (1.0, -1.0)
    assert found["s", "prompt_last", 1] == (-1.0, 1.0)
    assert found["s", "prompt_last", 2][0] == 0.0  # separates players, so not in the worst type


def test_statistics_of_shards_add_up_to_those_of_all(tmp_path: Path) -> None:
    whole = world(tmp_path)
    sums: Counter[tuple[str, ...]] = Counter()
    names = ("site", "position", "latent", "type", "group", "half")
    for number, rows in enumerate((range(0, 17), range(17, 50))):
        tables = {"groups": tmp_path / "groups.parquet"}
        for name in ("rows", "active"):
            table = read_table(tmp_path / f"{name}.parquet")
            inside = np.isin(table["row"], list(rows))
            tables[name] = tmp_path / f"{name}-{number}.parquet"
            write_table(tables[name], {column: values[inside] for column, values in table.items()})
        part = named_query("latent_statistics", tables)
        for place, fired, total, squares in zip(
            zip(*(part[name] for name in names), strict=True),
            part["fired"],
            part["sum"],
            part["sum_squares"],
            strict=True,
        ):
            sums.update({(*place, "fired"): fired, (*place, "sum"): total, (*place, "sum_squares"): squares})
    files = {name: [tmp_path / f"{name}-{number}.parquet" for number in range(2)] for name in ("rows", "active")}
    together = named_query("latent_statistics", files | {"groups": [tmp_path / "groups.parquet"]})
    for name, values in whole.items():
        assert list(together[name]) == list(values)
    for row, place in enumerate(zip(*(whole[name] for name in names), strict=True)):
        assert [sums[*place, name] for name in ("fired", "sum", "sum_squares")] == [
            whole[name][row] for name in ("fired", "sum", "sum_squares")
        ]


def test_choice_is_general_and_not_generic(tmp_path: Path) -> None:
    chosen = choose_latents(world(tmp_path), LatentSettings(), ["city", "player"])
    assert [(each["kind"], each["latent"]) for each in chosen] == [("known", 0), ("unknown", 1)]
    assert all(each["separation_report"] == 1.0 for each in chosen)


def test_auroc_counts_ties_as_half() -> None:
    assert auroc(np.array([1.0, 1.0]), np.array([0.0, 1.0])) == 0.75
