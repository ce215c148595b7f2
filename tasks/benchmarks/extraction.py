"""Extraction: the state at each name's last token after one block, for every question about it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tasks.benchmarks.harness import Claim, Run, Section, Variant, Watch
from tasks.benchmarks.peers import nnsight_states, sae_lens_states, transformer_lens_states
from tasks.benchmarks.workload import PAD, Size, Workload
from tasks.models.forward import all_residuals, plan_for, read_sites
from tasks.models.load import LoadedModel

BATCH = 32
"""Prompts a batch of those who pad."""
OURS, OURS_HALF = "ours, float32", "ours, bfloat16"
FLOOR, FLOOR_HALF = "floor: our matrix products alone, float32", "floor: our matrix products alone, bfloat16"
PLAIN = "transformers, output_hidden_states"
PLAIN_ALL, OURS_ALL = "transformers, output_hidden_states, every layer kept", "ours, float32, every layer"
CAREFUL = "transformers, cut, distinct, by length, early exit"
LENS, NNSIGHT, RUNNER = (
    "TransformerLens bridge, run_with_cache, stop_at_layer",
    "nnsight, trace, stop",
    "sae-lens, CacheActivationsRunner, written to disk",
)

Ids = Sequence[Sequence[int]]


def extraction_variants(loaded: LoadedModel, size: Size, work: Workload, peers: bool = True) -> list[Variant]:
    """Ours, what others do, and the floor of ours. `peers` False leaves the other libraries out."""
    half = half_precision(loaded)
    padded = sum(ids.numel() for ids, _, _ in padded_batches(work))
    plan = plan_for(loaded, work.prompts, work.name_ends)
    ours = sum(batch.tokens.size for batch in plan.batches)
    careful = sum(map(len, _cut(work)))
    own = [
        Variant(PLAIN, lambda: _hidden_states(loaded, size, work), tokens=padded),
        Variant("transformers, hook and early exit", lambda: _hook(loaded, size, work), PLAIN, tokens=padded),
        Variant(PLAIN_ALL, lambda: _hidden_states(loaded, size, work, whole=True), tokens=padded),
        Variant(CAREFUL, lambda: _careful(loaded, size, work), PLAIN, tokens=careful),
        Variant(OURS, lambda: _ours(loaded, size, work), PLAIN, 1e-5, ours),
        Variant(OURS_HALF, lambda: _ours(half, size, work), PLAIN, 0.05, ours),
        Variant(OURS_ALL, lambda: _ours(loaded, size, work, whole=True), PLAIN_ALL, 1e-5, ours),
        Variant(FLOOR, lambda: _products(loaded, size, work), tokens=ours),
        Variant(FLOOR_HALF, lambda: _products(half, size, work), tokens=ours),
    ]  # fmt: skip
    others = [
        Variant(
            LENS,
            lambda: transformer_lens_states(loaded, size, padded_batches(work)),
            PLAIN,
            tokens=padded,
            package="transformer_lens",
        ),
        Variant(
            NNSIGHT,
            lambda: nnsight_states(loaded, size, padded_batches(work)),
            PLAIN,
            tokens=padded,
            package="nnsight",
        ),
        Variant(
            RUNNER,
            lambda: sae_lens_states(loaded, size, work.prompts, [question.name_last for question in work.questions]),
            PLAIN,
            tokens=len(work.prompts) * max(map(len, work.prompts)),
            package="sae_lens",
        ),
    ]
    return [*own[:2], *others, *own[2:]] if peers else own


def describe(size: Size, work: Workload, relations: str) -> Section:
    """The section that the rows go into."""
    questions, entities = len(work.questions), len(set(work.entity))
    return Section(
        f"Extraction, {relations} an entity",
        f"{questions} prompts about {entities} entities, {work.tokens} tokens; wanted: the state at the name's last "
        f"token after block {size.site.layer + 1} of {size.layers}, {questions} states, {work.distinct} of them distinct",
        OURS,
    )


def with_claims(section: Section, one: bool) -> Section:
    """The section with what its rows come to. `one`: each entity is asked about once, so that cutting makes nothing
    equal, and what hangs on that has no limit."""

    def gain(what: str, by: str, must: float, aim: float, ours: str = OURS, hangs: bool = True) -> Claim:
        return Claim(what, section.ratio(by, ours), None if one and hangs else must, None if one and hangs else aim)

    error = section.row(OURS).error
    return replace(
        section,
        claims=(
            gain("one site, against output_hidden_states", PLAIN, 30, 42),
            gain("against TransformerLens with stop", LENS, 10, 15),
            gain("against nnsight with stop", NNSIGHT, 10, 15),
            gain("against sae-lens' cache runner", RUNNER, 10, 15),
            gain("against a careful user's loop", CAREFUL, 1.7, 2.2, hangs=False),
            Claim("over its own matrix products, float32", section.ratio(OURS, FLOOR), 1.35, 1.15, True),
            Claim("over its own matrix products, bfloat16", section.ratio(OURS_HALF, FLOOR_HALF), 1.5, 1.3, True),
            gain("every site, against the plain way", PLAIN_ALL, 15, 22, OURS_ALL),
            Claim("largest relative error, float32", error, 2e-6, None, True),
        ),
    )


def half_precision(loaded: LoadedModel) -> LoadedModel:
    """A copy in bfloat16."""
    return replace(loaded, model=copy.deepcopy(loaded.model).to(torch.bfloat16))


def padded_batches(work: Workload) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Ids and mask, padded on the right, and the wanted position of each row; in the order given."""
    for start in range(0, len(work.questions), BATCH):
        part = work.questions[start : start + BATCH]
        ids, mask = pad([question.prompt for question in part])
        yield ids, mask, torch.tensor([question.name_last for question in part])


def pad(sequences: Ids, left: bool = False) -> tuple[Tensor, Tensor]:
    """Ids and mask `B T`."""
    longest = max(map(len, sequences))
    gaps = [[PAD] * (longest - len(sequence)) for sequence in sequences]
    ids = [[*gap, *row] if left else [*row, *gap] for gap, row in zip(gaps, sequences, strict=True)]
    real = [[0 if left else 1] * len(gap if left else row) + [1 if left else 0] * len(row if left else gap)
            for gap, row in zip(gaps, sequences, strict=True)]  # fmt: skip
    return torch.tensor(ids), torch.tensor(real)


def _ours(loaded: LoadedModel, size: Size, work: Workload, whole: bool = False) -> Run:
    sites = all_residuals(loaded)[:-1] if whole else (size.site,)

    def run(_: Watch) -> np.ndarray:
        found = read_sites(loaded, work.prompts, work.name_ends, sites)
        return torch.cat([found[site] for site in sites]).numpy()

    return run


def _hidden_states(loaded: LoadedModel, size: Size, work: Workload, whole: bool = False) -> Run:
    """`whole`: of every block but the last, whose states transformers gives after the final norm only."""
    layers = [site.layer for site in all_residuals(loaded)[:-1]] if whole else [size.site.layer]

    @torch.no_grad()
    def run(_: Watch) -> np.ndarray:
        found: list[list[Tensor]] = [[] for _ in layers]
        for ids, mask, wanted in padded_batches(work):
            states = loaded.model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
            for kept, layer in zip(found, layers, strict=True):
                kept.append(states[layer + 1][torch.arange(len(ids)), wanted])
        return torch.cat([torch.cat(kept) for kept in found]).numpy()

    return run


class _Left(Exception):
    """Raised by a hook, to leave the forward pass."""


def _read(loaded: LoadedModel, layer: int, ids: Tensor, mask: Tensor | None) -> Tensor:
    """The usual hook: keep the block's output and raise."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        kept.append(output[0] if isinstance(output, tuple) else output)
        raise _Left

    handle = loaded.model.model.layers[layer].register_forward_hook(keep)
    try:
        loaded.model.model(input_ids=ids, attention_mask=mask, use_cache=False)
    except _Left:
        pass
    finally:
        handle.remove()
    return kept[0]


def _hook(loaded: LoadedModel, size: Size, work: Workload) -> Run:
    @torch.no_grad()
    def run(_: Watch) -> np.ndarray:
        found = []
        for ids, mask, wanted in padded_batches(work):
            found.append(_read(loaded, size.site.layer, ids, mask)[torch.arange(len(ids)), wanted])
        return torch.cat(found).numpy()

    return run


def _cut(work: Workload) -> list[tuple[int, ...]]:
    """The distinct prompts, cut after the wanted token."""
    return sorted({question.prompt[: question.name_last + 1] for question in work.questions})


def _careful(loaded: LoadedModel, size: Size, work: Workload) -> Run:
    """What someone who thinks about it writes: nothing after the wanted token, nothing twice, nothing padded."""

    @torch.no_grad()
    def run(_: Watch) -> np.ndarray:
        by_length: dict[int, list[tuple[int, ...]]] = {}
        for cut in _cut(work):
            by_length.setdefault(len(cut), []).append(cut)
        found: dict[tuple[int, ...], Tensor] = {}
        for same in by_length.values():
            for start in range(0, len(same), BATCH):
                part = same[start : start + BATCH]
                states = _read(loaded, size.site.layer, torch.tensor(part), None)[:, -1]
                found.update(zip(part, states, strict=True))
        return torch.stack([found[question.prompt[: question.name_last + 1]] for question in work.questions]).numpy()

    return run


def _products(loaded: LoadedModel, size: Size, work: Workload) -> Run:
    """The linear maps of the blocks that ours runs, on its batches' shapes, and nothing between them."""
    plan = plan_for(loaded, work.prompts, work.name_ends)
    maps = [
        module
        for block in loaded.blocks[: size.site.layer + 1]
        for module in block.modules()
        if isinstance(module, nn.Linear)
    ]
    dtype = maps[0].weight.dtype
    inputs = {(batch.tokens.shape, width): torch.randn(*batch.tokens.shape, width, dtype=dtype)
              for batch in plan.batches for width in {linear.in_features for linear in maps}}  # fmt: skip

    @torch.no_grad()
    def run(_: Watch) -> None:
        for batch in plan.batches:
            for linear in maps:
                linear(inputs[batch.tokens.shape, linear.in_features])

    return run
