"""Claims say no more than intervals and states allow."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tasks.report.evidence import Evidence
from tasks.report.scoring import Scores, is_place, number, percent, site_order, site_words
from tasks.report.summary import headline, make_claims, make_gauges

NAN = float("nan")


def scores(*rows: tuple[Any, ...]) -> Scores:
    """Rows of metric, split, model, low, value, high and, if not plain, state and site."""
    names = ("metric", "split", "model", "low", "value", "high", "state", "site")
    columns: dict[str, list[Any]] = {name: [] for name in (*names, "count", "better")}
    for row in rows:
        for name, value in zip(names, (*row, "ok", "")[: len(row)] + ("ok", "")[len(row) - 6 :], strict=True):
            columns[name].append(value)
        columns["count"].append(8)
        columns["better"].append("lower")
    return Scores(columns)


FORGOT = (
    ("recall", "forget", "base", 0.9, 1.0, 1.0),
    ("recall", "forget", "unlearned", 0.0, 0.05, 0.12),
    ("recall", "forget", "gold", 0.0, 0.04, 0.1),
)
INSIDE = (
    ("knownness_auroc", "forget", "base", 0.9, 0.95, 1.0, "ok", "residual_1@name_last"),
    ("knownness_auroc", "forget", "unlearned", 0.4, 0.5, 0.6, "ok", "residual_1@name_last"),
)
RELEARNED = (
    ("relearned_recall", "forget", "unlearned", 0.1, 0.2, 0.3),
    ("relearned_recall", "forget", "gold", 0.0, 0.15, 0.25),
)
KEPT = (
    ("recall", "retain", "base", 0.95, 0.98, 1.0),
    ("recall", "retain", "unlearned", 0.94, 0.97, 0.99),
)


def claim(found: Scores, question: str, targets: tuple[str, ...] = ("Ada",)) -> Any:
    return {each.question: each for each in make_claims(found, targets)}[question]


def test_all_good_is_claimed() -> None:
    found = make_claims(scores(*FORGOT, *INSIDE, *RELEARNED, *KEPT), ["Ada"])
    assert [each.verdict for each in found] == ["yes"] * 4


def test_overlapping_intervals_carry_no_change() -> None:
    same = scores(("recall", "forget", "base", 0.3, 0.5, 0.7), ("recall", "forget", "unlearned", 0.2, 0.4, 0.6))
    assert claim(same, "answers").verdict == "unclear"
    assert "no change can be told" in claim(same, "answers").text


def test_more_than_the_gold_twin_is_not_forgotten() -> None:
    found = scores(FORGOT[0], ("recall", "forget", "unlearned", 0.3, 0.4, 0.5), FORGOT[2])
    assert claim(found, "answers").verdict == "no"


def test_without_a_gold_twin_only_hardly_ever_is_forgotten() -> None:
    assert claim(scores(*FORGOT[:2]), "answers").verdict == "yes"
    assert claim(scores(FORGOT[0], ("recall", "forget", "unlearned", 0.2, 0.3, 0.4)), "answers").verdict == "no"
    assert claim(scores(RELEARNED[0]), "relearning").verdict == "unclear"


@pytest.mark.parametrize("state", ["degenerate", "missing_reference"])
def test_a_broken_score_carries_no_claim(state: str) -> None:
    found = scores(FORGOT[0], (*FORGOT[1], state))
    assert claim(found, "answers").verdict == "unclear"
    assert "cannot be judged" in claim(found, "answers").text


@pytest.mark.parametrize(
    ("low", "high", "word"), [(0.6, 0.8, "still looks known"), (0.1, 0.3, "less known than an unknown")]
)
def test_both_sides_of_one_half_give_the_target_away(low: float, high: float, word: str) -> None:
    after = ("knownness_auroc", "forget", "unlearned", low, (low + high) / 2, high, "ok", "residual_1@name_last")
    found = scores(*FORGOT, INSIDE[0], after)
    assert claim(found, "inside").verdict == "no"
    assert word in claim(found, "inside").text


def test_a_layer_that_told_nothing_before_tells_nothing_after() -> None:
    before = ("knownness_auroc", "forget", "base", 0.4, 0.55, 0.7, "ok", "residual_1@name_last")
    assert claim(scores(before, INSIDE[1]), "inside").verdict == "unclear"
    powerless = scores((*INSIDE[0][:6], "degenerate", INSIDE[0][7]), INSIDE[1])
    assert claim(powerless, "inside").answer == "no power"


def test_a_failing_yardstick_is_said() -> None:
    sites = ("residual_1@name_last", "residual_2@name_last")
    rows = [("knownness_auroc", "forget", "base", 0.9, 0.95, 1.0, "ok", site) for site in sites]
    rows += [("knownness_auroc", "forget", "gold", 0.0, 0.1, 0.2, "ok", site) for site in sites]
    rows += [
        ("knownness_auroc", "forget", "unlearned", low, low + 0.1, low + 0.2, "ok", site)
        for low, site in zip((0.4, 0.6), sites, strict=True)
    ]
    assert claim(scores(*rows), "inside").verdict == "unclear"
    assert "even the gold twin" in claim(scores(*rows), "inside").answer


def test_what_comes_back_was_hidden() -> None:
    found = scores(*FORGOT, *INSIDE, ("relearned_recall", "forget", "unlearned", 0.5, 0.6, 0.7), RELEARNED[1])
    assert claim(found, "relearning").verdict == "no"


def test_a_wide_interval_clears_nothing() -> None:
    found = scores(("relearned_recall", "forget", "unlearned", 0.0, 0.25, 0.5), RELEARNED[1])
    assert claim(found, "relearning").verdict == "unclear"


def test_a_loss_elsewhere_is_named() -> None:
    found = scores(*FORGOT, *INSIDE, KEPT[0], ("recall", "retain", "unlearned", 0.7, 0.8, 0.9))
    assert claim(found, "kept").verdict == "no"


def line(verdict: str, metric: str, value: float, threshold: float, **more: Any) -> Evidence:
    """A measure whose threshold is a most one."""
    given = {"measure": metric, "split": "forget", "site": "", "model": "unlearned", "decided": True} | more
    margin = given.pop("margin", threshold - value)
    state = given.pop("state", "passed" if margin >= 0 else "crossed")
    return Evidence(
        verdict=verdict, metric=metric, value=value, threshold=threshold, margin=margin, state=state, **given
    )


ANSWERS = line("not forgotten", "recall", 0.05, 0.1, decided=False)


def test_forgotten_names_the_measure_nearest_to_its_threshold() -> None:
    near = line("hidden", "attack_recall", 0.2, 0.25, measure="answers under a prompt")
    said = headline("forgotten", [replace(ANSWERS, decided=True), line("hidden", "uds", 0.9, 0.5, margin=0.4), near])
    assert said.startswith("As far as these numbers show")
    assert "each of the 3 measures" in said
    assert said.endswith("the nearest being answers under a prompt (20%, at most 25%).")


def test_hidden_says_that_it_is_silent_and_what_still_knows_the_worst_first() -> None:
    found = [
        line("hidden", "recall", 0.3, 0.25, measure="comes back under int8"),
        line("hidden", "recall", 0.9, 0.25, measure="comes back under nf4"),
    ]
    said = headline("hidden", [ANSWERS, *found])
    assert said == (
        "It no longer answers (5%), but it still knows: "
        "comes back under nf4 (90%, at most 25%) and comes back under int8 (30%, at most 25%)."
    )
    unknown = replace(ANSWERS, value=NAN, margin=NAN, state="degenerate")
    assert headline("hidden", [unknown, *found]).startswith("Whether it answers is not known, but")


def test_damaged_does_not_say_forgotten() -> None:
    lost = line("damaged", "recall", 0.4, 0.15, measure="recall lost", split="neighbours")
    still = replace(ANSWERS, value=0.8, margin=-0.7, state="crossed")
    said = headline("damaged", [lost, still])
    assert "recall lost on neighbours (40%, at most 15%)" in said
    assert "the target itself is answered 80% of the time" in said


@pytest.mark.parametrize(
    ("verdict", "each", "words"),
    [
        ("collapsed", line("collapsed", "perplexity", 300.0, 20.0, measure="perplexity"), "The model broke"),
        ("not forgotten", replace(ANSWERS, value=0.7, margin=-0.6, state="crossed", decided=True), "It still answers: recall of the target (70%, at most 10%)."),
        ("inconclusive", line("inconclusive", "recall", 0.3, 0.5, margin=-0.2), "There was nothing to forget: recall of the target by the base model (30%, at least 50%)."),
        ("inconclusive", replace(ANSWERS, value=NAN, margin=NAN, state="missing", decided=True), "Not decided: what it hangs on carries no number: recall of the target (not measured)."),
        ("inconclusive", ANSWERS, "Not decided: too little was measured"),
    ],
)  # fmt: skip
def test_the_sentence_agrees_with_the_verdict(verdict: str, each: Evidence, words: str) -> None:
    assert headline(verdict, [each]).startswith(words)


def test_gauges_show_only_what_was_scored() -> None:
    assert [gauge.title for gauge in make_gauges(scores(*FORGOT, *INSIDE))] == ["Still answers", "Looks known inside"]
    missing = scores(("recall", "forget", "unlearned", NAN, NAN, NAN, "missing_reference"))
    assert make_gauges(missing) == []


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0%"),
        (0.001, "<1%"),
        (0.004, "<1%"),
        (0.5, "50%"),
        (0.996, ">99%"),
        (1.0, "100%"),
        (NAN, "–"),
        (-0.2, "−20%"),
        (-0.001, "0%"),
    ],
)
def test_a_percentage_is_not_rounded_to_all_or_nothing(value: float, shown: str) -> None:
    assert percent(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (0.12345, "0.123"),
        (21.234, "21.2"),
        (-1.5, "−1.50"),
        (12345.6, "12346"),
        (0.00001, "1.0e−05"),
        (NAN, "–"),
    ],
)
def test_numbers_are_short(value: float, shown: str) -> None:
    assert number(value) == shown


def test_a_set_of_questions_is_no_place_in_the_network() -> None:
    assert is_place("residual_1@prompt_last")
    assert not is_place("prefix_injection")
    assert site_words("residual_1@prompt_last") == "layer 1, last token of the prompt"
    assert site_words("residual_1@name_last:margin") == "layer 1, last token of the name, margin"
    assert site_words("prefix_injection") == "prefix injection"
    assert site_words("paraphrase") == "unseen wordings"
    sites = ["any", "role_play", "cloze", "alias", "paraphrase"]
    assert sorted(sites, key=site_order) == ["paraphrase", "cloze", "alias", "role_play", "any"]
