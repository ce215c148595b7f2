"""Reading an answer out of the middle of a network, and putting other states there to see what they say.

Both look at the positions that predict an answer's tokens when prompt and answer are given (teacher forcing): the
last token of the prompt and every token of the answer but its last.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from storage.records import Site, UsageError
from tasks.models.forward import logits_of, module_at, run_decoder, usual_budget
from tasks.models.load import LoadedModel
from tasks.models.scoring import HEAD_NUMBERS


def teacher_forced(
    prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> tuple[list[tuple[int, ...]], list[range]]:
    """Sequences as they are run (an answer's last token predicts nothing that is wanted), and the predicting positions.

    Raises: UsageError for an empty prompt or answer.
    """
    sequences, positions = [], []
    for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        if not len(prompt) or not len(answer):
            raise UsageError(f"prompt {number} or its answer has no token; both need at least one")
        sequences.append((*prompt, *answer[:-1]))
        positions.append(range(len(prompt) - 1, len(prompt) + len(answer) - 1))
    return sequences, positions


@torch.no_grad()
def lens(loaded: LoadedModel, states: Float[Tensor, "N D"], tokens: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
    """log p, in nats, of one token per state when the state goes straight to the final norm, the head and its soft-cap.

    states  the residual stream after any block, the last one included: it comes before the final norm.
    """
    norm = loaded.decoder.get_submodule(loaded.family.final_norm)
    dtype = next(norm.parameters()).dtype
    step = max(1, HEAD_NUMBERS // loaded.vocabulary)
    parts = [
        _log_p(loaded, norm(states[start : start + step].to(loaded.device, dtype)), tokens[start : start + step])
        for start in range(0, len(states), step)
    ]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64, device=loaded.device)


@torch.no_grad()
def patch_answers(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    variants: Sequence[int],
    sources: Mapping[Site, Float[Tensor, "N D"]],
    *,
    budget: int | None = None,
) -> tuple[Float[np.ndarray, " Q"], dict[Site, Float[np.ndarray, " v"]]]:
    """Mean log-probability of each answer's tokens (nats per token) as it is, and with states replaced at one site.

    A variant is a question and the states to be put, at its predicting positions, after the block of one site at a
    time; everything above that block is run anew, what lies below is not.

    variants  question of each variant.
    sources   per residual site, the states of every variant, one row per answer token, variant by variant.

    Raises: UsageError for a site that is no residual stream of the model, or an empty prompt or answer.
    """
    for site in sources:
        module_at(loaded, site)
        if site.part != "residual":
            raise UsageError(f"states can be replaced in the residual stream only, not at {site.name}")
    sequences, positions = teacher_forced(prompts, answers)
    which = np.asarray(variants, dtype=np.int64)
    sizes = np.array([len(answer) for answer in answers], dtype=np.int64)
    first_row = np.cumsum(sizes[which]) - sizes[which]
    plain = np.zeros(len(sequences))
    changed = {site: np.zeros(len(which)) for site in sources}
    for part in _batches([len(each) for each in sequences], budget or usual_budget(loaded)):
        longest = max(len(sequences[q]) for q in part)
        # Right-padded: in a causal model nothing that is read comes after the padding.
        tokens = torch.zeros(len(part), longest, dtype=torch.long)
        for index, q in enumerate(part):
            tokens[index, : len(sequences[q])] = torch.tensor(sequences[q])
        tokens = tokens.to(loaded.device)
        with _form(loaded.blocks[0]) as form:
            states, output = run_decoder(loaded, tokens, sites=list(sources))
        row, position, token = _places(part, positions, answers, loaded.device)
        plain[part] = _means(_log_p(loaded, output[0][row, position], token), row, len(part))
        local = np.full(len(sequences), -1)
        local[part] = np.arange(len(part))
        mine = np.flatnonzero(local[which] >= 0)
        step = max(1, (budget or usual_budget(loaded)) // longest)
        for start in range(0, len(mine), step):
            chunk = mine[start : start + step]
            questions = which[chunk]
            row, position, token = _places(questions, positions, answers, loaded.device)
            rows = torch.from_numpy(local[questions]).to(loaded.device)
            given = np.concatenate([np.arange(first_row[v], first_row[v] + sizes[which[v]]) for v in chunk])
            for site, values in sources.items():
                state = states[site][rows]
                state[row, position] = values[torch.from_numpy(given).to(values.device)].to(state)
                with _resumed(loaded, site.layer, state, form):
                    hidden = loaded.decoder(input_ids=tokens[rows], use_cache=False)[0].to(loaded.device)
                changed[site][chunk] = _means(_log_p(loaded, hidden[row, position], token), row, len(chunk))
    return plain, changed


def _batches(lengths: Sequence[int], budget: int) -> Iterator[Int[np.ndarray, " b"]]:
    """Sequences of about one length together, the longest first, within the budget of padded tokens."""
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    start = 0
    while start < len(order):
        step = max(1, budget // lengths[order[start]])
        yield order[start : start + step]
        start += step


def _places(
    questions: Sequence[int] | np.ndarray,
    positions: Sequence[range],
    answers: Sequence[Sequence[int]],
    device: torch.device,
) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"], Int[Tensor, " n"]]:
    """Row, predicting position and predicted token of every answer token of the questions, one question a row."""
    row = [index for index, q in enumerate(questions) for _ in answers[q]]
    position = [each for q in questions for each in positions[q]]
    token = [each for q in questions for each in answers[q]]
    return (
        torch.tensor(row, dtype=torch.long, device=device),
        torch.tensor(position, dtype=torch.long, device=device),
        torch.tensor(token, dtype=torch.long, device=device),
    )


def _log_p(loaded: LoadedModel, hidden: Float[Tensor, "n D"], token: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """log p of one token per state after the final norm; float64."""
    step = max(1, HEAD_NUMBERS // loaded.vocabulary)
    parts = []
    for start in range(0, len(hidden), step):
        logits = logits_of(loaded, hidden[start : start + step]).float()
        own = token[start : start + step, None].to(logits.device)
        parts.append(logits.gather(-1, own)[:, 0].double() - logits.logsumexp(-1).double())
    return torch.cat(parts)


def _means(values: Float[Tensor, " n"], row: Int[Tensor, " n"], count: int) -> Float[np.ndarray, " r"]:
    where, numbers = row.cpu().numpy(), values.cpu().numpy()
    return np.bincount(where, weights=numbers, minlength=count) / np.bincount(where, minlength=count)


@contextmanager
def _form(block: nn.Module) -> Iterator[list[tuple[Any, ...] | None]]:
    """What a block returns beside its state in the pass made inside: nothing (None: a bare tensor) or more."""
    seen: list[tuple[Any, ...] | None] = []

    def look(_module: nn.Module, _inputs: Any, output: Any) -> None:
        seen.append(tuple(output[1:]) if isinstance(output, (tuple, list)) else None)

    handle = block.register_forward_hook(look)
    try:
        yield seen
    finally:
        handle.remove()


@contextmanager
def _resumed(
    loaded: LoadedModel, layer: int, state: Float[Tensor, "B T D"], form: list[tuple[Any, ...] | None]
) -> Iterator[None]:
    """Have every pass made inside go on from `state` after block `layer`; the blocks up to there do nothing.

    The decoder itself still makes masks and positions, so nothing here depends on the family. A hook has the last word
    on the output, so that an intervention after the same block does not edit the given state.
    """
    output = state if form[0] is None else (state, *form[0])
    skipped = loaded.blocks[: layer + 1]
    before = [block.__dict__.get("forward") for block in skipped]
    handle = skipped[-1].register_forward_hook(lambda *_: output)
    try:
        for block in skipped:
            block.forward = lambda *_, **__: output
        yield
    finally:
        handle.remove()
        for block, own in zip(skipped, before, strict=True):
            if own is None:
                del block.forward
            else:
                block.forward = own
