"""The table of all questions about a forget set, from the tables of its world."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from storage.records import UsageError
from tasks.catalogue import did_you_mean
from tasks.questions.attacks import attack
from tasks.questions.combined import combined
from tasks.questions.direct import base, choice, cloze, paraphrase, reverse, same_answer
from tasks.questions.facts import Facts, Table, read_facts
from tasks.questions.hops import multi_hop, multi_hop_beside
from tasks.questions.rows import NEW, Row, columns_of
from tasks.questions.settings import SETS, QuestionSettings

BUILDERS: dict[str, Callable[[Facts], Iterator[Row]]] = {
    "base": base,
    "paraphrase": paraphrase,
    "cloze": cloze,
    "reverse": reverse,
    "choice": choice,
    "same_answer": same_answer,
    "multi_hop": multi_hop,
    "multi_hop_beside": multi_hop_beside,
    "combined": combined,
    "attack": attack,
}


PLAIN = "paraphrase"
"""The set that every score of a target stands on: it is always asked."""


def build_questions(
    entities: Table, questions: Table, labelled: Table, roles: Table, settings: QuestionSettings
) -> dict[str, Any]:
    """Columns of `questions.parquet`, sorted by question; a set that these facts do not allow is absent.

    entities, questions  the world's tables.
    labelled             columns entity, label (`known` or another).
    roles                columns entity, role.

    The world's questions keep their ids; ours follow after them, the same whichever sets are chosen. No question of
    ours about known entities repeats a training prompt of the world.

    Raises: UsageError for a set that is none, or when nothing can be asked about the targets on held-out templates.
    """
    for name in settings.sets:
        if name not in SETS:
            raise UsageError(f"no question set is named '{name}'; {did_you_mean(name, list(SETS))}")
    trained = {
        prompt for prompt, held_out in zip(questions["prompt"], questions["held_out"], strict=True) if not held_out
    }
    facts = read_facts(entities, questions, labelled, roles, settings)
    made = [row for name in SETS for row in sorted(BUILDERS[name](facts), key=_order)]
    worlds = [row for row in made if row.question != NEW]
    ours = [
        row for row in made if row.question == NEW and (row.prompt not in trained or row.split.startswith("unknown"))
    ]
    first = max((int(question) for question in questions["question"]), default=-1) + 1
    numbered = [
        *sorted(worlds, key=lambda row: row.question),
        *(row._replace(question=number) for number, row in enumerate(ours, first)),
    ]
    if not any(row.set == PLAIN and row.split == "forget" for row in numbered):
        raise UsageError(
            f"nothing can be asked about {len(facts.targets)} targets in words that no model was trained on; "
            "choose targets about whom this world asks questions on held-out templates"
        )
    chosen = [row for row in numbered if row.set in (*settings.sets, PLAIN) or not settings.sets]
    return columns_of(chosen)


def _order(row: Row) -> tuple[str, str, str, str, int, str, str]:
    return row.target, row.split, row.entity, row.relation, row.template, row.variant, row.prompt
