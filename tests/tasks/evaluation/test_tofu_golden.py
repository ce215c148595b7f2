"""Golden numbers: TOFU's published evaluation logs of Llama-2-7B, recomputed.

`tofu_figures.parquet` holds figures of those logs and no sentence: mean NLLs (nats per token), logged ROUGE and truth
ratio, a hash of the reference answer to join models by, and of 400 rows the stemmed words as numbers (equal words of a
row, equal numbers). Models: `llama2-7b_full` knows the target, `_retain90`, `_retain95`, `_retain99` were trained without
10, 5 and 1 per cent of the authors. Source: Maini et al. 2024, arXiv 2401.06121.
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import ks_2samp

from storage.records import UsageError
from storage.tables import read_table
from tasks.evaluation.statistics.forget_quality import joined, ks_distance, log10_p, resampled_distances
from tasks.evaluation.statistics.rouge import rouge_of_words
from tasks.evaluation.statistics.truth import log_truth_ratio, option_probability, preferred, truth_share, undecided
from tasks.evaluation.statistics.utility import harmonic_mean

FIGURES = read_table(Path(__file__).with_name("tofu_figures.parquet"))
FULL, GOLD = "llama2-7b_full", "llama2-7b_retain90"


def rows(model: str, split: str) -> np.ndarray:
    return np.flatnonzero((FIGURES["model"] == model) & (FIGURES["split"] == split))


def column(name: str, model: str, split: str) -> np.ndarray:
    return np.asarray([FIGURES[name][row] for row in rows(model, split)], dtype=float)


def log_ratios(model: str, split: str = "forget") -> np.ndarray:
    return np.array(
        [
            log_truth_ratio(FIGURES["mean_nll_paraphrase"][row], FIGURES["mean_nll_perturbed"][row])
            for row in rows(model, split)
        ]
    )


def by_question(model: str, values: np.ndarray) -> dict[Any, float]:
    return dict(zip(FIGURES["reference"][rows(model, "forget")], values, strict=True))


def nine(model: str) -> list[float]:
    parts = []
    for split in ("retain", "real_authors", "world_facts"):
        answer = column("mean_nll_answer", model, split)
        if split == "retain":
            probability = np.exp(-answer)
        else:
            wrong = [FIGURES["mean_nll_perturbed"][row] for row in rows(model, split)]
            probability = np.array([option_probability(*each) for each in zip(answer, wrong, strict=True)])
        ratio = preferred(log_ratios(model, split))
        parts += [probability.mean(), column("rougeL_recall", model, split).mean(), ratio.mean()]
    return parts


def test_the_ratio_is_the_logged_one() -> None:
    models = np.unique(FIGURES["model"])
    assert len(FIGURES["model"]) == 2908
    for model in models:
        for split in np.unique(FIGURES["split"]):
            logged, mine = column("truth_ratio_logged", model, split), np.exp(log_ratios(model, split))
            # The logs keep six decimals of each loss, which tells where a ratio is large: up to 25 for world facts.
            assert np.abs(mine / logged - 1).max() < 2e-6
            assert np.abs(mine - logged)[logged < 5].max() < 1e-5


@pytest.mark.parametrize(
    ("form", "full", "gold"),
    [(np.exp, 0.5769, 0.9204), (undecided, 0.5160, 0.6740), (truth_share, 0.66114, 0.5543)],
)
def test_forms_of_the_ratio(form: Any, full: float, gold: float) -> None:
    assert form(log_ratios(FULL)).mean() == pytest.approx(full, abs=5e-5)
    assert form(log_ratios(GOLD)).mean() == pytest.approx(gold, abs=5e-5)


@pytest.mark.parametrize("form", [np.array, np.exp, truth_share])
def test_forget_quality(form: Any) -> None:
    first, second = joined(by_question(FULL, form(log_ratios(FULL))), by_question(GOLD, form(log_ratios(GOLD))))
    distance = ks_distance(first, second)
    assert len(first) == 300
    assert distance == pytest.approx(0.3967, abs=5e-5)
    assert 10 ** log10_p(distance, 300) == pytest.approx(1.83e-21, rel=5e-3)
    assert 10 ** log10_p(distance, 300) == pytest.approx(ks_2samp(first, second).pvalue, rel=1e-6)


def test_other_ratios_would_give_other_numbers() -> None:
    """The two wrong forget qualities that circulate: neither must be what this project computes."""
    folded = [undecided(log_ratios(model)) for model in (FULL, GOLD)]
    assert ks_distance(*folded) == pytest.approx(0.3300, abs=5e-5)
    assert 10 ** log10_p(ks_distance(*folded), 300) == pytest.approx(7.38e-15, rel=5e-3)
    arithmetic = []
    for model in (FULL, GOLD):
        right = np.exp(-column("mean_nll_paraphrase", model, "forget"))
        wrong = [np.exp(-np.asarray(FIGURES["mean_nll_perturbed"][row])).mean() for row in rows(model, "forget")]
        arithmetic.append(np.array(wrong) / right)
    assert ks_distance(*arithmetic) == pytest.approx(0.4100, abs=5e-5)
    assert 10 ** log10_p(ks_distance(*arithmetic), 300) == pytest.approx(6.03e-23, rel=5e-3)
    right_distance = ks_distance(log_ratios(FULL), log_ratios(GOLD))
    assert all(abs(ks_distance(*each) - right_distance) > 0.01 for each in (folded, arithmetic))


def test_plain_loss_separates_almost_fully() -> None:
    losses = [column("mean_nll_answer", model, "forget") for model in (FULL, GOLD)]
    assert ks_distance(*losses) == pytest.approx(0.9967, abs=5e-5)


@pytest.mark.parametrize(
    ("model", "published"),
    [
        (FULL, [0.9895, 0.9857, 0.4747, 0.4555, 0.9330, 0.5962, 0.4186, 0.8825, 0.5390]),
        (GOLD, [0.9889, 0.9758, 0.4710, 0.4341, 0.9230, 0.5707, 0.4143, 0.8974, 0.5442]),
    ],
)
def test_nine_parts_of_utility(model: str, published: list[float]) -> None:
    assert nine(model) == pytest.approx(published, abs=5.1e-5)


@pytest.mark.parametrize(
    ("model", "utility"), [("full", 0.6227), ("retain90", 0.6137), ("retain95", 0.6006), ("retain99", 0.6207)]
)
def test_model_utility(model: str, utility: float) -> None:
    assert float(harmonic_mean(nine(f"llama2-7b_{model}"))) == pytest.approx(utility, abs=5e-5)


@pytest.mark.parametrize("other", ["llama2-7b_retain95", "llama2-7b_retain99"])
def test_models_asked_other_questions_are_refused(other: str) -> None:
    with pytest.raises(UsageError, match="different questions"):
        joined(by_question(FULL, log_ratios(FULL)), by_question(other, log_ratios(other)))


@pytest.mark.parametrize(("count", "p"), [(40, 1.86e-23), (200, 1.94e-119), (300, 1.48e-179), (400, 1.06e-239)])
def test_full_separation_is_fixed_by_the_count(count: int, p: float) -> None:
    assert log10_p(1.0, count) == pytest.approx(np.log10(p), abs=3e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scipy = ks_2samp(np.arange(count), np.arange(count) + 10 * count, method="exact").pvalue
    assert log10_p(1.0, count) == pytest.approx(np.log10(scipy), abs=1e-6)


def test_forty_questions_cannot_reject_a_distance_of_three_tenths() -> None:
    assert 10 ** log10_p(0.30, 40) > 0.05 > 10 ** log10_p(0.325, 40)


def test_interval_of_the_distance_holds_it() -> None:
    first, second = log_ratios(FULL), log_ratios(GOLD)
    draws = resampled_distances(first, second, [str(row) for row in range(300)], draws=300, seed=0)
    low, high = np.quantile(draws, [0.025, 0.975])
    assert 0.25 < low < 0.3967 < high < 0.55


def test_rouge_is_the_logged_one() -> None:
    compared = 0
    for row, (reference, generated) in enumerate(
        zip(FIGURES["reference_words"], FIGURES["generated_words"], strict=True)
    ):
        if reference:
            found = rouge_of_words(reference, generated)
            assert found.recall_1 == pytest.approx(FIGURES["rouge1_recall"][row], abs=1e-6)
            assert found.recall_l == pytest.approx(FIGURES["rougeL_recall"][row], abs=1e-6)
            compared += 1
    assert compared == 400
