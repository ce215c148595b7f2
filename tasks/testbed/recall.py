"""Which questions a model answers, read from teacher forcing: every answer token and the <eos> is its first choice."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int

from tasks.testbed.examples import Columns, Rows

BATCH = 256


@torch.no_grad()
def answered(model: Any, rows: Rows, question: Int[np.ndarray, " N"]) -> Bool[np.ndarray, " Q"]:
    """Whether some accepted answer of each question would be given.

    rows      one per question and accepted answer.
    question  number of each row's question, counted from 0.
    """
    hit = np.zeros(int(question.max(initial=-1)) + 1, dtype=bool)
    # A row whose first token is not the model's first choice needs no second look, and most rows of a question differ there.
    first_row = np.unique(question, return_index=True)[1]
    prompts = Rows(rows.ids[first_row], rows.start[first_row], rows.start[first_row] + 1)
    choices = np.array([choice[0] for choice in _choices(model, prompts)])
    likely = np.flatnonzero(choices[question] == rows.ids[np.arange(len(rows.ids)), rows.start])
    if len(likely):
        chosen = rows.select(likely)
        for row, choice in zip(likely, _choices(model, chosen), strict=True):
            hit[question[row]] |= bool((rows.ids[row, rows.start[row] : rows.length[row]] == choice).all())
    return hit


def _choices(model: Any, rows: Rows) -> Sequence[np.ndarray]:
    """The model's first choice at each place of each row's answer."""
    choices: list[np.ndarray] = [np.empty(0)] * len(rows.length)
    order = np.argsort(rows.length, kind="stable")
    for first in range(0, len(order), BATCH):
        which = order[first : first + BATCH]
        batch = rows.select(which)
        at_row, at_position = (torch.from_numpy(each) for each in batch.predictions())
        states = model.model(input_ids=torch.from_numpy(batch.ids)).last_hidden_state[at_row, at_position]
        tokens = model.lm_head(states).argmax(-1).numpy()
        for row, choice in zip(which, np.split(tokens, np.cumsum(batch.length - batch.start)[:-1]), strict=True):
            choices[row] = choice
    return choices


def recall_table(
    entities: Columns, questions: Columns, asked: Int[np.ndarray, " Q"], hits: Mapping[str, Bool[np.ndarray, " Q"]]
) -> Columns:
    """Share of questions answered [0, 1] by model, group (candidate, known, never_seen) and relation.

    asked  row number, in the table of questions, of each question that `hits` says, by model, to be answered.
    """
    group = {
        entity: "candidate" if candidate else exposure
        for entity, exposure, candidate in zip(
            entities["entity"], entities["exposure"], entities["candidate"], strict=True
        )
    }
    found: dict[tuple[str, str, str], list[bool]] = defaultdict(list)
    for model, hit in hits.items():
        for row, answer in zip(asked, hit, strict=True):
            found[model, group[questions["entity"][row]], questions["relation"][row]].append(bool(answer))
    keys = sorted(found)
    return {
        "model": [model for model, _, _ in keys],
        "group": [name for _, name, _ in keys],
        "relation": [relation for _, _, relation in keys],
        "recall": np.array([np.mean(found[key]) for key in keys]),
        "questions": np.array([len(found[key]) for key in keys], dtype=np.int64),
    }


def mean_recall(table: Columns, model: str, group: str) -> float:
    """Over all questions of a model and group."""
    chosen = (np.array(table["model"]) == model) & (np.array(table["group"]) == group)
    return float(np.average(table["recall"][chosen], weights=table["questions"][chosen]))
