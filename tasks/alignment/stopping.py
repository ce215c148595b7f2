"""When to stop: as soon as every target is no longer recalled, or lies among unknown entities too, on questions set aside.

    d(e, U) = mean over e's questions, the sites and coordinates of (h - μ)² / s²,  h the state at the last prompt token,
              μ its mean over the entities U in the same sentence, s² its variance there, meant over the sentences
    d(u)      = d(u, all other unknown entities);   d(target) = mean over u of d(target, all unknown entities but u)
    recall:   stop when the share of recalled answers is no more than the unknown entities', twice in a row
    unknown:  when moreover d(target) ≤ median of d(u)

Each is measured against entities that it is not one of, equally many: a target that is like any unknown entity is as
likely to be inside the median as any of them, however few there are.
Going on after that is over-suppression: a target nearer to the middle than real unknown entities is itself remarkable.

Source:     ours; the definition of forgotten is that of arXiv 2509.15631 (abstract).
Confidence: ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from storage.records import Site
from tasks.alignment.material import Validation
from tasks.models.forward import read_sites
from tasks.models.load import LoadedModel
from tasks.models.prompts import Question
from tasks.models.scoring import score_answers

SPREAD_FLOOR = 1e-6
"""Least variance of a coordinate, in units of the mean variance."""


def stop_rule(
    rule: str, student: LoadedModel, validations: Sequence[Validation], sites: Sequence[Site], interval: int
) -> Callable[[int], bool]:
    """The rule (`recall` or `unknown`) as `enough` of `minimise`: looks every `interval` steps; two looks in a row must
    agree."""
    agreed = False

    def holds(validation: Validation) -> bool:
        if rule == "recall":
            return recalled_no_more(student, validation)
        return lies_among_unknown(student, validation, sites)

    def enough(step: int) -> bool:
        nonlocal agreed
        if step % interval:
            return False
        inside = all(holds(each) for each in validations)
        stop, agreed = inside and agreed, inside
        return stop

    return enough


@torch.no_grad()
def recalled_no_more(student: LoadedModel, validation: Validation) -> bool:
    """Whether the target is, here and now, recalled no more than unknown entities are."""
    recalled = [_recall(student, questions, validation) for questions in validation.unknown]
    return _recall(student, validation.target, validation) <= sum(recalled) / len(recalled)


@torch.no_grad()
def lies_among_unknown(student: LoadedModel, validation: Validation, sites: Sequence[Site]) -> bool:
    """Whether the target is recalled no more than unknown entities, and no farther from them than their median."""
    if not recalled_no_more(student, validation):
        return False
    target = _states(student, [validation.target], sites)[0]
    own, others = distances(target, _states(student, validation.unknown, sites))
    return bool(own <= others.median())


def distances(
    target: Float[Tensor, "Q D"], unknown: Float[Tensor, "U Q D"]
) -> tuple[Float[Tensor, ""], Float[Tensor, " U"]]:
    """d of the target and of each unknown entity, the others being what it is measured against; U at least 3."""
    own, left_out = [], []
    for place, each in enumerate(unknown):
        rest = torch.cat([unknown[:place], unknown[place + 1 :]])
        mean, variance = rest.mean(0), rest.var(0).mean(0)
        variance = variance.clamp(min=float(variance.mean()) * SPREAD_FLOOR)
        left_out.append(((each - mean).pow(2) / variance).mean())
        own.append(((target - mean).pow(2) / variance).mean())
    return torch.stack(own).mean(), torch.stack(left_out)


def _recall(student: LoadedModel, questions: Sequence[Question], validation: Validation) -> float:
    prompts, answers = [each.prompt for each in questions], [each.answers for each in questions]
    if validation.own_words is not None:
        heard = validation.own_words.heard(student, prompts, [validation.wanted[each] for each in questions])
        return float(heard.mean())
    scores = score_answers(student, prompts, answers)
    hit = {int(prompt) for prompt, right in zip(scores.prompt, scores.hit, strict=True) if right}
    return len(hit) / len(questions)


def _states(
    student: LoadedModel, entities: Sequence[Sequence[Question]], sites: Sequence[Site]
) -> Float[Tensor, "U Q D"]:
    """States at the last prompt token of equally many questions about each entity, the sites side by side."""
    prompts = [each.prompt for questions in entities for each in questions]
    found = read_sites(student, prompts, [[len(prompt) - 1] for prompt in prompts], sites)
    return torch.cat([found[site] for site in sites], dim=-1).unflatten(0, (len(entities), -1))
