"""Diagnostics: geometry against its definition, and metrics on populations that were moved on purpose."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import catalogue
from tasks.evaluation.internals.geometry import linear_cka, paired_states, principal
from tasks.evaluation.metric import Case, Measurement, Tables
from tasks.evaluation.probing import Place

D = 12
ROLES = (
    {"target": "target"}
    | {f"kept{i}": "retain" for i in range(16)}
    | {f"held{i}": "retain_held_out" for i in range(16)}
    | {f"reference{i}": "unknown_reference" for i in range(32)}
    | {f"unknown{i}": "unknown_held_out" for i in range(32)}
)
TYPES = {entity: ("city", "player", "movie")[place % 3] for place, entity in enumerate(ROLES)}
PROMPTS = 4
NAMES = ("linear_cka", "pca_shift", "probe_power", "probe_transfer")
Moved = np.ndarray | None


def tables(order: int = 0, target: Moved = None, turned: np.ndarray | None = None) -> Tables:
    """Known and unknown entities apart along the first coordinate, which varies most; the target moved by a vector."""
    generator = np.random.default_rng(0)
    entity = np.repeat(np.array(list(ROLES), dtype=object), PROMPTS * 2)
    question = np.repeat(np.arange(len(ROLES) * PROMPTS), 2)
    known = np.array([not ROLES[each].startswith("unknown") for each in entity])
    states = generator.normal(size=(len(entity), D)) + known[:, None] * np.eye(D)[0] * 6
    if target is not None:
        states[entity == "target"] += target
    if turned is not None:
        states = states @ turned
    table = {
        "question": question, "entity": entity, "residual_0": states.astype(np.float32),
        "position": np.array(["name_last", "prompt_last"] * (len(entity) // 2), dtype=object),
    }  # fmt: skip
    every = np.random.default_rng(order).permutation(len(entity)) if order else np.arange(len(entity))
    table = {name: column[every] for name, column in table.items()}
    answers = {"question": question[::2], "relation": np.array(["team"] * (len(question) // 2), dtype=object),
               "template": question[::2] % PROMPTS}  # fmt: skip
    return Tables(answers, table, {}, {}, population=table)


def case(order: int = 0, **changes: Any) -> Case:
    away = -6 * np.eye(D)[0]
    models = {"base": tables(order), "unlearned": tables(order, target=away), "gold": tables(order, turned=rotation())}
    return Case(models | changes, ROLES, TYPES, draws=100)


def rotation(seed: int = 3) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(D, D)))[0]


def measured(name: str, where: Case) -> dict[tuple[str, str], Measurement]:
    return {(m.model, m.site): m for m in catalogue.load("evaluation/metrics", name)().measure(where)}


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.1, 10))
def test_cka_is_blind_to_rotation_scale_and_shift_but_not_to_rows(seed: int, scale: float) -> None:
    generator = np.random.default_rng(seed)
    x, y = generator.normal(size=(2, 60, 5))
    assert linear_cka(x, x @ np.linalg.qr(generator.normal(size=(5, 5)))[0] * scale + 7) == pytest.approx(1, rel=1e-4)
    found = linear_cka(x, y)
    assert 0 <= found < 0.6
    assert found == pytest.approx(linear_cka(y, x), rel=1e-4)
    gram = [(each - each.mean(0)) @ (each - each.mean(0)).T for each in (x, y)]
    expected = (gram[0] * gram[1]).sum() / (np.linalg.norm(gram[0]) * np.linalg.norm(gram[1]))
    assert found == pytest.approx(expected, rel=1e-4)
    assert np.isnan(linear_cka(x, y * 0 + 1))


def test_unrelated_data_of_width_128() -> None:
    generator = np.random.default_rng(0)
    for rows, expected in ((20, 0.85), (200, 0.39), (5000, 0.02)):
        assert linear_cka(*generator.normal(size=(2, rows, 128))) == pytest.approx(expected, abs=0.03)


def test_principal_directions_are_those_of_a_decomposition() -> None:
    states = np.random.default_rng(0).normal(size=(80, 6)) * np.array([5, 1, 3, 1, 1, 1.0]) + 4
    directions, deviation = principal(states)
    _, singular, expected = np.linalg.svd(states - states.mean(0), full_matrices=False)
    np.testing.assert_allclose(np.abs(directions @ expected[:2].T), np.eye(2), atol=1e-6)
    np.testing.assert_allclose(deviation, singular[:2] / np.sqrt(80))
    assert (directions.max(1) == np.abs(directions).max(1)).all()


def test_states_are_paired_by_question() -> None:
    first, second = tables().states, tables(order=4).states
    second = {name: column[20:] for name, column in second.items()}
    entities, (x, y) = paired_states(Place("residual_0", "name_last"), first, second)
    np.testing.assert_array_equal(x, y)
    assert len(x) == (second["position"] == "name_last").sum()
    kept, (own,) = paired_states(Place("residual_0", "name_last"), first, kept=frozenset({"target"}))
    assert set(kept) == {"target"}
    assert len(own) == PROMPTS
    assert len(entities) == len(x)


def test_cka_of_models() -> None:
    found = measured("linear_cka", case())
    site = "residual_0@name_last"
    assert found["gold", site].value == pytest.approx(1, abs=1e-5)  # a rotation
    assert 0.9 < found["unlearned", site].value < 1
    assert found["base", f"{site}:gold"].value == pytest.approx(1, abs=1e-5)
    assert {site for _, site in found} == {site, f"{site}:gold"}
    under: dict[str, Any] = {"unlearned+int8": replace(tables(), population=None)}
    stressed = case(**under)
    assert "unlearned+int8" not in {model for model, _ in measured("linear_cka", stressed)}


def test_shift_is_toward_the_unknown_in_standard_deviations() -> None:
    found = measured("pca_shift", case())
    first = found["unlearned", "residual_0@prompt_last:pc1"]
    states = tables().states
    here = states["position"] == "prompt_last"
    assert first.value == pytest.approx(6 / states["residual_0"][here, 0].std(), rel=0.05)
    assert abs(found["unlearned", "residual_0@prompt_last:pc2"].value) < 0.5 * first.value
    assert {model for model, _ in found} == {"unlearned"}
    back = measured("pca_shift", case(unlearned=tables(target=6 * np.eye(D)[0])))
    assert back["unlearned", "residual_0@prompt_last:pc1"].value < 0


def test_without_a_population() -> None:
    without = {name: replace(each, population=None) for name, each in case().models.items()}
    where = Case(without, ROLES, TYPES)
    assert {m.state for m in measured("pca_shift", where).values()} == {"missing_reference"}
    for name in ("linear_cka", "probe_power", "probe_transfer"):
        assert not measured(name, where)


def test_power_and_transfer_of_a_planted_direction() -> None:
    site = "residual_0@prompt_last"
    power = measured("probe_power", case())["base", site]
    assert power.value > 0.97
    assert power.count == (9 + 32) * PROMPTS  # a quarter of each type's known entities, rounded
    transfer = measured("probe_transfer", case())
    assert {place for model, place in transfer if model == "base" and place.startswith(site)} == {
        f"{site}:{kind}" for kind in ("city", "player", "movie")
    }
    assert min(found.value for found in transfer.values()) > 0.95
    blind = measured("probe_power", case(base=tables(turned=np.diag([0.0] + [1.0] * (D - 1)))))["base", site]
    assert blind.state == "degenerate"


@pytest.mark.parametrize("name", NAMES)
def test_order_of_rows_is_irrelevant(name: str) -> None:
    plain, shuffled = measured(name, case()), measured(name, case(9))
    assert plain.keys() == shuffled.keys()
    for place, found in plain.items():
        assert shuffled[place].value == pytest.approx(found.value, abs=1e-5)
