"""Which questions are scored again, and when two ways to score them are said to differ."""

from __future__ import annotations

import numpy as np
import pytest

from storage.records import UsageError
from tasks.reloading.comparison import TOLERANCE, check_same_scores, check_same_tokens, chosen_rows


def test_held_out_questions_about_targets_and_others_are_spread_evenly() -> None:
    sets = ["paraphrase"] * 90 + ["base"] * 10
    splits = ["forget"] * 30 + ["retain"] * 30 + ["neighbours"] * 30 + ["forget"] * 10
    rows = chosen_rows({"set": sets, "split": splits}, 4)
    assert rows == [0, 10, 19, 29, 30, 50, 69, 89]
    few = chosen_rows({"set": ["paraphrase"] * 3, "split": ["forget", "forget", "retain"]}, 24)
    assert few == [0, 1, 2], "no question twice"


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_a_difference_within_the_tolerance_a_token_passes_and_is_told(dtype: str) -> None:
    observed = np.array([-1.0, -8.0])
    apart = check_same_scores(observed, observed + np.array([0.5, -3.5]) * TOLERANCE[dtype], [1, 4], dtype, "it")
    assert apart == pytest.approx(np.array([0.5, 0.875]) * TOLERANCE[dtype])


@pytest.mark.parametrize("wrong", [-1.3, np.nan, np.inf])
def test_another_number_or_none_is_refused_in_one_line(wrong: float) -> None:
    with pytest.raises(UsageError, match="the model scores 1 of 2 answers otherwise") as caught:
        check_same_scores(np.array([-1.0, -2.0]), np.array([wrong, -2.0]), [1, 1], "float32", "the model")
    assert f"for {-1.0:.4f}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_tokenizer_is_refused() -> None:
    check_same_tokens([(1, 2), (1, 3), (3,)], [[1, 2], [3], [3]], (1,), "here")
    with pytest.raises(UsageError, match=r"saved in here reads 1 of 2 prompts otherwise .*\[4\] where \[1, 3\]"):
        check_same_tokens([(1, 2), (1, 3)], [[2], [4]], (1,), "here")
