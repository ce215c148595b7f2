"""The mathematics of metrics on cases that can be worked out by hand, and what must hold of it for any input."""

import math
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.evaluation.intervals import interval, mean_interval, resampled_means
from tasks.evaluation.statistics import membership, memorisation
from tasks.evaluation.statistics.forget_quality import ks_distance, log10_p, resampled_distances
from tasks.evaluation.statistics.truth import option_probability, preferred, truth_share, undecided
from tasks.evaluation.statistics.utility import harmonic_mean

FLOATS = st.floats(-20, 20)
QUICK = settings(max_examples=60, deadline=None)


@given(FLOATS)
@QUICK
def test_forms_of_a_truth_ratio(log_ratio: float) -> None:
    value, inverse = np.array(log_ratio), np.array(-log_ratio)
    r = math.exp(log_ratio)
    assert undecided(value) == pytest.approx(min(r, 1 / r))
    assert undecided(value) == pytest.approx(float(undecided(inverse)))
    assert preferred(value) == pytest.approx(max(0, 1 - r), abs=1e-12)
    assert truth_share(value) == pytest.approx(1 / (1 + r))
    assert truth_share(value) + truth_share(inverse) == pytest.approx(1)


def test_forms_of_a_truth_ratio_hold_at_the_ends() -> None:
    ends = np.array([-2000.0, 2000.0])
    assert undecided(ends).tolist() == [0, 0]
    assert preferred(ends).tolist() == [1, 0]
    assert truth_share(ends).tolist() == [1, 0]


@given(FLOATS, st.lists(FLOATS, min_size=1, max_size=5), FLOATS)
@QUICK
def test_option_probability_is_a_share(right: float, wrong: list[float], shift: float) -> None:
    found = option_probability(right, wrong)
    assert 0 <= found <= 1
    assert option_probability(right + shift, [each + shift for each in wrong]) == pytest.approx(found, rel=1e-6)
    assert option_probability(right, [right] * len(wrong)) == pytest.approx(1 / (1 + len(wrong)))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@given(st.lists(FLOATS, min_size=1, max_size=30), st.lists(FLOATS, min_size=1, max_size=30))
@QUICK
def test_ks_distance_is_scipys(first: list[float], second: list[float]) -> None:
    from scipy.stats import ks_2samp

    found = ks_distance(np.array(first), np.array(second))
    assert found == pytest.approx(ks_2samp(first, second, method="exact").statistic)
    assert found == ks_distance(np.array(second), np.array(first))
    assert ks_distance(np.array(first), np.array(first)) == 0


@given(st.integers(1, 60), st.data())
@QUICK
def test_p_falls_with_distance(count: int, data: st.DataObject) -> None:
    few, more = sorted(data.draw(st.tuples(st.integers(0, count), st.integers(0, count))))
    assert 0 >= log10_p(few / count, count) >= log10_p(more / count, count) - 1e-9


def test_p_is_told_where_no_float_holds_it() -> None:
    assert log10_p(0.99, 2000) < -310
    assert log10_p(1.0, 20_000) == pytest.approx(-20_000 * math.log10(4), rel=0.01)
    assert log10_p(0.0, 10) == 0


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("count", [1, 2, 5, 8, 13, 40])
def test_p_is_scipys(count: int) -> None:
    from scipy.stats import ks_2samp

    for steps in range(1, count + 1):
        ahead = np.arange(count) + (steps - 0.5)
        exact = ks_2samp(np.arange(count), ahead, method="exact")
        assert exact.statistic == pytest.approx(steps / count)
        assert log10_p(steps / count, count) == pytest.approx(math.log10(exact.pvalue), abs=1e-9)


def test_a_distance_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="both sides"):
        ks_distance(np.array([]), np.array([1.0]))
    with pytest.raises(ArithmeticError):
        ks_distance(np.array([math.nan]), np.array([1.0]))


def test_resampled_distance_of_all_rows_is_the_distance() -> None:
    generator = np.random.default_rng(0)
    first, second = np.round(generator.normal(size=12), 1), np.round(generator.normal(size=12), 1)
    drawn = resampled_distances(first, second, ["a"] * 6 + ["b"] * 6, draws=200, seed=0)
    halves = [ks_distance(first[:6], second[:6]), ks_distance(first[6:], second[6:]), ks_distance(first, second)]
    assert {round(each, 9) for each in drawn} == {round(each, 9) for each in halves}


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=9))
@QUICK
def test_harmonic_mean(parts: list[float]) -> None:
    from scipy.stats import hmean

    found = float(harmonic_mean(parts))
    assert found == pytest.approx(hmean(parts))
    assert min(parts) - 1e-9 <= found <= np.mean(parts) + 1e-9
    assert float(harmonic_mean([*parts, 0.0])) == 0
    columns = np.array([parts, parts]).T
    assert harmonic_mean(columns) == pytest.approx([found, found])


@pytest.mark.parametrize("bad", [[0.5, math.nan], [0.5, -0.1], [0.5, math.inf], []])
def test_a_part_that_is_no_number_stops(bad: list[float]) -> None:
    with pytest.raises(ArithmeticError):
        harmonic_mean(bad)


@pytest.mark.parametrize(
    ("hits", "exact", "strength", "public"),
    [
        ([1, 1, 1, 1, 1], 1.0, 1.0, 1.0),
        ([0, 0, 0, 0, 0], 0.0, 0.0, 0.2),
        ([0, 0, 0, 0, 1], 0.2, 0.2, 0.2),
        ([1, 1, 1, 1, 0], 0.8, 0.0, 0.2),
        ([1, 0, 1, 1, 1], 0.8, 0.6, 0.6),
        ([1], 1.0, 1.0, 1.0),
        ([0], 0.0, 0.0, 1.0),
    ],
)
def test_memorisation(hits: list[int], exact: float, strength: float, public: float) -> None:
    given_hits = np.array(hits, dtype=bool)
    assert memorisation.exact_memorisation(given_hits) == pytest.approx(exact)
    assert memorisation.extraction_strength(given_hits) == pytest.approx(strength)
    assert memorisation.public_extraction_strength(given_hits) == pytest.approx(public)


@given(st.lists(st.booleans(), min_size=1, max_size=12))
@QUICK
def test_extraction_strength_is_its_definition(hits: list[bool]) -> None:
    starts = [k for k in range(len(hits) + 1) if all(hits[k:])]
    expected = 1 - starts[0] / len(hits)
    assert memorisation.extraction_strength(np.array(hits)) == pytest.approx(expected)
    assert memorisation.extraction_strength(np.array(hits)) <= memorisation.exact_memorisation(np.array(hits)) + 1e-9


def test_an_empty_answer_has_no_memorisation() -> None:
    for function in (memorisation.exact_memorisation, memorisation.extraction_strength):
        with pytest.raises(ValueError, match="without scored tokens"):
            function(np.array([], dtype=bool))


def test_membership_scores_by_hand() -> None:
    log_p, mean, deviation = np.array([-1.0, -4.0, -2.0, -3.0, 0.0]), np.full(5, -2.0), np.array([1, 2, 0, 1, 1.0])
    found = membership.scores(log_p, mean, deviation, "Paris")
    assert found["loss"] == pytest.approx(-2)
    assert found["zlib"] == pytest.approx(-2 / 13)
    assert found["min_k"] == pytest.approx(-3.5), "two of five"
    assert found["min_k_plus_plus"] == pytest.approx(-1), "(-4 + 2) / 2 and (-3 + 2) / 1"
    assert membership.scores(log_p[:1], mean[:1], deviation[:1], "")["min_k"] == -1, "one token is not none"
    assert membership.compressed_bytes("") == len(zlib.compress(b"")) == 8


def test_membership_score_of_nothing_or_of_nan_is_an_error() -> None:
    with pytest.raises(ValueError, match="without scored tokens"):
        membership.scores(np.array([]), np.array([]), np.array([]), "x")
    with pytest.raises(ArithmeticError):
        membership.scores(np.array([math.nan]), np.array([0.0]), np.array([1.0]), "x")


@given(st.lists(st.integers(0, 5), min_size=1, max_size=8), st.lists(st.integers(0, 5), min_size=1, max_size=8))
@QUICK
def test_auc_counts_wins_and_half_of_ties(members: list[int], others: list[int]) -> None:
    wins = np.mean([(a > b) + 0.5 * (a == b) for a in members for b in others])
    first, second = np.array(members, dtype=float), np.array(others, dtype=float)
    assert membership.auc(first, second) == pytest.approx(wins)
    assert membership.auc(first, second) + membership.auc(second, first) == pytest.approx(1)
    assert membership.auc(np.exp(first), np.exp(second)) == pytest.approx(wins), "any rising function of the score"


def test_leak_and_similarity_by_hand() -> None:
    def both(area: float, gold: float) -> tuple[float, float]:
        pair = np.array(area), np.array(gold)
        return float(membership.privacy_leak(*pair)), float(membership.membership_similarity(*pair))

    assert both(0.5, 0.5) == (0, 1)
    assert both(1.0, 0.5) == (-100, 0)
    assert both(0.0, 0.5) == (100, 0)
    assert both(0.25, 0.75) == pytest.approx((200, 1 / 3))
    assert math.isnan(both(0.5, 1.0)[0])
    assert math.isnan(both(0.5, 0.0)[1])


def test_resampled_auc_agrees_with_drawing_rows() -> None:
    generator = np.random.default_rng(2)
    members, others = generator.normal(0.5, 1, 40), generator.normal(0, 1, 60)
    rows = [[str(i) for i in range(count)] for count in (40, 60)]
    quick = membership.resampled_aucs(members, others, *rows, draws=2000, seed=0)
    slow = [membership.auc(generator.choice(members, 40), generator.choice(others, 60)) for _ in range(2000)]
    np.testing.assert_allclose(np.quantile(quick, [0.1, 0.5, 0.9]), np.quantile(slow, [0.1, 0.5, 0.9]), atol=0.02)


def test_means_can_be_resampled_together() -> None:
    clusters = [str(i % 7) for i in range(40)]
    values = np.random.default_rng(0).normal(size=40)
    first, second = (resampled_means(each, clusters, draws=300, seed=4) for each in (values, 3 - 2 * values))
    np.testing.assert_allclose(second, 3 - 2 * first)
    assert interval(first, 0.9) == mean_interval(values, clusters, draws=300, confidence=0.9, seed=4)


def test_interval_of_an_auc_covers_at_its_rate() -> None:
    """Members beat others with chance Φ(.5 / √1.25); entities bring their own level to four questions each."""
    from scipy.stats import norm

    truth = norm.cdf(0.7 / math.sqrt(2 * 1.25))
    generator = np.random.default_rng(5)
    clusters = [str(i) for i in range(25) for _ in range(4)]
    inside = 0
    for trial in range(150):
        members, others = (
            np.repeat(generator.normal(size=25), 4) + 0.5 * generator.normal(size=100) + shift for shift in (0.7, 0.0)
        )
        drawn = membership.resampled_aucs(members, others, clusters, clusters, draws=300, seed=trial)
        low, high = interval(drawn, 0.9)
        inside += low <= truth <= high
    assert 0.82 <= inside / 150 <= 0.97


def test_interval_over_rows_would_be_too_narrow() -> None:
    generator = np.random.default_rng(6)
    inside = {"entities": 0, "rows": 0}
    for trial in range(150):
        values = np.repeat(generator.normal(size=20), 6) + 0.2 * generator.normal(size=120)
        for name, clusters in (("entities", np.repeat(np.arange(20), 6)), ("rows", np.arange(120))):
            low, high = mean_interval(values, [str(each) for each in clusters], draws=300, confidence=0.9, seed=trial)
            inside[name] += low <= 0 <= high
    assert 0.8 <= inside["entities"] / 150 <= 0.97
    assert inside["rows"] / 150 < 0.7
