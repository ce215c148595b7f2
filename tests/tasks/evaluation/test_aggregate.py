"""The mean over many runs and its interval."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tasks.evaluation.aggregate import mean_over_cells


def test_every_target_counts_the_same_however_many_seeds_it_has() -> None:
    mean, low, high = mean_over_cells([0.0, 0.0, 0.0, 1.0], ["a", "a", "a", "b"])
    assert mean == 0.5
    assert (low, high) == (0.0, 1.0)


def test_interval_covers_the_spread_between_targets() -> None:
    generator = np.random.default_rng(0)
    values = generator.normal(2.0, 1.0, 40)
    mean, low, high = mean_over_cells(values.tolist(), [str(index) for index in range(40)])
    assert low < mean < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / math.sqrt(40), rel=0.15)


def test_seeds_of_one_target_do_not_pass_for_many_targets() -> None:
    few = mean_over_cells([0.0, 1.0] * 10, ["a", "b"] * 10)
    many = mean_over_cells([0.0, 1.0] * 10, [str(index) for index in range(20)])
    assert few[2] - few[1] > 1.5 * (many[2] - many[1])


def test_values_that_are_no_numbers_are_left_out() -> None:
    mean, low, high = mean_over_cells([1.0, float("nan")], ["a", "b"])
    assert mean == 1.0
    assert math.isnan(low)
    assert math.isnan(high)
    assert all(math.isnan(value) for value in mean_over_cells([float("nan")], ["a"]))


def test_same_seed_gives_the_same_interval() -> None:
    values, targets = [0.1, 0.5, 0.7, 0.2], ["a", "a", "b", "b"]
    assert mean_over_cells(values, targets, seed=3) == mean_over_cells(values, targets, seed=3)
