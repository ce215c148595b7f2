"""Was the fact forgotten, or only the question? Accuracies [0, 1] on questions around a fact, and what is superficial.

Split `forget`, lower is better: `UA` the trained questions, `PA` held-out ones, and `superficial`, the share of forgotten
facts (no trained question answered) that a held-out or multi-hop question still brings out, or for which others lost the
same answer (fewer than half of those questions that the base model answered).
Split `retain`, higher is better: `TA` held-out questions of others, `SA` others with the same answer,
`MA` = (1 - multi-hop of the target + multi-hop of others) / 2, `score` = mean(1 - PA, TA, SA, MA).

Source:  FaithUn, arXiv 2502.19207 (names second-hand, averaging reconstructed).
Departs: right is an accepted greedy answer, not the best of three options, so chance is not 1/3. Only facts that the base
         model knows count in `superficial`. A comparison is right if both its forms are, yes and no, for half is chance.
Traps:   a model that never knew still meets some multi-hop questions by chance: compare with the gold twin.
State:   `degenerate` for every model where the base model answers less than half of what a part is made of, where that was
         not asked, or where nothing was forgotten (`superficial`), and where a model's outputs are no language.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tasks.evaluation.intervals import interval, resampled_means
from tasks.evaluation.metric import Case, Measurement, Metric, mean_measurement
from tasks.evaluation.statistics.asked import doubted, missing, powerless, truths
from tasks.evaluation.statistics.language import degenerate_outputs

_OTHERS = ("neighbours", "retain")
_HOPS = ("multi_hop", "multi_hop_beside")
_PARTS: dict[str, tuple[str, Sequence[str], Sequence[str]]] = {
    "UA": ("forget", ("base",), ("forget",)),
    "PA": ("forget", ("paraphrase",), ("forget",)),
    "TA": ("retain", ("paraphrase",), _OTHERS),
    "SA": ("retain", ("same_answer",), _OTHERS),
    "hops": ("forget", ("multi_hop",), ("forget",)),
    "hops beside": ("retain", _HOPS, _OTHERS),
}
"""Part -> split it is told under, sets and splits it is made of."""
_MA = {"hops": -0.5, "hops beside": 0.5}
_SCORE = {"PA": -0.25, "TA": 0.25, "SA": 0.25, "hops": -0.125, "hops beside": 0.125}
"""Weights of the parts in a mean; those below 0 count from 1 down."""


@dataclass(frozen=True)
class Faithun(Metric):
    better: ClassVar = {"forget": "lower", "": "higher"}

    def measure(self, case: Case) -> Iterator[Measurement]:
        base = _parts(case, "base")
        weak = {part: powerless(each.mean(case, "base", part)) for part, each in base.items()}
        for model in case.models:
            mine = _parts(case, model)
            lost = degenerate_outputs(case, model)
            for part in ("UA", "PA", "TA", "SA"):
                yield doubted(mine[part].mean(case, model, part), weak[part], lost and part in ("UA", "PA"))
            for site, weights in (("MA", _MA), ("score", _SCORE)):
                found = _weighted(case, model, site, mine, weights)
                yield doubted(found, lost, *(weak[part] for part in weights))
            yield doubted(_superficial(case, model), weak["UA"], lost)


@dataclass(frozen=True, eq=False)
class _Part:
    """Questions of one kind: whether each is answered, and whose it is."""

    right: np.ndarray
    entities: list[str]

    def mean(self, case: Case, model: str, part: str) -> Measurement:
        return mean_measurement(case, _PARTS[part][0], model, self.right, np.array(self.entities), site=part)


def _parts(case: Case, model: str) -> dict[str, _Part]:
    """Every part of a model's answers; the two forms of a comparison are one question."""
    answers = case.models[model].answers
    hits = truths(answers["hit"])
    made = {}
    for part, (_, kinds, splits) in _PARTS.items():
        found: dict[tuple[str, ...], bool] = {}
        for kind in kinds:
            for row in np.concatenate([case.asked(model, split, kind) for split in splits]):
                one = answers["template" if kind in _HOPS else "question"][row]
                key = (str(answers["entity"][row]), kind, str(answers["relation"][row]), str(one))
                found[key] = found.get(key, True) and bool(hits[row])
        order = sorted(found)
        made[part] = _Part(np.array([found[key] for key in order], dtype=float), [key[0] for key in order])
    return made


def _weighted(case: Case, model: str, site: str, parts: dict[str, _Part], weights: dict[str, float]) -> Measurement:
    """A weighted sum of parts' means: a mean of accuracies, some of them counted from 1 down."""
    if not all(len(parts[part].right) for part in weights):
        return missing("retain", model, site, "degenerate")
    start = -sum(weight for weight in weights.values() if weight < 0)
    value = start + sum(weight * float(np.mean(parts[part].right)) for part, weight in weights.items())
    drawn = sum(
        weight * resampled_means(parts[part].right, parts[part].entities, draws=case.draws, seed=case.seed + place)
        for place, (part, weight) in enumerate(weights.items())
    )
    low, high = interval(start + np.asarray(drawn), case.confidence)
    count = sum(len(parts[part].right) for part in weights)
    return Measurement("retain", model, value, low, high, count, site)


def _superficial(case: Case, model: str) -> Measurement:
    """Share of the target's forgotten facts that are forgotten only where they were asked for, or beyond themselves."""
    known = {fact for fact, hits in _of_facts(case, "base", "base").items() if any(hits)}
    trained, held_out, hops = (_of_facts(case, model, kind) for kind in ("base", "paraphrase", "multi_hop"))
    before, after = (_of_facts(case, each, "same_answer") for each in ("base", model))
    forgotten = sorted(fact for fact in known if fact in trained and not any(trained[fact]))
    values = [any(held_out[fact]) or any(hops[fact]) or 2 * sum(after[fact]) < sum(before[fact]) for fact in forgotten]
    entities = np.array([target for target, _ in forgotten])
    return mean_measurement(case, "forget", model, np.array(values, dtype=float), entities, site="superficial")


def _of_facts(case: Case, model: str, kind: str) -> dict[tuple[str, str], list[bool]]:
    """Answered or not, of every question of a set about (target, relation)."""
    answers = case.models[model].answers
    hits = truths(answers["hit"])
    forms: dict[tuple[str, str, str, str], bool] = {}
    for row in np.flatnonzero(np.asarray(answers["set"]) == kind):
        if answers["target"][row]:
            one = str(answers["template" if kind in _HOPS else "question"][row])
            key = (str(answers["target"][row]), str(answers["relation"][row]), str(answers["entity"][row]), one)
            forms[key] = forms.get(key, True) and bool(hits[row])
    found: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for (target, relation, *_), hit in forms.items():
        found[target, relation].append(hit)
    return found
