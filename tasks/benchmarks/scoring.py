"""Scoring: the log-probability of every candidate answer; and greedy answers to the same questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from tasks.benchmarks.extraction import BATCH, OURS, OURS_HALF, half_precision, pad
from tasks.benchmarks.harness import Claim, Run, Section, Variant, Watch
from tasks.benchmarks.peers import harness_answers, harness_scores
from tasks.benchmarks.workload import Size, Workload
from tasks.models.forward import plan_for
from tasks.models.generate import greedy
from tasks.models.load import LoadedModel
from tasks.models.scoring import score_answers

LOOP = "transformers, one at a time"
MOST = 16
"""New tokens of a greedy answer."""


def scoring_variants(loaded: LoadedModel, size: Size, work: Workload, peers: bool = True) -> list[Variant]:
    """Every candidate of every question."""
    half = half_precision(loaded)
    pairs = [(*question.prompt, *answer) for question in work.questions for answer in question.answers]
    inputs = sum(len(pair) - 1 for pair in pairs)
    padded = sum(
        len(part) * (max(map(len, part)) - 1) for part in (pairs[i : i + BATCH] for i in range(0, len(pairs), BATCH))
    )
    starts = [len(question.prompt) - 1 for question in work.questions for _ in question.answers]
    read = [pair[:-1] for pair in pairs]
    plan = plan_for(loaded, read, [range(start, len(pair)) for start, pair in zip(starts, read, strict=True)])
    ours = sum(batch.tokens.size for batch in plan.batches)
    variants = [
        Variant(LOOP, lambda: _loop(loaded, work), tokens=inputs),
        Variant(f"transformers, batches of {BATCH}, padded", lambda: _batched(loaded, work), LOOP, tokens=padded),
        Variant("lm-eval, batch 1", lambda: harness_scores(loaded, size, work.questions, 1), LOOP, package="lm_eval"),
        Variant(f"lm-eval, batch {BATCH}", lambda: harness_scores(loaded, size, work.questions, BATCH), LOOP, package="lm_eval"),
        Variant(OURS, lambda: _ours(loaded, work), LOOP, 1e-5, ours),
        Variant(OURS_HALF, lambda: _ours(half, work), LOOP, 0.05, ours),
    ]  # fmt: skip
    return [variant for variant in variants if peers or not variant.package]


def describe_scoring(work: Workload) -> Section:
    pairs = sum(len(question.answers) for question in work.questions)
    answers = sum(len(answer) for question in work.questions for answer in question.answers)
    return Section(
        "Scoring",
        f"{pairs} answers to {len(work.questions)} questions about {len(set(work.entity))} entities, "
        f"{answers} answer tokens wanted",
        OURS,
    )


def answer_variants(loaded: LoadedModel, size: Size, work: Workload, peers: bool = True) -> list[Variant]:
    """Greedy answers, up to an end-of-sequence token."""
    variants = [
        Variant(LOOP, lambda: _generate(loaded, work, 1)),
        Variant(f"transformers, generate, batches of {BATCH}, by length", lambda: _generate(loaded, work, BATCH), LOOP),
        Variant("lm-eval, batch 1", lambda: harness_answers(loaded, size, work.prompts, MOST, 1), LOOP, package="lm_eval"),
        Variant(f"lm-eval, batch {BATCH}", lambda: harness_answers(loaded, size, work.prompts, MOST, BATCH), LOOP, package="lm_eval"),
        Variant(OURS, lambda: _greedy(loaded, work), LOOP),
    ]  # fmt: skip
    return [variant for variant in variants if peers or not variant.package]


def describe_answers(loaded: LoadedModel, work: Workload) -> Section:
    lengths = [len(answer) for answer in greedy(loaded, work.prompts, max_new_tokens=MOST)]
    return Section(
        "Greedy answers",
        f"{len(lengths)} questions about {len(set(work.entity))} entities, at most {MOST} new tokens, "
        f"{sum(lengths)} in all ({sum(lengths) / len(lengths):.1f} each)",
        OURS,
    )


def answer_error(expected: Any, found: Any) -> float:
    """Share of the answers that differ in any token."""
    return float(np.mean([a != b for a, b in zip(expected, found, strict=True)]))


def with_claims(section: Section, one: tuple[float, float], many: tuple[float, float]) -> Section:
    """The section with what it comes to beside lm-eval; what must be and what is aimed at, for batches of 1 and of 32."""
    return replace(
        section,
        claims=tuple(
            Claim(
                f"{section.title.lower()}, against lm-eval, batch {batch}",
                section.ratio(f"lm-eval, batch {batch}", OURS),
                *limits,
            )
            for batch, limits in ((1, one), (BATCH, many))
        ),
    )


def _ours(loaded: LoadedModel, work: Workload) -> Run:
    answers = [question.answers for question in work.questions]
    return lambda _: score_answers(loaded, work.prompts, answers, append_eos=False).log_probability


def _loop(loaded: LoadedModel, work: Workload) -> Run:
    @torch.no_grad()
    def run(_: Watch) -> np.ndarray:
        found = []
        for question in work.questions:
            for answer in question.answers:
                logits = loaded.model(torch.tensor([[*question.prompt, *answer[:-1]]])).logits[0]
                found.append(_sum(logits, len(question.prompt), answer))
        return np.array(found)

    return run


def _batched(loaded: LoadedModel, work: Workload) -> Run:
    pairs = [(question.prompt, answer) for question in work.questions for answer in question.answers]

    @torch.no_grad()
    def run(_: Watch) -> np.ndarray:
        found = []
        for start in range(0, len(pairs), BATCH):
            part = pairs[start : start + BATCH]
            ids, mask = pad([(*prompt, *answer[:-1]) for prompt, answer in part])
            logits = loaded.model(input_ids=ids, attention_mask=mask).logits
            found += [_sum(row, len(prompt), answer) for row, (prompt, answer) in zip(logits, part, strict=True)]
        return np.array(found)

    return run


def _sum(logits: torch.Tensor, start: int, answer: Sequence[int]) -> float:
    """Summed log-probability of an answer that begins after `start` tokens, nats; logits `T V`."""
    log_p = logits[start - 1 : start - 1 + len(answer)].log_softmax(-1)
    return float(log_p.gather(-1, torch.tensor(answer)[:, None]).sum())


def _greedy(loaded: LoadedModel, work: Workload) -> Run:
    return lambda _: greedy(loaded, work.prompts, max_new_tokens=MOST)


def _generate(loaded: LoadedModel, work: Workload, batch: int) -> Run:
    ends = set(loaded.end_ids)
    order = sorted(range(len(work.prompts)), key=lambda i: len(work.prompts[i]))

    @torch.no_grad()
    def run(_: Watch) -> list[tuple[int, ...]]:
        found: dict[int, tuple[int, ...]] = {}
        for start in range(0, len(order), batch):
            part = order[start : start + batch]
            ids, mask = pad([work.prompts[i] for i in part], left=True)
            made = loaded.model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=MOST, do_sample=False)
            for i, row in zip(part, made[:, ids.shape[1] :].tolist(), strict=True):
                length = next((place for place, token in enumerate(row) if token in ends), len(row))
                found[i] = tuple(row[:length])
        return [found[i] for i in range(len(order))]

    return run
