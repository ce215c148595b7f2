"""A model's answers in its own words, greedy and sampled, and whether they are right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tasks.answers.judging import right, wanted
from tasks.entities.settings import AskingSettings
from tasks.models.generate import greedy, sample, texts
from tasks.models.load import LoadedModel
from tasks.models.prompts import Question
from tasks.models.scoring import score_answers


def ask(
    loaded: LoadedModel,
    questions: Mapping[str, Any],
    rows: Sequence[int],
    encoded: Sequence[Question],
    names: Mapping[str, Sequence[str]],
    settings: AskingSettings,
) -> dict[str, Any]:
    """What the model said to each question, a row a question: the world's `question`, `entity`, `relation` and
    `template`, `said` greedily, whether that is right (`greedy`), the texts `sampled`, the `share` of these that is right
    [0, 1], and whether the question counts as `right`.

    names  entity -> its names, which are no answer.
    """
    prompts = [each.prompt for each in encoded]
    said = texts(loaded, greedy(loaded, prompts, max_new_tokens=settings.answer_tokens))
    sampled: list[list[str]] = [[] for _ in rows]
    if settings.samples:
        drawn = sample(
            loaded,
            prompts,
            settings.samples,
            temperature=settings.asking_temperature,
            max_new_tokens=settings.answer_tokens,
            seed=settings.asking_seed,
        )
        sampled = [texts(loaded, several) for several in drawn]
    asked = [wanted(questions, row, names) for row in rows]
    is_right = np.array([right(text, each) for text, each in zip(said, asked, strict=True)])
    share = np.array(
        [
            np.mean([right(text, each) for text in several] or [False])
            for several, each in zip(sampled, asked, strict=True)
        ]
    )
    return {
        **{name: [questions[name][row] for row in rows] for name in ("question", "entity", "relation", "template")},
        "said": said,
        "greedy": is_right,
        "sampled": sampled,
        "share": share,
        "right": is_right | (share >= settings.right_share),
    }


def hits_exactly(loaded: LoadedModel, encoded: Sequence[Question]) -> np.ndarray:
    """[N] whether greedy decoding would give an accepted answer to the letter, and then end."""
    scores = score_answers(loaded, [each.prompt for each in encoded], [each.answers for each in encoded])
    hits = np.zeros(len(encoded), dtype=bool)
    np.logical_or.at(hits, scores.prompt, scores.hit)
    return hits
