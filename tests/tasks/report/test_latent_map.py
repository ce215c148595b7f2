"""The latent map: its axes, who is drawn, and the gold twin's space."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tasks.report.latent_map import LEAST_AGREEMENT, Entities, draw_coordinates, entity_means, knownness_gap

WIDTH, EACH = 12, 20


def make_world(
    after: float, seed: int = 0, turn: bool = True, noise: float = 0.3
) -> tuple[dict[str, dict[str, Any]], Entities]:
    """States in which the first coordinate is knownness; the target's knownness afterwards is `after`."""
    random = np.random.default_rng(seed)
    roles = ["target"] + ["retain", "retain_held_out"] * EACH + ["unknown_reference", "unknown_held_out"] * EACH
    ids = [f"Q{place}" for place in range(len(roles))]
    own = noise * random.normal(size=(len(ids), WIDTH))
    rotation = np.linalg.qr(random.normal(size=(WIDTH, WIDTH)))[0]

    def states(target: float, rotate: bool) -> dict[str, Any]:
        known = np.array([target if role == "target" else float(not role.startswith("unknown")) for role in roles])
        vectors = own + 4 * known[:, None] * np.eye(WIDTH)[0]
        rows = np.repeat(np.arange(len(ids)), 2)
        found = (vectors @ rotation if rotate else vectors)[rows] + 0.01 * random.normal(size=(len(rows), WIDTH))
        return {"entity": np.array(ids, dtype=object)[rows], "residual_1": found.astype(np.float32)}

    world = {"base": states(1.0, False), "unlearned": states(after, False), "gold": states(0.0, turn)}
    who = Entities(dict(zip(ids, ids, strict=True)), dict.fromkeys(ids, "player"), dict(zip(ids, roles, strict=True)))
    return world, who


def identity(states: np.ndarray) -> np.ndarray:
    return states


def test_zero_is_the_mean_unknown_and_one_the_mean_known() -> None:
    states, who = make_world(after=0.25)
    found = draw_coordinates(states, "residual_1", identity, who)
    assert found is not None
    assert found.targets["base"]["Q0"][0] == pytest.approx(1.0, abs=0.2)
    assert found.targets["unlearned"]["Q0"][0] == pytest.approx(0.25, abs=0.2)
    assert found.known[:, 0].mean() == pytest.approx(1.0, abs=0.1)
    assert found.unknown[:, 0].mean() == pytest.approx(0.0, abs=0.1)
    assert len(found.known) == len(found.unknown) == EACH


def test_only_entities_that_were_not_fitted_are_drawn() -> None:
    states, who = make_world(after=0.0)
    found = draw_coordinates(states, "residual_1", identity, who)
    moved, _ = make_world(after=0.0)
    reference = np.isin(moved["base"]["entity"], who.with_role("retain_held_out", "unknown_held_out"))
    moved["base"]["residual_1"][reference] += 1.0
    shifted = draw_coordinates(moved, "residual_1", identity, who)
    assert found is not None
    assert shifted is not None
    assert shifted.targets["base"] == found.targets["base"]
    assert not np.allclose(shifted.known, found.known)


def test_a_turned_gold_space_is_turned_back() -> None:
    states, who = make_world(after=0.0)
    found = draw_coordinates(states, "residual_1", identity, who)
    assert found is not None
    assert found.agreement is not None
    assert found.agreement > 0.9
    assert found.targets["gold"]["Q0"][0] == pytest.approx(0.0, abs=0.2)


def test_a_gold_space_that_does_not_match_is_left_out() -> None:
    states, who = make_world(after=0.0)
    states["gold"]["residual_1"] = (
        np.random.default_rng(3).normal(size=states["gold"]["residual_1"].shape).astype(np.float32)
    )
    found = draw_coordinates(states, "residual_1", identity, who)
    assert found is not None
    assert found.agreement is not None
    assert found.agreement < LEAST_AGREEMENT
    assert "gold" not in found.targets


def test_the_spill_is_the_move_of_others_over_the_targets() -> None:
    states, who = make_world(after=0.0)
    for vectors in states.values():
        vectors["residual_1"] = vectors["residual_1"].astype(np.float64)
    others = states["unlearned"]["entity"] != "Q0"
    states["unlearned"]["residual_1"][others] = states["base"]["residual_1"][others]
    states["unlearned"]["residual_1"][others, 5] += 1.0
    found = draw_coordinates(states, "residual_1", identity, who)
    assert found is not None
    assert found.spill == pytest.approx(0.25, abs=0.02)


def test_too_few_entities_make_no_map() -> None:
    states, who = make_world(after=0.0)
    roles = {entity: role for entity, role in who.roles.items() if role in ("target", "retain")}
    assert draw_coordinates(states, "residual_1", identity, Entities(who.names, who.types, roles)) is None


def test_the_gap_tells_a_telling_site_from_a_blind_one() -> None:
    states, who = make_world(after=0.0)
    assert knownness_gap(states["base"], "residual_1", who) > 0.95
    blind = {**states["base"], "residual_1": np.random.default_rng(0).normal(size=states["base"]["residual_1"].shape)}
    assert 0.2 < knownness_gap(blind, "residual_1", who) < 0.8


def test_means_are_taken_over_prompts_after_encoding() -> None:
    states = {"entity": np.array(["b", "a", "b"]), "site": np.array([[1.0], [5.0], [-3.0]])}
    ids, means = entity_means(states, "site", lambda rows: np.maximum(rows, 0))
    assert ids == ["a", "b"]
    assert means.tolist() == [[5.0], [0.5]]
