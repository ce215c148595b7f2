"""Latents that moved: ranked by change at the target, described by whom they fire on."""

from __future__ import annotations

import numpy as np

from tasks.report.latent_map import Entities
from tasks.report.moved import moved_latents

IDS = ["target", "known", "other", "stranger"]
WHO = Entities(
    {each: each.title() for each in IDS},
    dict.fromkeys(IDS, "player"),
    dict(zip(IDS, ["target", "retain", "neighbour", "unknown_held_out"], strict=True)),
)
BEFORE = np.array([[4, 0, 1, 2], [2, 0, 0, 2], [0, 0, 0, 2], [0, 3, 0, 2]], dtype=np.float32)
AFTER = np.array([[0, 3, 1, 2], *BEFORE[1:]], dtype=np.float32)
SELECTION = {"site": ["residual_1"], "latent": [1], "kind": ["unknown"]}


def run(count: int = 8) -> list:
    states = {
        model: {"entity": np.array(IDS), "residual_1": rows} for model, rows in (("base", BEFORE), ("unlearned", AFTER))
    }
    return moved_latents(states, {"residual_1": lambda rows: rows}, WHO, SELECTION, count)


def test_the_largest_change_comes_first_and_what_stood_still_is_left_out() -> None:
    found = run()
    assert [latent.latent for latent in found] == [0, 1]
    assert [latent.latent for latent in run(1)] == [0]


def test_a_latent_is_described_by_whom_it_fires_on() -> None:
    first, second = run()
    assert (first.before, first.after, first.known, first.unknown) == (4.0, 0.0, 1.0, 0.0)
    assert (first.known_rate, first.unknown_rate) == (0.5, 0.0)
    assert first.fires_on == (("Target", "target"), ("Known", "retain"))
    assert second.kind == "unknown"
    assert second.fires_on == (("Stranger", "unknown_held_out"),)
    assert second.label == "layer 1 · 1"
