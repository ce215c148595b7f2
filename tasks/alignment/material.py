"""From a world's questions and the roles of its entities to the rows a method trains on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from storage.records import UsageError
from tasks.alignment.examples import draw_steps, make_rows
from tasks.alignment.settings import AlignmentSettings
from tasks.alignment.training import Material
from tasks.models.load import LoadedModel
from tasks.models.prompts import Question
from tasks.models.worlds import encode_world


def gather_material(
    loaded: LoadedModel,
    questions: Mapping[str, Any],
    roles: Mapping[str, str],
    types: Mapping[str, str],
    references: int,
    settings: AlignmentSettings,
) -> Material:
    """Forget and retain rows (training templates only), the steps' draws, and the unknown entities' prompts.

    questions: the world's table. roles, types: by entity. Held-out templates and held-out entities are never touched.

    Raises: UsageError when there is nothing to forget, to retain, or too few unknown entities of a target's type.
    """
    training = [row for row in range(len(questions["question"])) if not questions["held_out"][row]]
    by_role: dict[str, list[int]] = {}
    for row in training:
        by_role.setdefault(roles.get(questions["entity"][row], ""), []).append(row)
    forget_rows, retain_rows = by_role.get("target", []), by_role.get("retain", [])
    for name, rows in (("target", forget_rows), ("retain", retain_rows)):
        if not rows:
            raise UsageError(f"no {name} entity has a question in a training template; check the world and [entities]")
    encoded = dict(zip(training, encode_world(loaded, questions, training), strict=True))
    target_types = {types[questions["entity"][row]] for row in forget_rows}
    same = [i for i, row in enumerate(retain_rows) if types[questions["entity"][row]] in target_types]
    other = [i for i, row in enumerate(retain_rows) if types[questions["entity"][row]] not in target_types]
    end, padding = loaded.end_ids[0], loaded.tokenizer.pad_token_id or 0
    unknown, known = (
        _reference_prompts(questions, by_role.get(role, []), forget_rows, types, encoded, references, settings.seed)
        for role in ("unknown_reference", "retain")
    )
    return Material(
        _rows(encoded, forget_rows, end, padding),
        _rows(encoded, retain_rows, end, padding),
        unknown,
        known,
        draw_steps(
            len(forget_rows),
            same,
            other,
            steps=settings.steps,
            forget_rows=settings.forget_rows,
            retain_rows=settings.retain_rows,
            seed=settings.seed,
        ),
    )  # fmt: skip


def _rows(encoded: Mapping[int, Question], rows: Sequence[int], end: int, padding: int):  # type: ignore[no-untyped-def]
    chosen = [encoded[row] for row in rows]
    return make_rows(chosen, [question.answers[0] for question in chosen], end, padding)


def _reference_prompts(
    questions: Mapping[str, Any],
    rows: Sequence[int],
    forget_rows: Sequence[int],
    types: Mapping[str, str],
    encoded: Mapping[int, Question],
    references: int,
    seed: int,
) -> list[list[Question]]:
    """For each forget row, the same sentence with each of the target's references, taken from `rows`.

    The references of a target, at most so many, are drawn once, from those of its type whose names are nearest in
    token count.
    """
    if not references:
        return []
    sentence: dict[tuple[str, str, int], int] = {
        (questions["entity"][row], questions["relation"][row], int(questions["template"][row])): row for row in rows
    }
    entities = sorted({entity for entity, _, _ in sentence})
    lengths = {questions["entity"][row]: _name_tokens(encoded[row]) for row in (*rows, *forget_rows)}
    chosen: dict[str, list[str]] = {}
    for target in dict.fromkeys(questions["entity"][row] for row in forget_rows):
        generator = np.random.default_rng([seed, len(chosen)])
        pool = [entity for entity in entities if types[entity] == types[target]]
        if not pool:
            raise UsageError(
                f"no other entity of type '{types[target]}' can serve as a reference; raise entities.retain, or use a "
                "larger world"
            )
        shuffled = [pool[place] for place in generator.permutation(len(pool))]
        nearest = sorted(shuffled, key=lambda entity, target=target: abs(lengths[entity] - lengths[target]))  # type: ignore[misc]
        chosen[target] = nearest[:references]
    fewest = min(len(entities) for entities in chosen.values())
    return [
        [
            encoded[sentence[entity, questions["relation"][row], int(questions["template"][row])]]
            for entity in chosen[questions["entity"][row]][:fewest]
        ]
        for row in forget_rows
    ]


def _name_tokens(question: Question) -> int:
    return question.name_last - question.name_first + 1
