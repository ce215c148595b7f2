"""Probes and the place among unknown entities, on populations whose truth is planted."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tasks import catalogue
from tasks.evaluation.internals import calibration, probes
from tasks.evaluation.internals.calibration import area_among_unknown, percentile, permutation_p, standing
from tasks.evaluation.internals.probes import Sample, area, balanced, fitted, logistic, transfer
from tasks.evaluation.metric import Case, Measurement, Tables
from tasks.evaluation.probing import Place

D = 10
PLACE = Place("residual_0", "prompt_last")
SITE = PLACE.name
NAMES = ("probe_auroc", "fresh_probe_auroc", "probe_selectivity", "knownness_percentile", "knownness_p",
         "distance_percentile")  # fmt: skip
ROLES = (
    {"target": "target", "other": "other_candidate"}
    | {f"near{i}": "neighbour" for i in range(4)}
    | {f"kept{i}": "retain" for i in range(20)}
    | {f"held{i}": "retain_held_out" for i in range(16)}
    | {f"reference{i}": "unknown_reference" for i in range(40)}
    | {f"unknown{i}": "unknown_held_out" for i in range(40)}
)
TYPES = {entity: "city" if place % 2 else "player" for place, entity in enumerate(ROLES)} | {"target": "player"}
PROMPTS = 6


def tables(
    *, target: Any = None, shift: float = 4.0, also: float = 0.0, by_heart: bool = False, order: int = 0, seed: int = 0
) -> Tables:
    """States whose first coordinate says known (and the second too, by `also`); the target's are given, or a known one's.

    by_heart  known and unknown differ in nothing shared: every entity has its own large random vector.
    """
    generator = np.random.default_rng(seed)
    width = 200 if by_heart else D
    rows: list[tuple[int, str, int, np.ndarray]] = []
    for number, entity in enumerate(ROLES):
        known = not ROLES[entity].startswith("unknown")
        own = generator.normal(size=width) * (8 if by_heart else 0.3)
        for prompt in range(PROMPTS):
            state: np.ndarray = own + generator.normal(size=width)
            if not by_heart:
                state[:2] += np.array([shift, also]) * known
            if entity == "target" and target is not None:
                state = generator.normal(size=width) + np.pad(np.asarray(target, dtype=float), (0, width - len(target)))
            rows.append((number * PROMPTS + prompt, entity, prompt, state))
    rows = [rows[i] for i in (np.random.default_rng(order).permutation(len(rows)) if order else range(len(rows)))]
    question, names = np.array([row[0] for row in rows]), np.array([row[1] for row in rows], dtype=object)
    relation = np.array(["team" if row[2] % 2 else "year" for row in rows], dtype=object)
    states = {
        "question": question, "entity": names, "position": np.array(["prompt_last"] * len(rows), dtype=object),
        "residual_0": np.stack([row[3] for row in rows]).astype(np.float32),
    }  # fmt: skip
    answers = {"question": question, "entity": names, "relation": relation, "template": np.array([r[2] for r in rows])}
    return Tables(answers, states, {}, {}, population=states)


def case(order: int = 0, gold: bool = True, **changes: Tables) -> Case:
    models = {"base": tables(order=order), "unlearned": tables(target=[0.0], order=order)}
    if gold:
        models["gold"] = tables(target=[0.0], order=order, seed=5)
    return Case(models | changes, ROLES, TYPES, draws=200)


def measured(name: str, where: Case) -> dict[tuple[str, str], Measurement]:
    return {(m.model, m.site): m for m in catalogue.load("evaluation/metrics", name)().measure(where)}


def one(name: str, where: Case, model: str, site: str = SITE) -> Measurement:
    return measured(name, where)[model, site]


def sample(rows: int = 200, width: int = 6, seed: int = 0) -> tuple[Sample, np.ndarray]:
    generator = np.random.default_rng(seed)
    states = generator.normal(size=(rows, width)) * generator.uniform(0.1, 5, width) + generator.normal(size=width)
    labels = states[:, 0] + states[:, 1] + generator.normal(size=rows) > np.median(states[:, 0] + states[:, 1])
    entity = np.arange(rows) // 4
    return Sample(states, labels, entity, entity % 3, np.arange(rows) % 4, np.ones(rows, dtype=bool)), labels


@pytest.mark.parametrize("strength", [1e-4, 1e-2, 1.0])
def test_logistic_regression_is_scikit_learns(strength: float) -> None:
    from sklearn.linear_model import LogisticRegression

    given_, labels = sample()
    standard = (given_.states - given_.states.mean(0)) / given_.states.std(0)
    reference = LogisticRegression(C=strength, tol=1e-8, max_iter=1000)
    reference.fit(standard, labels, sample_weight=balanced(given_.kind, labels))
    found = logistic(given_, labels, strength).logit(given_.states)
    np.testing.assert_allclose(found, reference.decision_function(standard), atol=2e-3)


def test_a_coordinate_without_spread_does_no_harm() -> None:
    given_, labels = sample()
    given_.states[:, 3] = 7.0
    assert np.isfinite(logistic(given_, labels, 1e-2).logit(given_.states)).all()


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=40))
def test_weights_make_every_type_and_label_count_the_same(cells: list[tuple[int, bool]]) -> None:
    kind, label = (np.array(column) for column in zip(*cells, strict=True))
    weight = balanced(kind, label)
    sums = [weight[(kind == k) & (label == v)].sum() for k, v in set(cells)]
    assert sums == pytest.approx([sums[0]] * len(sums))
    assert weight.mean() == pytest.approx(1)


@given(arrays(int, 5, elements=st.integers(0, 4)), arrays(int, 7, elements=st.integers(0, 4)))
def test_area_counts_pairs(positive: np.ndarray, negative: np.ndarray) -> None:
    pairs = [(p > n) + 0.5 * (p == n) for p in positive for n in negative]
    assert area(positive, negative) == pytest.approx(np.mean(pairs))


def test_a_planted_direction_is_admitted() -> None:
    found = fitted(case(), "base", PLACE)
    assert found is not None
    assert found.auroc > 0.95
    assert found.selectivity > 0.2
    assert found.admitted
    assert found.probe.direction[0] > 3 * np.abs(found.probe.direction[1:]).max()
    assert all(value > 0.9 for value, _ in transfer(case(), "base", PLACE).values())
    assert set(transfer(case(), "base", PLACE)) == {"city", "player"}


def test_a_probe_that_learns_names_by_heart_is_not_selective(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "STRENGTHS", (1.0,))
    found = fitted(case(base=tables(by_heart=True)), "base", PLACE)
    assert found is not None
    assert abs(found.selectivity) < 0.1
    assert not found.admitted
    blind = case(base=tables(by_heart=True), unlearned=tables(by_heart=True), gold=False)
    assert one("probe_selectivity", blind, "base").state == "degenerate"
    assert one("probe_auroc", blind, "unlearned").state == "degenerate"


def test_the_target_never_enters_its_own_probe() -> None:
    plain, odd = (fitted(case(base=tables(target=target)), "base", PLACE) for target in ([0.0], [50.0, 50.0]))
    assert plain is not None
    assert odd is not None
    np.testing.assert_allclose(plain.probe.direction, odd.probe.direction, atol=1e-6)


def test_known_forgotten_and_overshot() -> None:
    overshot = case(unlearned=tables(target=[-6.0]))
    for name in ("probe_auroc", "fresh_probe_auroc"):
        assert one(name, case(), "base").value > 0.95
        assert one(name, case(), "base").state == "ok"
        forgotten = one(name, case(), "unlearned")
        assert forgotten.low < 0.5 < forgotten.high
        assert one(name, overshot, "unlearned").value < 0.05
    assert one("knownness_percentile", case(), "base").value > 0.95
    assert 0.05 < one("knownness_percentile", case(), "unlearned").value < 0.95
    assert one("knownness_percentile", overshot, "unlearned").value < 0.05
    assert one("knownness_p", case(), "base").value < 0.1
    assert one("knownness_p", overshot, "unlearned").value < 0.1
    assert one("knownness_p", case(), "unlearned").value > 0.1


def test_a_target_that_was_only_moved_is_found_by_the_fresh_probe() -> None:
    """The model writes `known` in a second coordinate too; the target keeps that one and gives up the first."""
    moved = case(unlearned=tables(target=[0.0, 6.0], also=6.0))
    frozen, fresh = (one(name, moved, "unlearned") for name in ("probe_auroc", "fresh_probe_auroc"))
    assert frozen.value < 0.75
    assert fresh.value > 0.95


def test_the_twin_is_read_in_its_own_space() -> None:
    twin = tables(target=[0.0, 0.0], seed=9)
    twin.states["residual_0"][:] = -twin.states["residual_0"]  # the same knowledge, written the other way round
    found = one("probe_auroc", case_with_gold(twin), "gold")
    assert found.low < 0.5 < found.high
    known = tables(seed=9)
    known.states["residual_0"][:] = -known.states["residual_0"]
    assert one("probe_auroc", case_with_gold(known), "gold").value > 0.95
    assert one("knownness_percentile", case_with_gold(known), "gold").value > 0.95


def case_with_gold(twin: Tables) -> Case:
    return Case({**case(gold=False).models, "gold": twin}, ROLES, TYPES, draws=200)


def test_distance_shows_collapse_and_expulsion() -> None:
    collapsed, expelled = tables(target=[0.0]), tables(target=[0.0, 0.0, 40.0])
    mine = collapsed.states["entity"] == "target"
    collapsed.states["residual_0"][mine] = 0
    assert one("distance_percentile", case(unlearned=collapsed), "unlearned").value == 0
    assert one("distance_percentile", case(unlearned=collapsed), "unlearned").state == "saturated"
    assert one("distance_percentile", case(unlearned=expelled), "unlearned").value == 1
    assert 0.02 < one("distance_percentile", case(), "unlearned").value < 0.98


def test_without_power_everything_about_knownness_is_degenerate() -> None:
    blind = case(base=tables(target=[0.0]))
    for name in ("probe_auroc", "fresh_probe_auroc", "knownness_percentile", "knownness_p"):
        assert {m.state for m in measured(name, blind).values()} == {"degenerate"}


def test_without_a_population_the_reference_is_missing() -> None:
    without = {name: replace(each, population=None) for name, each in case().models.items()}
    for name in ("probe_auroc", "fresh_probe_auroc", "knownness_percentile", "knownness_p"):
        found = measured(name, Case(without, ROLES, TYPES, draws=100))
        assert {(m.model, m.state) for m in found.values()} == {(n, "missing_reference") for n in without}
    assert not measured("probe_selectivity", Case(without, ROLES, TYPES, draws=100))


def test_a_model_under_stress_has_no_population_and_no_fresh_probe() -> None:
    under: dict[str, Any] = {"unlearned+int8": replace(tables(), population=None)}
    stressed = case(**under)
    assert one("probe_auroc", stressed, "unlearned+int8").value > 0.95  # it came back
    assert "unlearned+int8" not in {model for model, _ in measured("fresh_probe_auroc", stressed)}
    assert one("knownness_percentile", stressed, "unlearned+int8").value > 0.95


def test_a_state_that_is_no_number_is_an_error() -> None:
    broken = tables()
    broken.states["residual_0"][5] = np.nan
    for name in ("probe_auroc", "distance_percentile"):
        with pytest.raises(ArithmeticError, match="not finite"):
            measured(name, case(base=broken, unlearned=broken))


@pytest.mark.parametrize("name", NAMES)
def test_order_of_rows_is_irrelevant(name: str) -> None:
    plain, shuffled = measured(name, case()), measured(name, case(7))
    assert plain.keys() == shuffled.keys()
    for place, found in plain.items():
        other = shuffled[place]
        assert [other.value, other.low, other.high] == pytest.approx(
            [found.value, found.low, found.high], abs=2e-3, nan_ok=True
        )


def test_the_interval_is_that_of_drawing_prompts_and_entities() -> None:
    where = case(unlearned=tables(target=[1.0]))
    direction = np.eye(D)[0]
    found = area_among_unknown(where, "unlearned", PLACE, lambda states: states @ direction)
    (panel,) = calibration.panels(where, where.models["unlearned"], PLACE)
    wins = (panel.target_states @ direction)[:, None] > panel.unknown_states @ direction
    generator = np.random.default_rng(1)
    drawn = [wins[np.ix_(*(generator.integers(0, size, size) for size in wins.shape))].mean() for _ in range(2000)]
    assert found.value == pytest.approx(wins.mean())
    np.testing.assert_allclose((found.low, found.high), np.quantile(drawn, [0.025, 0.975]), atol=0.04)


@settings(max_examples=30, deadline=None)
@given(arrays(int, (3, 6), elements=st.integers(0, 5)))
def test_standing_and_percentile_equal_loops(pool: np.ndarray) -> None:
    found = standing(pool.astype(float))
    for prompt, row in enumerate(pool):
        for entity, value in enumerate(row):
            others = np.delete(row, entity)
            assert found[prompt, entity] == pytest.approx(((others < value) + 0.5 * (others == value)).mean())
    means = found.mean(0)
    expected = np.mean([(means[0] > other) + 0.5 * (means[0] == other) for other in means[1:]])
    assert percentile(means) == pytest.approx(expected)


def pools_under_the_null(trials: int) -> Iterator[np.ndarray]:
    """Entities with effects of their own that all prompts share: what a plain rank test would take for signal."""
    generator = np.random.default_rng(0)
    for _ in range(trials):
        yield standing(generator.normal(size=(1, 20)) * 3 + generator.normal(size=(5, 20)))


def test_p_keeps_its_level_although_prompts_depend() -> None:
    found = np.array([permutation_p([pool], 100, 0) for pool in pools_under_the_null(600)])
    for level in (0.05, 0.1, 0.5):
        assert (found <= level).mean() <= level + 0.04
    assert found.min() >= 1 / 20
    assert np.array([percentile(pool.mean(0)) for pool in pools_under_the_null(600)]).mean() == pytest.approx(
        0.5, abs=0.04
    )


def test_p_of_several_targets() -> None:
    pools = list(pools_under_the_null(300))
    found = np.array([permutation_p(pools[i : i + 3], 500, i) for i in range(0, 300, 3)])
    assert (found <= 0.1).mean() <= 0.2
    far = pools[0].copy()
    far[:, 0] = 1.0
    assert permutation_p([far, far, far], 500, 0) < 0.05
