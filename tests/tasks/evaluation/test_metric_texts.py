"""What metrics make of texts: overlap, matches and whether it is language at all, by hand and for any input."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.answers import matching
from tasks.evaluation.statistics import language
from tasks.evaluation.statistics.porter import stem
from tasks.evaluation.statistics.rouge import longest_common_subsequence, rouge, rouge_of_words, words

SENTENCES = st.lists(st.sampled_from(["a", "b", "c", "d", "e"]), max_size=9)
QUICK = settings(max_examples=60, deadline=None)


STEMS = """
    caresses:caress ponies:poni ties:tie flies:fli cats:cat feed:feed agreed:agre plastered:plaster bled:bled
    motoring:motor sing:sing conflated:conflat troubled:troubl sized:size hopping:hop falling:fall hissing:hiss
    fizzed:fizz failing:fail filing:file happy:happi sky:sky says:say enjoy:enjoy relational:relat
    conditional:condit rational:ration valenci:valenc digitizer:digit conformabli:conform radicalli:radic
    vileli:vile analogousli:analog vietnamization:vietnam predication:predic operator:oper feudalism:feudal
    decisiveness:decis hopefulness:hope callousness:callous formaliti:formal sensitiviti:sensit
    sensibiliti:sensibl hopefully:hope geology:geolog triplicate:triplic formative:form formalize:formal
    electriciti:electr electrical:electr goodness:good revival:reviv allowance:allow inference:infer
    airliner:airlin gyroscopic:gyroscop adjustable:adjust defensible:defens irritant:irrit replacement:replac
    adjustment:adjust dependent:depend adoption:adopt communism:commun activate:activ angulariti:angular
    homologous:homolog effective:effect bowdlerize:bowdler probate:probat rate:rate cease:ceas controll:control
    roll:roll dying:die news:news proceed:proceed innings:inning denied:deni died:die dies:die yes:ye by:by
    generalizations:gener oscillators:oscil ideology:ideolog unity:uniti 1990s:1990 basketball:basketbal
"""


@pytest.mark.parametrize(("word", "expected"), [pair.split(":") for pair in STEMS.split()])
def test_stems_are_those_of_nltk(word: str, expected: str) -> None:
    assert stem(word) == expected


def test_words_are_lower_case_parted_and_stemmed() -> None:
    assert words("The Runners' running—quickly, in 1990s style!") == [
        "the", "runner", "run", "quickli", "in", "1990", "style",
    ]  # fmt: skip
    assert words("flies dies cats ties") == ["fli", "die", "cat", "tie"], "four letters are stemmed, three are not"
    assert words("gas was his") == ["gas", "was", "his"]
    assert words("Ślęza") == ["l", "za"], "letters beyond a-z part words, as in the source"
    assert words("東京") == []


def test_rouge_by_hand() -> None:
    found = rouge("the cat sat on the mat", "on the mat the cat slept")
    assert found.recall_1 == pytest.approx(5 / 6)
    assert found.recall_l == pytest.approx(3 / 6)
    assert found.f1_1 == pytest.approx(10 / 12)
    assert found.f1_l == pytest.approx(6 / 12)


def test_recall_is_of_the_reference() -> None:
    assert rouge("Paris", "Paris or London or Rome").recall_l == 1
    assert rouge("Paris or London or Rome", "Paris").recall_l == pytest.approx(1 / 5)
    assert rouge("Paris", "Paris or London or Rome").f1_l == pytest.approx(2 / 6)
    assert rouge("", "anything").recall_1 == rouge("anything", "").recall_l == 0


@given(SENTENCES, SENTENCES)
@QUICK
def test_rouge_is_bounded_and_agrees_on_equal_texts(first: list[str], second: list[str]) -> None:
    found = rouge_of_words(first, second)
    assert 0 <= found.recall_l <= found.recall_1 <= 1
    assert 0 <= found.f1_l <= found.f1_1 <= 1
    length = longest_common_subsequence(first, second)
    assert length == longest_common_subsequence(second, first) == longest_common_subsequence(first[::-1], second[::-1])
    assert longest_common_subsequence(first, first) == len(first)
    assert longest_common_subsequence(first, first + second) == len(first)


@pytest.mark.parametrize(
    ("said", "accepted", "exact", "contains", "fuzzy"),
    [
        ("The New  York Knicks.", ["New York Knicks"], True, True, True),
        ("New York Knicks\nand more", ["New York Knicks"], True, True, True),
        ("it was the Knicks, I think", ["Knicks"], False, True, True),
        ("Knickss", ["Knicks"], False, False, True),
        ("ＮＢＡ", ["nba"], True, True, True),
        ("Boston Celtics", ["Knicks", "Boston Celtics"], True, True, True),
        ("Parisian", ["Paris"], False, False, False),
        ("", ["Paris"], False, False, False),
        ("...", ["Paris", "!"], False, False, False),
        ("Rome", ["Paris"], False, False, False),
    ],
)
def test_matching(said: str, accepted: list[str], exact: bool, contains: bool, fuzzy: bool) -> None:
    assert matching.exact(said, accepted) is exact
    assert matching.contains(said, accepted) is contains
    assert matching.fuzzy(said, accepted) is fuzzy


@pytest.mark.parametrize(
    ("relation", "said", "right"),
    [
        ("year_of_birth", "in 1985, I think", True),
        ("year_of_birth", "1986", False),
        ("year_of_birth", "1974-1975 or so", True),
        ("year_of_birth", "no idea", False),
        ("release_year", "1982", True),
        ("release_year", "1983", False),
        ("song_year", "1981", False),
        ("duration_min", "1983", True),
        ("elevation_m", "2,000 m", True),
        ("elevation_m", "2001", False),
        ("population", "2178", True),
        ("population", "2179", False),
        ("team", "1981", False),
    ],
)
def test_numbers_may_be_off_by_their_tolerance(relation: str, said: str, right: bool) -> None:
    assert matching.fuzzy(said, ["1980"], relation) is right


def test_integers_of_a_text() -> None:
    assert matching.integers("-5 to 1,234,567 and 12,34 in 1977-1980; −40 °C, x2") == [-5, 1234567, 12, 34, 1977, 1980, -40, 2]  # fmt: skip


def test_constant_guess_is_the_one_that_fits_most() -> None:
    years = [[str(1970 + offset)] for offset in range(20)]
    guess, rate = matching.constant_guess(years, "year_of_birth")
    assert rate == 11 / 20
    assert 1975 <= int(guess) <= 1984
    assert matching.constant_guess([["Drama", "drama film"], ["Comedy"], ["the drama"]], "genre") == ("drama", 2 / 3)
    assert matching.constant_guess([], "genre") == ("", 0.0)


@given(st.text(max_size=12), st.text(max_size=12))
@QUICK
def test_an_exact_match_is_contained_and_near(said: str, answer: str) -> None:
    if matching.exact(said, [answer]):
        assert matching.contains(said, [answer])
        assert matching.fuzzy(said, [answer])
    if matching.normalise(answer) and answer.strip() and "\n" not in answer and len(answer.splitlines()) == 1:
        assert matching.exact(answer, [answer])


def test_fluency_is_the_entropy_of_what_is_said() -> None:
    different = " ".join(f"word{i}" for i in range(33))
    assert language.fluency(different) == pytest.approx((2 / 3 * 5 + 4 / 3 * math.log2(31)) / 2)
    assert language.fluency("the " * 33) == 0
    assert math.isnan(language.fluency("too short to tell"))


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("a b c d", 0.0),
        ("a a a a", 1.0),
        ("a b a b", 1.0),
        ("x a b c a b c", 6 / 7),
        ("a b c a", 0.0),
        ("x y y z", 0.5),
        ("", 0.0),
    ],
)
def test_repetition_is_the_longest_run_of_a_cycle(text: str, share: float) -> None:
    assert language.repetition(text.split()) == pytest.approx(share)


@pytest.mark.parametrize(
    ("text", "flag"),
    [
        ("Paris", False), ("no no", False), ("1985", False), ("I do not know", False), ("very very very very", False),
        ("He was born in Rome and lived there for years", False),
        ("", True), ("  \n", True), ("?!...", True), ("the " * 8, True), ("Rome is Rome is Rome is Rome is", True),
    ],
)  # fmt: skip
def test_broken_output(text: str, flag: bool) -> None:
    assert language.broken(text) is flag


@given(st.lists(st.sampled_from(["a", "b"]), min_size=2, max_size=10))
@QUICK
def test_repetition_is_its_definition(said: list[str]) -> None:
    longest = 0
    for start in range(len(said)):
        for end in range(start + 2, len(said) + 1):
            run = said[start:end]
            periods = range(1, len(run) // 2 + 1)
            if any(all(run[i] == run[i - period] for i in range(period, len(run))) for period in periods):
                longest = max(longest, len(run))
    assert language.repetition(said) == pytest.approx(longest / len(said))
