"""The measures beside their thresholds, on which the verdict rests, and the words for them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.report.scoring import MODELS, SHARES, SPLITS, STATES, Scores, percent, plain_words, site_words, stress_words

MEANINGS = {
    "inconclusive": "nothing to forget, or too little was measured",
    "collapsed": "the model broke",
    "not forgotten": "it still answers",
    "damaged": "what was to stay suffered",
    "hidden": "it is silent, and still knows",
}
"""Verdict that a measure speaks for where it crosses its threshold -> what that means, in the order of deciding."""

OUTCOMES = {"passed": "within", "crossed": "crossed"}
UNDECIDED = {
    "missing": "not measured",
    "degenerate": "carries no information",
    "missing_reference": "nothing to compare it with",
}
"""Why a measure decides nothing."""


@dataclass(frozen=True)
class Evidence:
    """One line of `verdict.parquet`: a measure beside its threshold."""

    verdict: str
    """What it speaks for where it crosses its threshold."""
    measure: str
    metric: str
    split: str
    site: str
    model: str
    value: float
    threshold: float
    margin: float
    """How far the value is on the good side; negative beyond the threshold."""
    state: str
    """`passed`, `crossed`, or why it decides nothing."""
    decided: bool

    @property
    def counts(self) -> bool:
        """Whether it may decide at all."""
        return self.state in OUTCOMES

    @property
    def bound(self) -> str:
        """Which side of the threshold is the good one: `at most`, `at least`, or nothing where there is no number."""
        if not self.counts:
            return ""
        if self.margin == 0:
            return "at least" if (self.verdict, self.metric) in _AT_LEAST else "at most"
        return "at most" if (self.value <= self.threshold) == (self.margin >= 0) else "at least"

    @property
    def badness(self) -> float:
        """How far beyond its threshold, comparable between measures; negative on the good side."""
        return -self.margin / max(self.threshold, 1.0)

    @property
    def words(self) -> str:
        """What was measured, and on whom where the measure does not say so itself."""
        if said := _CROSSED_WORDS.get((self.verdict, self.metric)):
            return said + BEYOND if self.measure.endswith(BEYOND) else said
        on = {"neighbours": "neighbours", "retain": "other known entities"}.get(self.split, "")
        said = plain_words(self.measure)
        return f"{said} on {on}" if on else said

    @property
    def phrase(self) -> str:
        """What was measured, with value and threshold, for a sentence."""
        if not self.counts:
            return f"{self.words} ({why_not(self.state)})"
        return f"{self.words} ({self.shown(self.value)}, {self.bound} {self.shown(self.threshold)})"

    def shown(self, value: float) -> str:
        """A value in the measure's own unit."""
        if not math.isfinite(value):
            return "–"
        if self.metric in SHARES:
            return percent(value)
        if self.metric == "perplexity":
            return f"{value:.3g}×" if value < 100 else f"{value:.0f}×" if value < 1e5 else f"{value:.0e}×"
        return f"{value:.2f}".replace("-", "\u2212")


BEYOND = ", beyond the gold twin"
"""How a measure ends that counts what is beyond the twin's own."""
_CROSSED_WORDS = {
    ("inconclusive", "recall"): "recall of the target by the base model",
    ("collapsed", "recall"): "recall of other known entities",
    ("hidden", "uds"): "share of the answer erased from its states, as in the gold twin",
    ("hidden", "uds_null"): "share of the answer erased from its states, as for an unknown entity",
    ("not forgotten", "recall"): "recall of the target",
}
"""Where the measure's own words say what should hold, which a sentence about its failing cannot use."""

_AT_LEAST = frozenset(_CROSSED_WORDS) - {("not forgotten", "recall")}
"""Measures whose threshold is a least one; elsewhere a value that lies on it does not say."""


def read_evidence(columns: Mapping[str, Any]) -> list[Evidence]:
    """The rows of `verdict.parquet`, in the order in which verdicts are tried."""
    names = (
        "verdict",
        "measure",
        "metric",
        "split",
        "site",
        "model",
        "value",
        "threshold",
        "margin",
        "state",
        "decided",
    )
    rows = [
        Evidence(str(v), str(w), str(m), str(s), str(i), str(d), float(x), float(y), float(far), str(t), bool(c))
        for v, w, m, s, i, d, x, y, far, t, c in zip(*(columns[name] for name in names), strict=True)
    ]
    order = list(MEANINGS)
    return sorted(rows, key=lambda row: order.index(row.verdict) if row.verdict in order else len(order))


def why_not(state: str) -> str:
    """Why a measure decides nothing, in words."""
    return UNDECIDED.get(state, state)


def caveats(evidence: Sequence[Evidence], scores: Scores) -> str:
    """What the verdict could not rest on: measures without a number, at a floor, or never taken; empty where there are none."""
    found = []
    silent = [each for each in evidence if not each.counts]
    if silent:
        many = "decide" if len(silent) > 1 else "decides"
        found.append(
            f"{len(silent)} of {len(evidence)} measures {many} nothing: {listed(each.phrase for each in silent)}."
        )
    flat = [each for each in evidence if each.counts and _row_state(each, scores) == "saturated"]
    if flat:
        found.append(f"{STATES['saturated'].capitalize()}: {listed(each.words for each in flat)}.")
    for kind, belongs in (("inside the model", _is_inside), ("under stress", _is_stress)):
        if not any(belongs(each) and each.counts for each in evidence):
            found.append(f"Nothing that counts was measured {kind}.")
    return " ".join(found)


def listed(items: Iterable[str], most: int = 3) -> str:
    """The first few items of a list, and how many there are beside."""
    texts = list(items)
    shown, rest = texts[:most], len(texts) - most
    if rest > 0:
        return f"{', '.join(shown)} and {rest} more"
    return ", ".join(shown[:-1]) + (" and " if len(shown) > 1 else "") + "".join(shown[-1:])


@dataclass(frozen=True)
class Weighed:
    """One line of the table of evidence."""

    each: Evidence
    measure: str
    where: str
    outcome: str
    distance: str
    remark: str
    scale: tuple[float, float] | None
    """Value and threshold as shares of the width of a scale."""


def weighed(evidence: Sequence[Evidence], scores: Scores) -> list[tuple[str, str, list[Weighed]]]:
    """(verdict, its meaning, the measures that speak for it), deciding measures first."""
    table: dict[str, list[Weighed]] = {}
    for each in sorted(evidence, key=lambda each: not each.decided):
        table.setdefault(each.verdict, []).append(_weigh(each, scores))
    order = [*MEANINGS, *(verdict for verdict in table if verdict not in MEANINGS)]
    return [(verdict, MEANINGS.get(verdict, ""), table[verdict]) for verdict in order if verdict in table]


def _weigh(each: Evidence, scores: Scores) -> Weighed:
    row = scores.get(each.metric, each.split, each.model, each.site)
    remark = ""
    if each.counts and row is not None:
        if row.judged and math.isclose(row.value, each.value, abs_tol=1e-9) and row.low <= each.threshold <= row.high:
            remark = "its interval reaches across"
        if row.state == "saturated":
            remark = "; ".join(filter(None, (remark, "at a floor or ceiling")))
    scale = None
    if each.counts:
        width = 1.0 if each.threshold <= 1 else 2 * each.threshold
        scale = (min(max(each.value / width, 0.0), 1.0), min(max(each.threshold / width, 0.0), 1.0))
    distance = _points(each) if each.counts else ""
    outcome = OUTCOMES.get(each.state, why_not(each.state))
    return Weighed(each, plain_words(each.measure), _where(each), outcome, distance, remark, scale)


def _points(each: Evidence) -> str:
    """The margin as a distance."""
    far = abs(each.margin)
    if each.metric in SHARES:
        return f"{100 * far:.0f} points"
    return each.shown(far)


def _where(each: Evidence) -> str:
    """On whom it was measured, where the measure does not name that place itself, and of which model."""
    name, _, stress = each.model.partition("+")
    who = ", ".join(filter(None, (MODELS.get(name, name), stress_words(stress) if stress else "")))
    site = site_words(each.site) if each.site and each.site not in each.measure else ""
    return " · ".join(filter(None, (SPLITS.get(each.split, each.split), site, who)))


def _row_state(each: Evidence, scores: Scores) -> str:
    row = scores.get(each.metric, each.split, each.model, each.site)
    return row.state if row is not None else ""


def _is_inside(each: Evidence) -> bool:
    return each.metric in ("knownness_auroc", "uds", "uds_null")


def _is_stress(each: Evidence) -> bool:
    return "+" in each.model or each.metric in ("relearned_recall", "attack_recall", "sampled_recall")
