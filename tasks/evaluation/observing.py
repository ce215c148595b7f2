"""Run a model once over a world's held-out questions and keep, per question, all that scores are made of."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from storage.records import Site
from tasks.models.forward import all_residuals, next_token_log_probabilities, read_sites
from tasks.models.generate import greedy
from tasks.models.load import LoadedModel
from tasks.models.prompts import Question
from tasks.models.scoring import AnswerScores, score_answers
from tasks.models.worlds import encode_world

POSITIONS = ("name_last", "prompt_last")
NEW_TOKENS = 16
"""Longest answer that is decoded."""
UNKNOWN_STYLE = re.compile(r"\b(unknown|unsure|not sure|do(?: not|n't) know|no idea|cannot|can't)\b", re.IGNORECASE)
"""What counts as saying that one does not know."""


def observe_answers(
    loaded: LoadedModel, questions: Mapping[str, Any], rows: Sequence[int], token_budget: int
) -> dict[str, Any]:
    """One row a question: how likely its canonical answer is, whether greedy decoding gives an accepted one, and what it gives."""
    encoded = encode_world(loaded, questions, rows)
    prompts = [question.prompt for question in encoded]
    scores = score_answers(loaded, prompts, [question.answers[:1] for question in encoded], budget=token_budget)
    said = greedy(loaded, prompts, max_new_tokens=NEW_TOKENS)
    hit = [ids in question.answers and len(ids) < NEW_TOKENS for ids, question in zip(said, encoded, strict=True)]
    text = [loaded.tokenizer.decode(list(ids), skip_special_tokens=True).strip() for ids in said]
    return {
        "question": questions["question"][list(rows)],
        **{name: questions[name][list(rows)] for name in ("entity", "relation", "template", "held_out")},
        **answer_columns(scores, len(rows)),
        "hit": np.array(hit),
        "generated": text,
        "unknown_style": np.array([bool(UNKNOWN_STYLE.search(each)) for each in text]),
    }


def answer_columns(scores: AnswerScores, count: int) -> dict[str, np.ndarray]:
    """Per prompt: log-probability (nats), tokens and rank of the canonical answer, hit on any accepted one."""
    canonical = scores.answer == 0
    hit = np.zeros(count, dtype=bool)
    np.logical_or.at(hit, scores.prompt, scores.hit)
    return {
        "log_probability": scores.log_probability[canonical],
        "tokens": scores.tokens[canonical],
        "rank": scores.rank[canonical],
        "hit": hit,
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


def observe_distributions(
    loaded: LoadedModel, questions: Mapping[str, Any], rows: Sequence[int], token_budget: int
) -> dict[str, Any]:
    """Log-probability of every next token after the prompt, float16 nats."""
    prompts = [question.prompt for question in encode_world(loaded, questions, rows)]
    found = next_token_log_probabilities(loaded, prompts, budget=token_budget, dtype=torch.float16)
    return {
        "question": questions["question"][list(rows)],
        "entity": questions["entity"][list(rows)],
        "log_probabilities": found.cpu().numpy(),
    }


def site_columns(table: Mapping[str, Any]) -> list[str]:
    """The site columns of a states table, lowest layer first."""
    names = [name for name in table if name.startswith("residual_")]
    return sorted(names, key=lambda name: Site(int(name.rsplit("_", 1)[1])).layer)
