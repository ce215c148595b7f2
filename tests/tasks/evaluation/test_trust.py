"""Which metric to trust: faithfulness and robustness on readings whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.evaluation.trust import (
    Reading,
    area,
    confusion,
    faithfulness,
    harmonic,
    knows,
    quantisation_robustness,
    rank_correlation,
    relearning_robustness,
)


def readings(holding: list[float], lacking: list[float], state: str = "ok") -> list[Reading]:
    both = [(True, value) for value in holding] + [(False, value) for value in lacking]
    return [
        Reading(f"t{place % 3}/0", f"t{place % 3}", "base" if holds else "gold", holds, value, state)
        for place, (holds, value) in enumerate(both)
    ]


@pytest.mark.parametrize(
    ("better", "value", "expected"),
    [("lower", 0.3, 0.3), ("higher", 0.3, -0.3), ("toward 0.5", 0.9, 0.9), ("toward 1", 2.5, 1.5), ("toward 0", -2, 2)],
)
def test_readings_are_turned_so_that_more_knows_more(better: str, value: float, expected: float) -> None:
    assert knows(value, better) == expected


def test_a_faithful_metric_a_blind_one_and_one_that_is_upside_down() -> None:
    assert faithfulness(readings([1, 0.9, 0.8], [0, 0.1, 0.2]), "lower").value == 1.0
    assert faithfulness(readings([1, 0.9, 0.8], [0, 0.1, 0.2]), "higher").value == 0.0
    blind = faithfulness(readings([0.5] * 3, [0.5] * 3), "lower")
    assert (blind.value, blind.low, blind.high) == (0.5, 0.5, 0.5)


def test_readings_without_a_number_are_counted_and_left_out() -> None:
    found = faithfulness([*readings([1, 0.9], [0.1]), *readings([math.nan], [0.9], "degenerate")], "lower")
    assert (found.value, found.holding, found.lacking, found.unusable) == (1.0, 2, 1, 2)
    assert math.isnan(faithfulness(readings([1.0], []), "lower").value)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_area_is_a_share_and_its_mirror(known: list[float], unknown: list[float]) -> None:
    forward, backward = area(np.array(known), np.array(unknown)), area(np.array(unknown), np.array(known))
    assert 0 <= forward <= 1
    assert forward + backward == pytest.approx(1)


def test_robustness_under_relearning_compares_what_comes_back() -> None:
    assert relearning_robustness((0.0, 0.5), (0.0, 0.5)) == 1.0
    assert relearning_robustness((0.0, 0.8), (0.0, 0.0)) == 0.0
    assert relearning_robustness((0.0, 0.6), (0.0, 0.2)) == pytest.approx(0.5)
    assert relearning_robustness((0.2, 0.2), (0.1, 0.1)) == 1.0


def test_robustness_under_quantisation_is_one_where_nothing_moves() -> None:
    assert quantisation_robustness(0.7, 0.7) == 1.0
    assert quantisation_robustness(0.0, 0.9) == 0.0
    assert quantisation_robustness(0.0, 0.0) == 1.0


def test_harmonic_mean_of_a_zero_or_a_missing_share() -> None:
    assert harmonic(1.0, 0.5) == pytest.approx(2 / 3)
    assert harmonic(0.0, 1.0) == 0.0
    assert math.isnan(harmonic(math.nan, 1.0))


def test_verdicts_are_counted_and_held_against_what_is_right() -> None:
    expected = {"gold": frozenset({"forgotten"})}
    found = [("gold", "forgotten"), ("gold", "forgotten"), ("gold", "hidden")]
    assert confusion(expected, found) == [
        {"specimen": "gold", "verdict": "forgotten", "count": 2, "right": True},
        {"specimen": "gold", "verdict": "hidden", "count": 1, "right": False},
    ]


def test_rank_correlation_is_scipys_and_leaves_gaps_out() -> None:
    from scipy.stats import spearmanr

    generator = np.random.default_rng(0)
    first = generator.integers(0, 5, 30).astype(float)
    second = first + generator.normal(size=30)
    found, count = rank_correlation([*first, math.nan], [*second, 1.0])
    assert found == pytest.approx(float(spearmanr(first, second).statistic))
    assert count == 30
    assert math.isnan(rank_correlation([1.0, 1.0, 1.0], [1.0, 2.0, 3.0])[0])
    assert math.isnan(rank_correlation([1.0], [2.0])[0])
