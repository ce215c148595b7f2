"""How likely a model finds given answers, and whether it would give them itself: teacher forcing, no decoding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from storage.records import UsageError
from tasks.models.forward import final_states, logits_of, plan_for
from tasks.models.load import LoadedModel
from tasks.models.plan import Plan

HEAD_NUMBERS = 32 * 2**20
"""Logits held at once, so that a large vocabulary does not fill the memory."""


@dataclass(frozen=True, eq=False)
class TokenScores:
    """One entry per scored token, answer by answer; the end-of-sequence token is not among them."""

    pair: Int[np.ndarray, " S"]
    """Which entry of `AnswerScores` the token belongs to."""
    token: Int[np.ndarray, " S"]
    log_probability: Float[np.ndarray, " S"]
    """Nats."""
    mean: Float[np.ndarray, " S"]
    """Mean of log p over the vocabulary, weighted with p (minus the entropy), nats."""
    deviation: Float[np.ndarray, " S"]
    """Standard deviation of log p over the vocabulary, weighted with p, nats."""
    hit: Bool[np.ndarray, " S"]
    """Whether the token is the most likely one."""


@dataclass(frozen=True, eq=False)
class AnswerScores:
    """One entry per (prompt, answer), prompt by prompt in the order given."""

    prompt: Int[np.ndarray, " M"]
    answer: Int[np.ndarray, " M"]
    """Index in the prompt's list of answers."""
    log_probability: Float[np.ndarray, " M"]
    """Sum over the answer's tokens, the end-of-sequence token excluded, nats."""
    tokens: Int[np.ndarray, " M"]
    """Scored tokens."""
    hit: Bool[np.ndarray, " M"]
    """Whether greedy decoding would give this answer and then end (or, without the end, begin with it)."""
    rank: Float[np.ndarray, " M"]
    """Rank of the first answer token, 1 = most likely; ties count as their middle."""
    per_token: TokenScores | None = None


@torch.no_grad()
def score_answers(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[Sequence[int]]],
    *,
    append_eos: bool = True,
    per_token: bool = False,
    budget: int | None = None,
) -> AnswerScores:
    """Score every answer of every prompt in one pass over what they share.

    append_eos  a hit also needs the model to end the sequence after the answer.
    per_token   also return every token's score.

    Raises: UsageError for an empty prompt or answer, or a model without an end-of-sequence token where one is needed.
    """
    pairs = [(p, a) for p, accepted in enumerate(answers) for a in range(len(accepted))]
    ends = np.array(loaded.end_ids if append_eos else (), dtype=np.int64)
    if append_eos and not len(ends):
        raise UsageError("the tokenizer has no end-of-sequence token; set one, or score with append_eos = False")
    sequences, wanted, targets = [], [], []
    for p, a in pairs:
        prompt, answer = tuple(prompts[p]), tuple(answers[p][a])
        if not prompt or not answer:
            raise UsageError(f"prompt {p} or its answer {a} has no token; both need at least one")
        sequences.append(prompt + (answer if append_eos else answer[:-1]))
        wanted.append(range(len(prompt) - 1, len(sequences[-1])))
        targets.append(answer + ((-1,) if append_eos else ()))
    lengths = np.array([len(target) for target in targets], dtype=np.int64)
    flat = np.array([token for target in targets for token in target], dtype=np.int64)
    first = np.cumsum(lengths) - lengths
    ranked = np.zeros(len(flat), dtype=bool)
    ranked[first] = True
    table = _score(loaded, plan_for(loaded, sequences, wanted, budget=budget), flat, ranked, ends, per_token)

    pair = np.repeat(np.arange(len(pairs)), lengths)
    scored = flat >= 0
    details = None
    if per_token:
        details = TokenScores(
            pair[scored], flat[scored], table[scored, 0], table[scored, 3], table[scored, 4], table[scored, 1] > 0
        )
    return AnswerScores(
        prompt=np.array([p for p, _ in pairs], dtype=np.int64),
        answer=np.array([a for _, a in pairs], dtype=np.int64),
        log_probability=np.bincount(pair[scored], weights=table[scored, 0], minlength=len(pairs)).astype(np.float64),
        tokens=np.bincount(pair[scored], minlength=len(pairs)).astype(np.int64),
        hit=np.minimum.reduceat(table[:, 1], first) > 0,
        rank=table[first, 2],
        per_token=details,
    )


def _score(
    loaded: LoadedModel,
    plan: Plan,
    targets: Int[np.ndarray, " S"],
    ranked: Bool[np.ndarray, " S"],
    ends: Int[np.ndarray, " e"],
    spread: bool,
) -> Float[np.ndarray, "S 5"]:
    """Per target (-1: an end) log-probability, whether it is the argmax, rank if asked, mean and deviation if asked."""
    table = np.zeros((plan.items, 5))
    all_targets, all_ranked = torch.from_numpy(targets).to(loaded.device), torch.from_numpy(ranked).to(loaded.device)
    end_ids = torch.from_numpy(ends).to(loaded.device)
    step = max(1, HEAD_NUMBERS // loaded.vocabulary)
    for batch in plan.batches:
        hidden, which = final_states(loaded, batch, plan.trie)
        item = torch.from_numpy(batch.item).to(loaded.device)
        found = torch.empty(len(item), 5, dtype=torch.float64, device=loaded.device)
        for start in range(0, len(hidden), step):
            part = ((which >= start) & (which < start + step)).nonzero()[:, 0]
            logits = logits_of(loaded, hidden[start : start + step]).float()
            chosen = item[part]
            found[part] = _read(logits, which[part] - start, all_targets[chosen], all_ranked[chosen], end_ids, spread)
        table[batch.item] = found.cpu().numpy()
    return table


def _read(
    logits: Float[Tensor, "u V"],
    which: Int[Tensor, " n"],
    target: Int[Tensor, " n"],
    ranked: Bool[Tensor, " n"],
    ends: Int[Tensor, " e"],
    spread: bool,
) -> Float[Tensor, "n 5"]:
    """The five numbers of each target, from the logits of its position; numbers not asked for are 0."""
    table = torch.zeros(len(which), 5, dtype=torch.float64, device=logits.device)
    total = logits.logsumexp(-1)
    own = logits[which, target.clamp(min=0)]
    top = logits.argmax(-1)[which]
    table[:, 0] = own - total[which]
    table[:, 1] = torch.where(target >= 0, top == target, torch.isin(top, ends))
    for part in ranked.nonzero()[:, 0].split(len(logits)):
        rows, mine = logits[which[part]], own[part, None]
        table[part, 2] = 1 + (rows > mine).sum(-1) + ((rows == mine).sum(-1) - 1).double() / 2
    if spread:
        log_p = (logits - total[:, None]).clamp(min=-1e4)  # the clamp keeps 0 · -inf out
        p = log_p.exp()
        mean = (p * log_p).sum(-1)
        table[:, 3] = mean[which]
        table[:, 4] = ((p * log_p.square()).sum(-1) - mean.square()).clamp(min=0).sqrt()[which]
    return table
