"""Decoding of many prompts, greedy or sampled: shared beginnings run once, finished rows dropped as they end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from storage.records import UsageError
from tasks.models.forward import logits_of, run_batch, run_decoder, takes_ancestor_mask, usual_budget
from tasks.models.load import LoadedModel
from tasks.models.plan import Batch, ancestor_mask, plan_trie

DRAW_NUMBERS = 2**24
"""Cumulative probabilities held at once, so that a large vocabulary does not fill the memory."""


@dataclass(frozen=True, eq=False)
class _Prefilled:
    """Prompts that were read, left-padded to one length, with what attention needs of them."""

    which: Int[np.ndarray, " B"]
    """Index of each row's prompt."""
    cache: DynamicCache
    hidden: Float[Tensor, "B D"]
    """State after the final norm at the last prompt token."""
    mask: Int[Tensor, "B T"]
    """1 at real tokens."""


_Choose = Callable[[Tensor, Tensor, int], Tensor]
_Read = Callable[[LoadedModel, Sequence[tuple[int, ...]], int, int], Iterator[_Prefilled]]


@torch.no_grad()
def greedy(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int = 16,
    rows: int = 256,
    budget: int | None = None,
) -> list[tuple[int, ...]]:
    """The most likely token again and again, until an end-of-sequence token or `max_new_tokens`.

    Returns the new ids of each prompt, the end token left out: those of transformers' `generate(do_sample=False)`.

    rows    rows decoded together, at most.
    budget  prompt tokens read together, about (None: by device and width).

    Raises: UsageError for an empty prompt or a length below 1.
    """
    unique, read = _plan(loaded, prompts, max_new_tokens)
    answers: dict[tuple[int, ...], tuple[int, ...]] = {}
    for part in read(loaded, unique, rows, budget or usual_budget(loaded)):
        for i, ids in zip(part.which.tolist(), _decode(loaded, part, max_new_tokens, _likeliest), strict=True):
            answers[unique[i]] = ids
    return [answers[tuple(prompt)] for prompt in prompts]


@torch.no_grad()
def sample(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    k: int,
    *,
    temperature: float = 1.0,
    max_new_tokens: int = 16,
    seed: int = 0,
    rows: int = 256,
    budget: int | None = None,
) -> list[list[tuple[int, ...]]]:
    """k continuations of each prompt, every token drawn from softmax(logits / temperature).

    Returns, per prompt, the new ids of each sample, the end token left out as `greedy` does. Temperature 0 is greedy.

    A token is the inverse of the cumulative distribution at one uniform number, which is a function of the seed, the
    prompt's ids, the sample's number and the step alone. So what a prompt yields depends neither on the other prompts
    nor on how they are batched (but for a rounding of the logits that crosses a border of the distribution, about one
    token in a million); more samples begin with those of fewer; equal prompts yield the same; and two models asked
    with one seed differ only as their distributions do. On a processor the result is the same every time.

    rows    rows decoded together, about, and never fewer than k.

    Raises: UsageError for an empty prompt, a length or count below 1, or a negative temperature.
    """
    if k < 1 or not temperature >= 0:
        raise UsageError(f"k = {k} samples at temperature {temperature}; expected at least 1, and 0 or more")
    unique, read = _plan(loaded, prompts, max_new_tokens)
    answers: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for part in read(loaded, unique, max(1, rows // k), budget or usual_budget(loaded)):
        drawn = [_uniform(seed, unique[i], number, max_new_tokens) for i in part.which.tolist() for number in range(k)]
        uniform = torch.from_numpy(np.stack(drawn)).to(loaded.device)
        choose = _drawn(uniform, temperature) if temperature > 0 else _likeliest
        found = _decode(loaded, _repeated(part, k), max_new_tokens, choose)
        for place, i in enumerate(part.which.tolist()):
            answers[unique[i]] = found[place * k : (place + 1) * k]
    return [list(answers[tuple(prompt)]) for prompt in prompts]


def texts(loaded: LoadedModel, answers: Sequence[Sequence[int]]) -> list[str]:
    """What was decoded as text, without special tokens and surrounding white space."""
    return [str(loaded.tokenizer.decode(list(ids), skip_special_tokens=True)).strip() for ids in answers]


def _uniform(seed: int, prompt: Sequence[int], number: int, steps: int) -> Float[np.ndarray, " S"]:
    """Numbers in [0, 1), a step each. The length is part of the seed, as numpy takes a missing entry for a zero."""
    return np.random.default_rng([seed, number, len(prompt), *prompt]).random(steps)


def _likeliest(logits: Float[Tensor, "B V"], _alive: Int[Tensor, " B"], _step: int) -> Int[Tensor, " B"]:
    return logits.argmax(-1)


def _drawn(uniform: Float[Tensor, "N S"], temperature: float) -> _Choose:
    """A choice by inverse cumulative distribution, with one uniform number a row and step."""

    def choose(logits: Float[Tensor, "B V"], alive: Int[Tensor, " B"], step: int) -> Int[Tensor, " B"]:
        at = uniform[alive, step, None]
        tokens = []
        for start in range(0, len(logits), chunk := max(1, DRAW_NUMBERS // logits.shape[-1])):
            part = slice(start, start + chunk)
            shifted = logits[part].float()
            probability = ((shifted - shifted.amax(-1, keepdim=True)) / temperature).softmax(-1)
            reached = probability.cumsum(-1, dtype=torch.float64)
            # `right`: a token of probability 0 is never the first whose cumulative probability exceeds the number.
            tokens.append(torch.searchsorted(reached, at[part] * reached[:, -1:], right=True)[:, 0])
        return torch.cat(tokens).clamp(max=logits.shape[-1] - 1)

    return choose


def _repeated(part: _Prefilled, k: int) -> _Prefilled:
    """Every row k times, copies side by side."""
    part.cache.batch_repeat_interleave(k)
    hidden, mask = part.hidden.repeat_interleave(k, 0), part.mask.repeat_interleave(k, 0)
    return _Prefilled(part.which.repeat(k), part.cache, hidden, mask)


def _plan(
    loaded: LoadedModel, prompts: Sequence[Sequence[int]], max_new_tokens: int
) -> tuple[list[tuple[int, ...]], _Read]:
    """The distinct prompts, shortest first, and how they are to be read."""
    if max_new_tokens < 1:
        raise UsageError(f"max_new_tokens = {max_new_tokens}; expected at least 1")
    if any(len(prompt) == 0 for prompt in prompts):
        raise UsageError("a prompt has no token; every prompt needs at least one")
    unique = sorted({tuple(prompt) for prompt in prompts}, key=lambda prompt: (len(prompt), prompt))
    window = getattr(loaded.config, "sliding_window", None)
    fits = window is None or not unique or len(unique[-1]) + max_new_tokens <= window
    return unique, _read_tree if unique and fits and takes_ancestor_mask(loaded) else _read_padded


def _decode(loaded: LoadedModel, part: _Prefilled, max_new_tokens: int, choose: _Choose) -> list[tuple[int, ...]]:
    """New ids of each row, by `choose(logits, rows still going, step)`; a row leaves the batch when it ends."""
    ends = torch.tensor(loaded.end_ids, dtype=torch.long, device=loaded.device)
    cache, hidden, mask = part.cache, part.hidden, part.mask
    layers: list[Any] = cache.layers
    alive = torch.arange(len(hidden), device=loaded.device)
    found: list[list[int]] = [[] for _ in range(len(hidden))]
    for step in range(max_new_tokens):
        token = choose(logits_of(loaded, hidden), alive, step)
        going = ~torch.isin(token, ends)
        if not bool(going.all()):
            alive, token, mask = alive[going], token[going], mask[going]
            kept = going.nonzero()[:, 0]
            for layer in layers:  # of which each may lie on another device
                layer.batch_select_indices(kept.to(layer.keys.device))
        for i, new in zip(alive.tolist(), token.tolist(), strict=True):
            found[i].append(new)
        if len(alive) == 0 or step == max_new_tokens - 1:
            break
        position = mask.sum(-1, keepdim=True)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        _, output = run_decoder(loaded, token[:, None], mask, position, past_key_values=cache, use_cache=True)
        hidden = output[0][:, -1]
    return [tuple(ids) for ids in found]


def _read_padded(
    loaded: LoadedModel, prompts: Sequence[tuple[int, ...]], rows: int, budget: int
) -> Iterator[_Prefilled]:
    """Read prompts, shortest first, in left-padded batches."""
    start = 0
    while start < len(prompts):
        count = max(1, min(rows, budget // len(prompts[start])))
        part = prompts[start : start + count]
        width = len(part[-1])
        tokens = torch.tensor([[0] * (width - len(p)) + list(p) for p in part], device=loaded.device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in part], device=loaded.device)
        cache = DynamicCache(config=loaded.config)
        position = (mask.cumsum(-1) - 1).clamp(min=0)
        _, output = run_decoder(loaded, tokens, mask, position, past_key_values=cache, use_cache=True)
        yield _Prefilled(np.arange(start, start + len(part)), cache, output[0][:, -1], mask)
        start += count


def _read_tree(loaded: LoadedModel, prompts: Sequence[tuple[int, ...]], rows: int, budget: int) -> Iterator[_Prefilled]:
    """Read prompts as prefix trees, then hand each the keys and values of its own path."""
    plan = plan_trie(prompts, [[len(prompt) - 1] for prompt in prompts], budget=budget)
    for batch in plan.batches:
        tree = DynamicCache()
        _, output = run_batch(loaded, batch, True, past_key_values=tree, use_cache=True)
        for start in range(0, len(batch.item), rows):
            part = slice(start, start + rows)
            row, node = batch.row[part], batch.node[part]
            path, mask = _paths(batch, row, node)
            at, along = torch.from_numpy(row).to(loaded.device), torch.from_numpy(path).to(loaded.device)
            cache = DynamicCache()
            layers: list[Any] = tree.layers
            for number, layer in enumerate(layers):
                place = at[:, None].to(layer.keys.device), slice(None), along.to(layer.keys.device)
                keys, values = layer.keys[place].transpose(1, 2), layer.values[place].transpose(1, 2)
                cache.update(keys, values, number)
            hidden = output[0][at, torch.from_numpy(node).to(loaded.device)]
            yield _Prefilled(batch.item[part], cache, hidden, torch.from_numpy(mask).to(loaded.device))


def _paths(
    batch: Batch, row: Int[np.ndarray, " n"], node: Int[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, "n L"], Int[np.ndarray, "n L"]]:
    """The nodes from the root to each given node, left-padded, and 1 where they are real."""
    seen = ancestor_mask(batch.end)[row, node]
    length = seen.sum(-1)
    path = np.zeros((len(row), int(length.max())), dtype=np.int64)
    mask = np.zeros_like(path)
    which, at = np.nonzero(seen)
    place = path.shape[1] - length[which] + batch.depth[row[which], at]
    path[which, place], mask[which, place] = at, 1
    return path, mask
