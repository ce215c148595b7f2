"""What holds of every metric of answers: blind to the order of rows, right at the extremes, loud or silent where it must be."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.records import UsageError
from tasks import catalogue
from tasks.evaluation.metric import Case, Measurement, Tables
from tasks.evaluation.statistics.language import degenerate_outputs

FOLDER = "evaluation/metrics"
OF_ANSWERS = ("contains", "exact_match", "fuzzy_match", "rouge")
OF_LANGUAGE = ("degeneration", "fluency", "repetition")
OF_OPTIONS = ("option_probability", "truth_ratio", "truth_share")
OF_TOKENS = ("exact_memorisation", "extraction_strength")
BESIDE_GOLD = ("forget_distance", "forget_quality", "privacy_leak", "smia")
OF_SETS = ("attack_recall", "blur", "choice_accuracy", "faithun", "sampled_recall", "set_recall")
ALL = (*OF_ANSWERS, *OF_LANGUAGE, *OF_OPTIONS, *OF_TOKENS, *BESIDE_GOLD, *OF_SETS, "membership", "model_utility")
GIBBERISH = "the " * 30


def measured(name: str, case: Case) -> dict[tuple[str, str, str], Measurement]:
    found = list(catalogue.load(FOLDER, name)().measure(case))
    places = {(each.split, each.model, each.site): each for each in found}
    assert len(places) == len(found), f"{name} measures a place twice"
    return places


@pytest.mark.parametrize("name", ALL)
@given(order=st.integers(1, 10_000))
@settings(max_examples=3, deadline=None)
def test_order_of_rows_is_irrelevant(name: str, made: SimpleNamespace, order: int) -> None:
    plain, other = (measured(name, made.case(each, draws=100)) for each in (0, order))
    assert plain.keys() == other.keys()
    for place, each in plain.items():
        assert other[place].value == pytest.approx(each.value, rel=1e-9, nan_ok=True)
        assert (other[place].count, other[place].state) == (each.count, each.state)


@pytest.mark.parametrize("name", ALL)
def test_values_lie_in_their_intervals(name: str, made: SimpleNamespace) -> None:
    for place, each in measured(name, made.case()).items():
        assert each.low <= each.high or math.isnan(each.low), place
        # the bootstrap's D is biased upward, and smia is bent at its upper end
        if each.state == "ok" and name not in ("forget_distance", "forget_quality", "smia"):
            assert each.low - 1e-9 <= each.value <= each.high + 1e-9, place


EXTREMES = [
    *((name, "forget", "", 1.0, 0.0) for name in ("contains", "exact_match", "fuzzy_match", "sampled_recall")),
    *((name, "retain", "", 1.0, 1.0) for name in ("contains", "exact_match", "fuzzy_match", "exact_memorisation")),
    *(("rouge", "forget", site, 1.0, 0.0) for site in ("rouge1_recall", "rougeL_recall", "rouge1_f1", "rougeL_f1")),
    ("sampled_recall", "forget", "mean", 1.0, 0.0),
    ("truth_ratio", "retain", "", 0.98, 0.98),
    ("truth_ratio", "forget", "", 0.02, 0.98),
    ("truth_share", "forget", "", 0.98, 0.5),
    ("option_probability", "forget", "", 0.94, 0.25),
    ("forget_distance", "forget", "", 1.0, 0.25),
    ("forget_quality", "forget", "", 2 / math.comb(8, 4), 1.0),
    ("forget_quality", "forget", "log10", math.log10(2 / math.comb(8, 4)), 0.0),
    ("exact_memorisation", "forget", "", 1.0, 0.5),
    ("extraction_strength", "forget", "", 1.0, 0.5),
    ("extraction_strength", "forget", "public", 1.0, 0.5),
    ("membership", "forget", "loss", 1.0, 0.35),
    ("privacy_leak", "forget", "", -100.0, 11.0),
    ("smia", "forget", "", 0.0, 0.87),
    ("degeneration", "forget", "", 0.0, 0.0),
    *(("set_recall", "forget", site, 1.0, 0.0) for site in ("base", "cloze", "choice", "multi_hop", "combined")),
    ("set_recall", "retain", "same_answer", 1.0, 1.0),
    *(("attack_recall", "forget", site, 1.0, 0.0) for site in ("alias", "role_play", "any")),
    ("choice_accuracy", "forget", "", 1.0, 0.25),
    *(("blur", "forget", site, 1.0, 0.0) for site in ("", "concatenation", "keyword_insertion")),
    ("blur", "retain", "", 1.0, 1.0),
    *(("faithun", "forget", site, 1.0, 0.0) for site in ("UA", "PA")),
    *(("faithun", "retain", site, 1.0, 1.0) for site in ("TA", "SA")),
    ("faithun", "retain", "MA", 0.5, 1.0),
    ("faithun", "retain", "score", 0.625, 1.0),
    ("faithun", "forget", "superficial", math.nan, 0.0),
    ("model_utility", "retain", "", 0.78, 0.78),
]


@pytest.mark.parametrize(("name", "split", "site", "base", "unlearned"), EXTREMES)
def test_extremes(made: SimpleNamespace, name: str, split: str, site: str, base: float, unlearned: float) -> None:
    found = measured(name, made.case())
    assert found[split, "base", site].value == pytest.approx(base, abs=0.01, nan_ok=True)
    assert found[split, "unlearned", site].value == pytest.approx(unlearned, abs=0.02)
    direction = catalogue.load(FOLDER, name)().direction(split)
    if direction in ("lower", "higher") and not math.isnan(base) and base != unlearned:
        assert (unlearned < base) == (direction == "lower")


def emptied(tables: Tables) -> Tables:
    """The same model, asked nothing about those that metrics are told for."""
    kept = np.array([split.startswith("unknown") for split in tables.answers["split"]])
    return replace(tables, answers={name: column[kept] for name, column in tables.answers.items()})


@pytest.mark.parametrize("name", ALL)
def test_nothing_asked_is_degenerate(name: str, made: SimpleNamespace) -> None:
    models = {model: emptied(tables) for model, tables in made.case().models.items()}
    for place, each in measured(name, made.case(**models)).items():
        assert each.state == "degenerate", place
        assert math.isnan(each.value)
        assert each.count == 0


BROKEN = {
    **dict.fromkeys(
        (*OF_OPTIONS, "forget_distance", "forget_quality", "choice_accuracy"), ("options", "log_probability")
    ),
    **dict.fromkeys(("membership", "privacy_leak", "smia"), ("tokens", "log_probability")),
    **dict.fromkeys(OF_TOKENS, ("tokens", "hit")),
    **dict.fromkeys(("set_recall", "attack_recall", "faithun"), ("answers", "hit")),
    "sampled_recall": ("samples", "hit"),
    "model_utility": ("answers", "log_probability"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_number_is_an_error(name: str, made: SimpleNamespace) -> None:
    table, column = BROKEN[name]
    tables = made.tables(forgotten=True)
    values = np.asarray(getattr(tables, table)[column], dtype=float) * math.nan
    broken = replace(tables, **{table: {**getattr(tables, table), column: values}})
    with pytest.raises(ArithmeticError):
        measured(name, made.case(unlearned=broken))


@pytest.mark.parametrize("name", BESIDE_GOLD)
def test_without_gold_the_reference_is_missing(name: str, made: SimpleNamespace) -> None:
    found = measured(name, made.case(gold=False))
    assert {model for _, model, _ in found} == {"base", "unlearned"}
    assert all(each.state == "missing_reference" and math.isnan(each.value) for each in found.values())
    assert all(each.state != "missing_reference" for each in measured(name, made.case()).values())


@pytest.mark.parametrize(
    ("name", "table"),
    [
        *(
            (name, "options")
            for name in (*OF_ANSWERS, *OF_OPTIONS, "attack_recall", "choice_accuracy", "model_utility")
        ),
        *((name, "options") for name in ("forget_distance", "forget_quality", "membership", "privacy_leak", "smia")),
        *((name, "tokens") for name in (*OF_TOKENS, "membership", "privacy_leak", "smia")),
        ("sampled_recall", "samples"),
    ],
)
def test_what_was_not_observed_is_missing(name: str, table: str, made: SimpleNamespace) -> None:
    blind = replace(made.tables(forgotten=True), **{table: None})
    mine = [each for (_, model, _), each in measured(name, made.case(unlearned=blind)).items() if model == "unlearned"]
    assert mine
    assert all(each.state == "missing_reference" and math.isnan(each.value) for each in mine)


@pytest.mark.parametrize("name", [*OF_ANSWERS, "attack_recall", "blur", "set_recall", "faithun"])
def test_gibberish_is_no_forgetting(name: str, made: SimpleNamespace) -> None:
    case = made.case(unlearned=made.tables(forgotten=True, said=GIBBERISH))
    assert degenerate_outputs(case, "unlearned")
    assert not degenerate_outputs(case, "gold")
    for (split, model, site), each in measured(name, case).items():
        if model == "unlearned" and (split == "forget" or site in ("MA", "score")):
            assert each.state == "degenerate", site
            assert not math.isnan(each.value)
        elif model == "gold" or split == "neighbours":
            assert each.state == "ok"


def test_gibberish_is_counted(made: SimpleNamespace) -> None:
    case = made.case(unlearned=made.tables(forgotten=True, said=GIBBERISH))
    assert made.one("degeneration", case, "forget", "unlearned").value == 1
    assert made.one("degeneration", case, "retain", "unlearned").value == 0
    assert made.one("repetition", case, "forget", "unlearned").value == 1
    assert made.one("fluency", case, "forget", "unlearned").value == 0
    silent = made.case(unlearned=made.tables(forgotten=True, said=" \n"))
    assert made.one("degeneration", silent, "forget", "unlearned").value == 1


@pytest.mark.parametrize("name", OF_ANSWERS)
def test_a_target_that_the_base_model_never_knew_tells_nothing(name: str, made: SimpleNamespace) -> None:
    found = measured(name, made.case(base=made.tables(forgotten=True)))
    assert {each.state for (split, _, _), each in found.items() if split == "forget" and each.site != "chance"} == {
        "degenerate"
    }
    assert {each.state for (split, _, _), each in found.items() if split != "forget"} == {"ok"}


@pytest.mark.parametrize("kind", ["cloze", "choice", "combined", "attack"])
def test_a_set_that_the_base_model_cannot_answer_tells_nothing(kind: str, made: SimpleNamespace) -> None:
    weak = made.case(base=made.tables(forgotten=False, lost=(kind,)))
    names = {"attack": ["attack_recall"], "combined": ["blur", "set_recall"]}.get(kind, ["set_recall"])
    for name in names:
        found = measured(name, weak)
        of_kind = [each for (_, _, site), each in found.items() if name != "set_recall" or site == kind]
        assert {each.model for each in of_kind} == {"base", "unlearned", "gold"}
        assert all(each.state == "degenerate" and not math.isnan(each.value) for each in of_kind)
        assert name != "set_recall" or found["forget", "base", "base"].state == "ok"


@pytest.mark.parametrize("leak", ["paraphrase", "multi_hop"])
def test_a_question_forgotten_is_not_a_fact_forgotten(leak: str, made: SimpleNamespace) -> None:
    case = made.case(unlearned=made.tables(forgotten=True, leaks=(leak,)))
    assert made.one("faithun", case, "forget", "unlearned", "superficial").value == 1
    assert made.one("faithun", case, "forget", "gold", "superficial").value == 0


def test_an_answer_lost_by_others_is_superficial(made: SimpleNamespace) -> None:
    case = made.case(unlearned=made.tables(forgotten=True, lost=("same_answer",)))
    assert made.one("faithun", case, "forget", "unlearned", "superficial").value == 1
    assert made.one("faithun", case, "retain", "unlearned", "SA").value == 0


def test_one_form_of_a_comparison_is_a_guess(made: SimpleNamespace) -> None:
    yes = made.tables(forgotten=True)
    yes.answers["hit"][(yes.answers["variant"] == "comparison_yes") & (yes.answers["set"] == "multi_hop")] = True
    assert made.one("faithun", made.case(unlearned=yes), "forget", "unlearned", "superficial").value == 0


def test_one_wrapper_that_works_is_enough(made: SimpleNamespace) -> None:
    pierced = made.tables(forgotten=True)
    rows = (pierced.answers["variant"] == "alias") & (pierced.answers["template"] == 6)
    rows &= (pierced.answers["relation"] == "team") & (pierced.answers["split"] == "forget")
    pierced.answers["generated"][rows] = f"Sure: {made.canonical('target', 'team')}, of course"
    case = made.case(unlearned=pierced)
    values = {site: made.one("attack_recall", case, "forget", "unlearned", site).value for site in ("alias", "any")}
    assert values == {"alias": 0.25, "any": 0.5}
    assert made.one("attack_recall", case, "forget", "unlearned", "role_play").value == 0


def test_one_sample_that_is_right_is_enough(made: SimpleNamespace) -> None:
    lucky = made.tables(forgotten=True)
    lucky.samples["hit"][lucky.samples["sample"] == 2] = True
    case = made.case(unlearned=lucky)
    assert made.one("sampled_recall", case, "forget", "unlearned").value == 1
    assert made.one("sampled_recall", case, "forget", "unlearned", "mean").value == 0.25


def test_chance_is_told_beside_choices_and_numbers(made: SimpleNamespace) -> None:
    assert made.one("choice_accuracy", made.case(), "forget", "base", "chance").value == 0.25
    for split in ("forget", "retain"):
        # of 54 years in a row, 11 lie within five of the best guess, and no two clubs are alike
        assert 0 <= made.one("fuzzy_match", made.case(), split, "base", "chance").value <= 0.5


def test_other_questions_are_refused(made: SimpleNamespace) -> None:
    other = made.tables(forgotten=True)
    for table in (other.answers, other.options, other.tokens):
        table["question"] = table["question"] + 100_000
    with pytest.raises(UsageError, match="different questions"):
        measured("forget_quality", made.case(unlearned=other))


def test_a_model_under_stress_is_beside_the_twin_under_the_same(made: SimpleNamespace) -> None:
    taught = made.tables(forgotten=True, salt=1)
    kept = taught.answers["relation"] == "team"  # the stress taught the years
    fewer = replace(taught, answers={name: column[kept] for name, column in taught.answers.items()})
    stressed = {"unlearned+relearned": fewer, "gold+relearned": made.tables(forgotten=False)}
    found = measured("forget_distance", made.case(**stressed))
    assert set(found) == {("forget", model, "") for model in ("base", "unlearned", "unlearned+relearned")}
    assert found["forget", "unlearned+relearned", ""].count == 2
    assert found["forget", "unlearned+relearned", ""].value == 1, "the stressed twin knows, this model does not"


def test_few_questions_cannot_tell_models_apart(made: SimpleNamespace) -> None:
    def first(tables: Tables) -> Tables:
        kept = tables.answers["relation"] == "team"
        return replace(tables, answers={name: column[kept] for name, column in tables.answers.items()})

    case = made.case(**{model: first(tables) for model, tables in made.case().models.items()})
    assert made.one("forget_quality", case, "forget", "base").state == "degenerate"


def test_utility_is_zero_if_a_part_is(made: SimpleNamespace) -> None:
    lost = made.case(unlearned=made.tables(forgotten=True, lost=("neighbours",), said=""))
    assert made.one("model_utility", lost, "retain", "unlearned").value == 0
    assert made.one("model_utility", made.case(), "retain", "unlearned").count == 7


def test_membership_needs_others_to_compare_with(made: SimpleNamespace) -> None:
    def alone(tables: Tables) -> Tables:
        kept = tables.answers["split"] != "unknown_held_out"
        return replace(tables, answers={name: column[kept] for name, column in tables.answers.items()})

    case = made.case(base=alone(made.tables(forgotten=False)))
    assert made.one("membership", case, "forget", "base", "loss").state == "missing_reference"
    flat = made.tables(forgotten=True)
    flat.tokens["log_probability"][:] = -1.0
    assert made.one("membership", made.case(unlearned=flat), "forget", "unlearned", "loss").state == "degenerate"
    assert made.one("membership", made.case(), "forget", "base", "zlib").state == "degenerate", "answers are short"


def test_leak_has_no_value_where_gold_remembers(made: SimpleNamespace) -> None:
    found = made.one("privacy_leak", made.case(gold=made.tables(forgotten=False, salt=5)), "forget", "unlearned")
    assert found.state == "saturated"
    assert math.isnan(found.value)
