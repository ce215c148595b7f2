"""Sparse encoding, statistics by DuckDB and the choice of latents, against plain NumPy."""

from pathlib import Path

import numpy as np
import torch

from storage.tables import named_query, write_table
from tasks.latents.settings import LatentSettings
from tasks.latents.statistics import auroc, choose_latents, encode_sparse, separations


class _Relu:
    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return (x - 1).relu()


def test_sparse_encoding_holds_what_is_on() -> None:
    states = torch.randn(1100, 7, generator=torch.Generator().manual_seed(0)) * 2
    row, latent, value = encode_sparse(_Relu(), states)  # type: ignore[arg-type]
    dense = np.zeros((1100, 7), dtype=np.float32)
    dense[row, latent] = value
    np.testing.assert_array_equal(dense, (states - 1).relu().numpy())
    assert list(latent) == sorted(latent)


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
        {"site": ["s"] * 50, "row": np.arange(50, dtype=np.int32), "position": place, "entity": entity},
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


def test_choice_is_general_and_not_generic(tmp_path: Path) -> None:
    chosen = choose_latents(world(tmp_path), LatentSettings(), ["city", "player"])
    assert [(each["kind"], each["latent"]) for each in chosen] == [("known", 0), ("unknown", 1)]
    assert all(each["separation_report"] == 1.0 for each in chosen)


def test_auroc_counts_ties_as_half() -> None:
    assert auroc(np.array([1.0, 1.0]), np.array([0.0, 1.0])) == 0.75
