"""What the numbers say, in plain words: no more than their intervals and states allow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.report.evidence import Evidence, listed
from tasks.report.scoring import STATES, Row, Scores, layer_of, percent, position_of, site_words

WIDE = 0.4
"""An interval of a share at least this wide is called wide."""
HARDLY = 0.1
"""Recall up to which, without a gold twin to compare with, a target counts as no longer answered."""

LIKE_GOLD = "not measurably more than the gold twin"


@dataclass(frozen=True)
class Claim:
    """One sentence or two about one question, and whether they speak for the unlearning."""

    question: str
    verdict: str
    """`yes`, `no` or `unclear`."""
    answer: str
    """The answer in a word or few."""
    text: str


@dataclass(frozen=True)
class Gauge:
    """One number of the head of the page, on a scale from 0 to 1."""

    title: str
    note: str
    base: Row | None
    unlearned: Row
    gold: Row | None
    aim: float
    """Where a perfect unlearning would stand."""
    share: bool = True
    """Shown as a percentage."""

    def shown(self, row: Row) -> str:
        """The value of one of its rows in words."""
        return percent(row.value) if self.share else f"{row.value:.2f}"


def headline(verdict: str, evidence: Sequence[Evidence]) -> str:
    """The verdict as one sentence, from the measures that decided it."""
    decided = sorted((each for each in evidence if each.decided), key=lambda each: -each.badness if each.counts else 0)
    reasons = listed(each.phrase for each in decided)
    answers = next((each for each in evidence if each.verdict == "not forgotten" and each.counts), None)
    if verdict == "inconclusive":
        return _inconclusive(decided, reasons)
    if verdict == "collapsed":
        return f"The model broke, so what it no longer answers says nothing: {reasons}."
    if verdict == "damaged":
        itself = f"; the target itself is answered {answers.shown(answers.value)} of the time" if answers else ""
        return f"What was to stay suffered: {reasons}{itself}."
    if verdict == "not forgotten":
        return f"It still answers: {reasons}."
    if verdict == "hidden":
        silent = (
            f"It no longer answers ({answers.shown(answers.value)})" if answers else "Whether it answers is not known"
        )
        return f"{silent}, but it still knows: {reasons}."
    if verdict == "forgotten" and decided:
        every = f"each of the {len(decided)} measures that count" if len(decided) > 1 else "the one measure that counts"
        return f"As far as these numbers show, it is gone: {every} lies within its threshold, the nearest being {decided[0].phrase}."
    return f"Decided by {reasons}." if decided else "No measure decided it."


def _inconclusive(decided: Sequence[Evidence], reasons: str) -> str:
    if any(each.state == "crossed" for each in decided):
        return f"There was nothing to forget: {reasons}."
    if decided:
        return f"Not decided: what it hangs on carries no number: {reasons}."
    return "Not decided: too little was measured to tell what is forgotten from what is hidden."


def make_claims(scores: Scores, targets: Sequence[str]) -> list[Claim]:
    """The claims in the order of the page: answers, inside, relearning, what was kept."""
    names = _join(targets)
    claims = [_answers(scores, targets, names), _inside(scores, names), _relearning(scores), _kept(scores)]
    return [claim for claim in claims if claim is not None]


def make_gauges(scores: Scores) -> list[Gauge]:
    """The numbers of the head of the page that were scored."""
    gauges: list[Gauge] = []

    def add(title: str, note: str, metric: str, split: str, aim: float, site: str = "", share: bool = True) -> None:
        unlearned = scores.get(metric, split, "unlearned", site)
        if unlearned is not None:
            base, gold = (scores.get(metric, split, model, site) for model in ("base", "gold"))
            gauges.append(Gauge(title, note, base, unlearned, gold, aim, share))

    add("Still answers", "recall of the targets, in wordings never trained on", "recall", "forget", 0.0)
    if site := telling_site(scores):
        add(
            "Looks known inside",
            f"AUROC against unknown entities ({site_words(site)}); 0.5 is unknown",
            "knownness_auroc",
            "forget",
            0.5,
            site,
            share=False,
        )
    add("Comes back", "recall of the other half after relearning one half", "relearned_recall", "forget", 0.0)
    add("Others still known", "recall of known entities that no loss saw", "recall", "retain", 1.0)
    return gauges


def telling_site(scores: Scores) -> str:
    """The site at which the base model tells the targets best from unknown entities: chosen before unlearning."""
    rows = [(site, scores.get("knownness_auroc", "forget", "base", site)) for site in scores.sites("knownness_auroc")]
    there = [(row.value, site) for site, row in rows if row is not None]
    return max(there)[1] if there else ""


def _answers(scores: Scores, targets: Sequence[str], names: str) -> Claim:
    before, after, gold = (scores.get("recall", "forget", model) for model in ("base", "unlearned", "gold"))
    if after is None or not after.judged:
        return Claim("answers", "unclear", "cannot be judged", f"Recall of {names} cannot be judged{_why(after)}.")
    text = f"Asked about {names} in wordings it was never trained on, the model is right {_with_interval(after)} of the time"
    text += f"; before, {percent(before.value)}." if before is not None else "."
    pronoun = "it" if len(targets) == 1 else "them"
    if gold is not None and gold.judged:
        relation = _relation(after, gold, "more than", "less than")
        text += f" The gold twin, which never saw {pronoun}, reaches {percent(gold.value)}: {relation}."
    if before is None or not before.judged:
        return Claim("answers", "unclear", "nothing to compare", text)
    if after.low > before.high:
        return Claim("answers", "no", "it answers more", text)
    if after.high >= before.low:
        text += " The intervals before and after overlap, so no change can be told."
        return Claim(
            "answers",
            "no" if after.low > 0.5 else "unclear",
            "it still answers" if after.low > 0.5 else "no change to be told",
            text,
        )
    if gold is not None and gold.judged:
        if after.low > gold.high:
            return Claim("answers", "no", "less, yet more than the gold twin", text)
        return Claim("answers", "yes", LIKE_GOLD, text)
    if after.value <= HARDLY:
        return Claim("answers", "yes", "hardly ever", text)
    return Claim("answers", "no", "less, yet it still answers", text)


def _inside(scores: Scores, names: str) -> Claim | None:
    """Judged at the places (layer and token) where the targets stood apart from unknown entities before."""
    sites = scores.sites("knownness_auroc")
    if not sites:
        return None
    before = {site: scores.get("knownness_auroc", "forget", "base", site) for site in sites}
    telling = [site for site, row in before.items() if row is not None and row.judged and row.low > 0.5]
    after = _judged(scores, "unlearned", telling)
    if not after:
        text = f"At none of {len(sites)} places (layer and token) did {names} stand apart from unknown entities before, so nothing can be said of after."
        return Claim("inside", "unclear", "no power", text)
    still, over = _outside(after)
    same = len(after) - len(still) - len(over)
    where = "the one place" if len(after) == 1 else f"the {len(after)} places"
    now = f"it no longer does at {same}" if same else "it still does at all"
    text = (
        f"Of {where} (layer and token) where the activation of {names} stood apart from unknown entities before, {now}."
    )
    text += f" It still looks known at {_places(still)}." if still else ""
    text += (
        f" It looks less known than an unknown entity at {_places(over)}, which gives it away as well." if over else ""
    )
    gold = _judged(scores, "gold", list(after))
    gold_outside = sum(map(len, _outside(gold)))
    if gold:
        text += f" The gold twin's stands apart at {gold_outside or 'none'} of {len(gold)}."
    wide = [site for site, row in after.items() if row.high - row.low >= WIDE]
    if wide and same:
        text += " The intervals are wide: a small difference would not show."
    outside = len(still) + len(over)
    if not outside:
        return Claim("inside", "unclear" if len(wide) == len(after) else "yes", "it looks unknown", text)
    if outside <= gold_outside and 2 * gold_outside < len(gold):
        return Claim("inside", "yes", "it stands apart no more than the gold twin", text)
    if 2 * gold_outside >= max(len(gold), 1) and 2 * outside <= len(after):
        return Claim("inside", "unclear", "not decided: even the gold twin stands apart", text)
    return Claim(
        "inside", "no", "at some places it can still be told apart" if same else "it can still be told apart", text
    )


def _judged(scores: Scores, model: str, sites: Sequence[str]) -> dict[str, Row]:
    rows = {site: scores.get("knownness_auroc", "forget", model, site) for site in sites}
    return {site: row for site, row in rows.items() if row is not None and row.judged}


def _outside(rows: dict[str, Row]) -> tuple[list[str], list[str]]:
    """Sites where the interval lies above one half, and below it."""
    return [site for site, row in rows.items() if row.low > 0.5], [site for site, row in rows.items() if row.high < 0.5]


def _relearning(scores: Scores) -> Claim | None:
    after, gold = (scores.get("relearned_recall", "forget", model) for model in ("unlearned", "gold"))
    if after is None:
        return None
    if not after.judged:
        return Claim("relearning", "unclear", "cannot be judged", f"Relearning cannot be judged{_why(after)}.")
    text = f"Taught half of the facts again, it is right on the other half {_with_interval(after)} of the time"
    if gold is None or not gold.judged:
        return Claim(
            "relearning",
            "unclear",
            "nothing to compare",
            f"{text}. Without a gold twin, how much of that is knowledge that was hidden cannot be told.",
        )
    relation = _relation(after, gold, "more than", "less than")
    text += f"; the gold twin, which learns them for the first time, {percent(gold.value)}: {relation}."
    if after.low > gold.high:
        return Claim("relearning", "no", "it comes back", text)
    if max(after.high - after.low, gold.high - gold.low) >= WIDE:
        return Claim("relearning", "unclear", "too few questions to tell", text)
    return Claim("relearning", "yes", "not measurably faster than the gold twin", text)


def _kept(scores: Scores) -> Claim | None:
    parts, lost, judged = [], [], 0
    for split, word in (("retain", "other known entities"), ("neighbours", "neighbours that share an answer")):
        before, after = scores.get("recall", split, "base"), scores.get("recall", split, "unlearned")
        if before is None or after is None:
            continue
        if not (before.judged and after.judged):
            parts.append(f"recall of {word} cannot be judged{_why(after)}")
            continue
        judged += 1
        change = f"from {percent(before.value)} to {_with_interval(after)}"
        if after.high < before.low:
            lost.append(word)
            parts.append(f"recall of {word} fell {change}")
        else:
            parts.append(f"recall of {word} went {change}, no loss that these intervals show")
    if not parts:
        return None
    text = "; ".join(parts) + "."
    text = text[0].upper() + text[1:]
    if lost:
        return Claim("kept", "no", "others suffered", text)
    return Claim(
        "kept",
        "yes" if judged == len(parts) else "unclear",
        "no loss that shows" if judged else "cannot be judged",
        text,
    )


def _relation(row: Row, other: Row, more: str, less: str) -> str:
    if row.low > other.high:
        return f"{more} the gold twin"
    if row.high < other.low:
        return f"{less} the gold twin"
    return "the intervals overlap, so the two cannot be told apart"


def _with_interval(row: Row) -> str:
    if percent(row.low) == percent(row.high):
        return percent(row.value)
    return f"{percent(row.value)} [{percent(row.low)} to {percent(row.high)}]"


def _why(row: Row | None) -> str:
    reason = STATES.get(row.state, row.state) if row is not None else "it was not scored"
    return f" ({reason})" if reason else ""


def _places(sites: Sequence[str]) -> str:
    """`layers 1 and 2 (last token of the name) and layer 3 (last token of the prompt)`."""
    layers: dict[str, list[str]] = {}
    for site in sites:
        layers.setdefault(position_of(site), []).append(layer_of(site))
    parts = [
        f"layer{'s' if len(found) > 1 else ''} {', '.join(found)}" + (f" ({position})" if position else "")
        for position, found in layers.items()
    ]
    return " and ".join(parts)


def _join(names: Sequence[str]) -> str:
    if len(names) <= 1:
        return "".join(names)
    if len(names) > 4:
        return f"{len(names)} entities"
    return ", ".join(names[:-1]) + f" and {names[-1]}"
