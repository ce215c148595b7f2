"""The verdict's evidence in words: no more than its states allow, and never the other way round."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.report.evidence import Evidence, caveats, listed, read_evidence, weighed
from tasks.report.scoring import Scores

NAMES = ("metric", "split", "site", "model", "value", "low", "high", "count", "better", "state")
NONE = Scores({name: [] for name in NAMES})


def evidence(
    verdict: str,
    measure: str,
    metric: str,
    value: float,
    threshold: float,
    state: str = "",
    *,
    least: bool = False,
    **more: Any,
) -> Evidence:
    """A line of the table; its state follows from its numbers unless it is given."""
    margin = value - threshold if least else threshold - value
    given = {"split": "forget", "site": "", "model": "unlearned", "decided": False} | more
    known = state or ("passed" if margin >= 0 else "crossed")
    return Evidence(verdict, measure, metric, given["split"], given["site"], given["model"], value, threshold, margin, known,
                    given["decided"])  # fmt: skip


RECALL = evidence("not forgotten", "the target's questions answered", "recall", 0.05, 0.1)
UDS = evidence("hidden", "answer erased from its states", "uds", 0.3, 0.5, least=True)
NF4 = evidence("hidden", "comes back under nf4", "recall", 0.6, 0.25, model="unlearned+nf4", decided=True)


def scored(*rows: tuple[Any, ...]) -> Scores:
    return Scores(dict(zip(NAMES, map(list, zip(*rows, strict=True)), strict=True)))


@pytest.mark.parametrize(
    ("each", "phrase"),
    [
        (RECALL, "recall of the target (5%, at most 10%)"),
        (UDS, "share of the answer erased from its states, as in the gold twin (0.30, at least 0.50)"),
        (NF4, "comes back under nf4 (60%, at most 25%)"),
        (evidence("damaged", "recall lost", "recall", -0.02, 0.05, split="retain"), "recall lost on other known entities (−2%, at most 5%)"),
        (evidence("collapsed", "perplexity, over the base model's", "perplexity", 1e6, 20.0, split="general"), "perplexity, over the base model's (1e+06×, at most 20×)"),
        (evidence("hidden", "looks known inside", "knownness_auroc", float("nan"), 0.75, "degenerate"), "looks known inside (carries no information)"),
        (evidence("hidden", "answers under the prompt role_play", "attack_recall", float("nan"), 0.25, "another_state", site="role_play"), "answers under the prompt role play (another_state)"),
        (evidence("collapsed", "others are still known", "recall", 0.2, 0.2, least=True, split="retain"), "recall of other known entities (20%, at least 20%)"),
        (evidence("not forgotten", "the target's questions answered", "recall", 0.1, 0.1), "recall of the target (10%, at most 10%)"),
    ],
)  # fmt: skip
def test_a_measure_in_a_sentence(each: Evidence, phrase: str) -> None:
    assert each.phrase == phrase


def test_what_decides_nothing_is_said_with_its_reason() -> None:
    silent = evidence("hidden", "looks known inside", "knownness_auroc", float("nan"), 0.75, "missing_reference")
    said = caveats([RECALL, silent, NF4], NONE)
    assert "1 of 3 measures decides nothing: looks known inside (nothing to compare it with)." in said
    assert "Nothing that counts was measured inside the model." in said
    assert "under stress" not in said


def test_a_saturated_measure_is_said() -> None:
    row = ("recall", "forget", "", "unlearned", 0.05, 0.0, 0.1, 8, "lower", "saturated")
    assert "floor or ceiling" in caveats([RECALL, UDS, NF4], scored(row))
    assert caveats([RECALL, UDS, NF4], NONE) == ""


def test_an_interval_across_the_threshold_is_a_remark() -> None:
    across = scored(("recall", "forget", "", "unlearned", 0.05, 0.0, 0.2, 8, "lower", "ok"))
    clear = scored(("recall", "forget", "", "unlearned", 0.05, 0.0, 0.09, 8, "lower", "ok"))
    derived = scored(("recall", "forget", "", "unlearned", 0.5, 0.0, 0.9, 8, "lower", "ok"))
    remarks = [weighed([RECALL], found)[0][2][0].remark for found in (across, clear, derived)]
    assert remarks == ["its interval reaches across", "", ""]


def test_the_table_goes_by_verdict_with_what_decided_first() -> None:
    table = weighed([UDS, NF4, RECALL, evidence("one of yours", "b", "c", 1.0, 0.5)], NONE)
    assert [verdict for verdict, _, _ in table] == ["not forgotten", "hidden", "one of yours"]
    lines = table[1][2]
    assert [line.each.metric for line in lines] == ["recall", "uds"]
    assert lines[0].where == "the targets · after, 4-bit weights"
    assert (lines[0].distance, lines[0].outcome) == ("35 points", "crossed")
    assert (lines[1].distance, lines[1].scale) == ("0.20", (0.3, 0.5))


def test_a_measure_without_a_number_has_no_scale_and_no_distance() -> None:
    silent = evidence("hidden", "looks known inside", "knownness_auroc", float("nan"), 0.75, "missing")
    line = weighed([silent], NONE)[0][2][0]
    assert (line.scale, line.distance, line.outcome) == (None, "", "not measured")
    assert silent.bound == ""


def test_a_row_of_the_table_is_read_as_it_was_written() -> None:
    columns = {name: [getattr(NF4, name)] for name in vars(NF4)}
    assert read_evidence(columns) == [NF4]


@pytest.mark.parametrize(
    ("items", "text"), [([], ""), (["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c", "d"], "a, b, c and 1 more")]
)
def test_a_list_is_short(items: list[str], text: str) -> None:
    assert listed(items) == text
