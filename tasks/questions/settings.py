"""Settings of the questions stage, section `[evaluation]` of an experiment."""

from __future__ import annotations

from dataclasses import dataclass

from storage.records import setting

SETS = (
    "base",
    "paraphrase",
    "cloze",
    "reverse",
    "choice",
    "same_answer",
    "multi_hop",
    "multi_hop_beside",
    "combined",
    "attack",
)
"""The question sets, in the order of the table."""


@dataclass(frozen=True)
class QuestionSettings:
    """What is asked about the targets, and beside them."""

    sets: tuple[str, ...] = setting((), choices=SETS)
    """Question sets beside `paraphrase`, which is always asked; none means all that this world allows."""
    wrong_answers: int = setting(4, minimum=1)
    """Wrong answers that stand beside the right one, at most."""
    retain_entities: int = setting(20, minimum=1)
    """Retained entities asked about outside set `paraphrase`."""
    entities_asked: int = setting(0, minimum=0)
    """Retained entities, and unknown ones of each half, that set `paraphrase` asks about, at most; 0 for all of them."""
    question_seed: int = setting(0, minimum=0)
    """Draws wrong answers, the retained entities and who stands beside whom."""
