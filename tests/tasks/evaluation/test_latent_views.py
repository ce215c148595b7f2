"""Views of states through an autoencoder, against sums written out row by row."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.records import UsageError
from tasks.evaluation.latent_views import NEAREST, firing_rates, latents_by_kind, view_latents
from tasks.models.sae import Autoencoder
from tasks.models.states import from_stored, to_stored

D, K = 6, 40
KINDS = {"residual_1": {"known": np.array([0, 3]), "unknown": np.array([5]), "random": np.array([7, 8, 9])}}


class JumpReLU:
    """What an inference SAE of sae-lens does, without the seconds that importing the library takes."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.W_enc, self.W_dec = (torch.randn(*shape, generator=generator) * 0.4 for shape in ((D, K), (K, D)))
        self.b_enc, self.b_dec = (torch.randn(size, generator=generator) * 0.4 for size in (K, D))
        self.threshold = torch.rand(K, generator=generator)
        self.cfg = SimpleNamespace(d_in=D, d_sae=K, architecture=lambda: "jumprelu", rescale_acts_by_decoder_norm=False)

    def process_sae_in(self, x: torch.Tensor) -> torch.Tensor:
        return x - self.b_dec

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        pre = self.process_sae_in(x) @ self.W_enc + self.b_enc
        return torch.relu(pre) * (pre > self.threshold)

    def decode(self, activation: torch.Tensor) -> torch.Tensor:
        return activation @ self.W_dec + self.b_dec


@pytest.fixture(scope="module")
def autoencoder() -> Autoencoder:
    return Autoencoder(JumpReLU())


def states(rows: int = 30, seed: int = 0, order: int = 0) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    every = np.random.default_rng(order).permutation(rows) if order else np.arange(rows)
    table = {
        "question": np.arange(rows) // 2,
        "position": np.array(["name_last", "prompt_last"] * (rows // 2), dtype=object),
        "entity": np.array([f"e{i // 6}" for i in range(rows)], dtype=object),
        "residual_1": to_stored(torch.from_numpy(generator.normal(size=(rows, D)) * 2).float(), "bfloat16"),
    }
    return {name: column[every] for name, column in table.items()}


def test_views_equal_sums_row_by_row(autoencoder: Autoencoder) -> None:
    table = states()
    seen = view_latents(table, {"residual_1": autoencoder}, KINDS)
    view = seen["latents"]
    assert len(view["question"]) == 30 * 3
    vectors = from_stored(table["residual_1"])
    for row in range(30):
        x = vectors[row : row + 1]
        on, pre = autoencoder.encode(x)[0] > 1e-6, torch.relu(autoencoder.pre_activations(x)[0])
        for kind, latents in KINDS["residual_1"].items():
            mine = (
                (view["question"] == table["question"][row])
                & (view["position"] == table["position"][row])
                & (view["kind"] == kind)
            )
            assert mine.sum() == 1
            assert view["entity"][mine][0] == table["entity"][row]
            assert view["firing"][mine][0] == pytest.approx(float(on[latents].float().mean()))
            assert view["margin"][mine][0] == pytest.approx(float(pre[latents].mean()), abs=1e-6)


def test_quality_and_active_rows_of_an_entity(autoencoder: Autoencoder) -> None:
    table = states()
    seen = view_latents(table, {"residual_1": autoencoder}, KINDS)
    vectors = from_stored(table["residual_1"])
    here = table["position"] == "name_last"
    mine = here & (table["entity"] == "e2")
    quality = seen["quality"]
    line = np.flatnonzero((quality["position"] == "name_last") & (quality["entity"] == "e2"))
    assert len(line) == 1
    x = vectors[mine]
    residue = (autoencoder.decode(autoencoder.encode(x)) - x).square().sum()
    scatter = (x - vectors[here].mean(0)).square().sum()
    assert quality["count"][line[0]] == 3
    assert quality["residue"][line[0]] == pytest.approx(float(residue), rel=1e-5)
    assert quality["scatter"][line[0]] == pytest.approx(float(scatter), rel=1e-5)
    active = seen["active"]
    rows = (active["position"] == "name_last") & (active["entity"] == "e2")
    fired = (autoencoder.encode(x) > 1e-6).sum(0)
    expected = {latent: int(count) for latent, count in enumerate(fired) if count}
    assert dict(zip(active["latent"][rows].tolist(), active["fired"][rows].tolist(), strict=True)) == expected


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 10**6))
def test_order_of_rows_is_irrelevant(autoencoder: Autoencoder, order: int) -> None:
    plain, shuffled = (view_latents(states(order=o), {"residual_1": autoencoder}, KINDS) for o in (0, order))
    for name, table in plain.items():
        for column, values in table.items():
            if values.dtype.kind == "f":
                np.testing.assert_allclose(shuffled[name][column], values, rtol=1e-5, atol=1e-6)
            else:
                assert list(shuffled[name][column]) == list(values)


def test_rates_count_the_rows_on_which_a_latent_is_absent() -> None:
    statistics = {
        "site": ["s", "s", "s", "s", "t"], "position": ["p", "p", "p", "q", "p"], "latent": [0, 0, 2, 1, 0],
        "type": ["city"] * 5, "group": ["known", "unknown", "known", "general", "known"], "half": ["fit"] * 5,
        "count": [10, 30, 10, 99, 5], "fired": [4, 6, 2, 50, 5],
    }  # fmt: skip
    rates = firing_rates({name: np.array(column) for name, column in statistics.items()}, {"s": 4, "t": 1})
    np.testing.assert_allclose(rates["s"], [10 / 40, 0, 2 / 40, 0])
    np.testing.assert_allclose(rates["t"], [1.0])


def test_random_latents_fire_about_as_often_as_the_selected_ones() -> None:
    generator = np.random.default_rng(0)
    rates = {"s": generator.uniform(size=200)}
    chosen = np.array([3, 9, 27, 81, 199])
    selection = {"site": ["s"] * 5, "latent": chosen, "kind": ["known"] * 2 + ["unknown"] * 3}
    kinds = latents_by_kind(selection, rates, seed=1)["s"]
    assert kinds["known"].tolist() == [3, 9]
    assert len(set(kinds["random"]) - {3, 9, 27, 81, 199}) == 5
    gap = np.abs(np.sort(rates["s"][kinds["random"]]) - np.sort(rates["s"][chosen]))
    assert gap.max() < 2 * NEAREST / 200
    again = latents_by_kind(selection, rates, seed=1)["s"]["random"]
    assert kinds["random"].tolist() == again.tolist()
    assert kinds["random"].tolist() != latents_by_kind(selection, rates, seed=2)["s"]["random"].tolist()


def test_an_autoencoder_of_another_width_is_refused(autoencoder: Autoencoder) -> None:
    wide = states() | {"residual_1": to_stored(torch.zeros(30, D + 2), "bfloat16")}
    with pytest.raises(UsageError, match=rf"reads states of width {D} .* width {D + 2}"):
        view_latents(wide, {"residual_1": autoencoder}, KINDS)
