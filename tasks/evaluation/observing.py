"""Run a model once over a set of questions and keep, per question, all that scores are made of."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from storage.records import Site
from tasks.answers.judging import OwnWords, right, wanted
from tasks.evaluation.settings import ObservationSettings
from tasks.models.forward import all_residuals, next_token_log_probabilities, read_sites
from tasks.models.generate import greedy, sample, texts
from tasks.models.load import LoadedModel
from tasks.models.prompts import Question
from tasks.models.scoring import AnswerScores, score_answers
from tasks.models.worlds import encode_world

POSITIONS = ("name_last", "prompt_last")
NEW_TOKENS = 16
"""Longest answer that is decoded of a model that must answer to the letter."""
ASKED = ("question", "set", "variant", "split", "target", "entity", "relation", "template")
"""What the answers say of their question."""
TOKENS_OF = ("base", "paraphrase")
"""Sets whose answers are also kept token by token."""
UNKNOWN_STYLE = re.compile(r"\b(unknown|unsure|not sure|do(?: not|n't) know|no idea|cannot|can't)\b", re.IGNORECASE)
"""What counts as saying that one does not know."""


@dataclass(frozen=True, eq=False)
class Answered:
    """What a model said to every question of a set."""

    answers: dict[str, Any]
    """A row a question: how likely its canonical answer is, whether greedy decoding gives an accepted one, and what it gives."""
    options: dict[str, Any]
    """A row an accepted or wrong answer."""
    tokens: dict[str, Any]
    """A row a token of the canonical answer, of the sets `TOKENS_OF`."""


def observe_answers(
    loaded: LoadedModel, questions: Mapping[str, Any], token_budget: int, *, own_words: OwnWords | None = None
) -> Answered:
    """Score every option and decode every answer; options of a question, and questions about one name, share what they share.

    own_words  of a model that answers in its own words: a hit is a text that gives an accepted answer, ended or not.
               None: a hit is an accepted answer to the letter, and then the end.
    """
    rows = range(len(questions["question"]))
    offered = [[*right, *wrong] for right, wrong in zip(questions["answers"], questions["wrong"], strict=True)]
    encoded = encode_world(loaded, {**questions, "answers": offered}, rows)
    accepted = [len(right) for right in questions["answers"]]
    # Where no wrong answer stands beside it, the canonical answer is all that is scored.
    scored = [
        question.answers if len(wrong) else question.answers[:1]
        for question, wrong in zip(encoded, questions["wrong"], strict=True)
    ]
    prompts = [question.prompt for question in encoded]
    # What is said is decoded below, so that nobody asks whether an answer would end where it does.
    scores = score_answers(loaded, prompts, scored, append_eos=False, per_token=True, budget=token_budget)
    longest = _new_tokens(own_words)
    said = greedy(loaded, prompts, max_new_tokens=longest)
    text = texts(loaded, said)
    if own_words is None:
        hit = [
            ids in question.answers[:count] and len(ids) < longest
            for ids, question, count in zip(said, encoded, accepted, strict=True)
        ]
    else:
        hit = [right(each, wanted(questions, row, own_words.names)) for row, each in enumerate(text)]
    canonical = scores.answer == 0
    answers = {
        **{name: questions[name] for name in ASKED},
        **{name: getattr(scores, name)[canonical] for name in ("log_probability", "tokens", "rank")},
        "hit": np.array(hit),
        "generated": text,
        "ended": np.array([len(ids) < longest for ids in said]),
        "unknown_style": np.array([bool(UNKNOWN_STYLE.search(each)) for each in text]),
    }
    options = {
        "question": np.asarray(questions["question"])[scores.prompt],
        "option": scores.answer,
        "text": [offered[prompt][answer] for prompt, answer in zip(scores.prompt, scores.answer, strict=True)],
        "accepted": scores.answer < np.array(accepted)[scores.prompt],
        "log_probability": scores.log_probability,
        "tokens": scores.tokens,
    }
    return Answered(answers, options, _token_columns(questions, scores))


def _new_tokens(own_words: OwnWords | None) -> int:
    return NEW_TOKENS if own_words is None else own_words.tokens


def _token_columns(questions: Mapping[str, Any], scores: AnswerScores) -> dict[str, Any]:
    found = scores.per_token
    assert found is not None
    wanted = np.isin(np.asarray(questions["set"]), TOKENS_OF)[scores.prompt] & (scores.answer == 0)
    kept = wanted[found.pair]
    first = np.r_[0, np.cumsum(scores.tokens)[:-1]]
    return {
        "question": np.asarray(questions["question"])[scores.prompt[found.pair[kept]]],
        "position": (np.arange(len(found.pair)) - first[found.pair])[kept],
        **{name: getattr(found, name)[kept] for name in ("token", "log_probability", "mean", "deviation", "hit")},
    }


def observe_states(
    loaded: LoadedModel, questions: Mapping[str, Any], rows: Sequence[int], token_budget: int
) -> dict[str, Any]:
    """The residual stream after every block at the name's last token and at the last prompt token, as tensors [N, D]."""
    encoded = encode_world(loaded, questions, rows)
    sites = all_residuals(loaded)
    wanted = [_two(question) for question in encoded]
    states = read_sites(loaded, [question.prompt for question in encoded], wanted, sites, budget=token_budget)
    return {
        "question": np.repeat(questions["question"][list(rows)], 2),
        "position": list(POSITIONS) * len(rows),
        "entity": np.repeat(questions["entity"][list(rows)], 2),
        **{site.name: states[site] for site in sites},
    }


def _two(question: Question) -> tuple[int, int]:
    return question.name_last, len(question.prompt) - 1


def observe_samples(
    loaded: LoadedModel,
    questions: Mapping[str, Any],
    rows: Sequence[int],
    settings: ObservationSettings,
    *,
    own_words: OwnWords | None = None,
) -> dict[str, Any]:
    """A row a sampled answer: what a patient questioner would hear. `own_words` as for `observe_answers`."""
    encoded = encode_world(loaded, questions, rows)
    longest = _new_tokens(own_words)
    said = sample(
        loaded,
        [question.prompt for question in encoded],
        settings.samples,
        temperature=settings.temperature,
        max_new_tokens=longest,
        seed=settings.sample_seed,
    )
    flat = [(place, ids) for place, several in enumerate(said) for ids in several]
    text = texts(loaded, [ids for _, ids in flat])
    if own_words is None:
        hit = [ids in encoded[place].answers and len(ids) < longest for place, ids in flat]
    else:
        asked = [wanted(questions, row, own_words.names) for row in rows]
        hit = [right(each, asked[place]) for each, (place, _) in zip(text, flat, strict=True)]
    return {
        "question": [questions["question"][rows[place]] for place, _ in flat],
        "sample": [number for several in said for number in range(len(several))],
        "text": text,
        "hit": hit,
    }


def observe_distributions(
    loaded: LoadedModel, questions: Mapping[str, Any], rows: Sequence[int], splits: Sequence[str], token_budget: int
) -> dict[str, Any]:
    """Log-probability of every next token after the prompt, float16 nats."""
    prompts = [question.prompt for question in encode_world(loaded, questions, rows)]
    found = next_token_log_probabilities(loaded, prompts, budget=token_budget, dtype=torch.float16)
    return {
        "question": questions["question"][list(rows)],
        "entity": questions["entity"][list(rows)],
        "split": list(splits),
        "log_probabilities": found.cpu().numpy(),
    }


def concatenated(tables: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Tables of the same columns, one under the other."""
    return {name: np.concatenate([np.asarray(table[name]) for table in tables]) for name in tables[0]}


def site_columns(table: Mapping[str, Any]) -> list[str]:
    """The site columns of a states table, lowest layer first."""
    names = [name for name in table if name.startswith("residual_")]
    return sorted(names, key=lambda name: Site(int(name.rsplit("_", 1)[1])).layer)
