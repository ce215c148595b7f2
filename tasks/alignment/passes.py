"""The passes of the training loop: without padding, equal beginnings once, from the lowest block that trains upward."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from storage.records import Site
from tasks.alignment.examples import Rows
from tasks.alignment.method import Forward
from tasks.models.forward import beginning_at, captured, distributions_of, edited, plan_for, read_sites, run_batch
from tasks.models.load import LoadedModel
from tasks.models.plan import Batch


@dataclass(frozen=True, eq=False)
class Below:
    """The input of a block at every token of some rows, which no step changes: all blocks below it are frozen."""

    block: int
    state: Float[Tensor, "N D"]
    """Row by row."""
    start: Int[Tensor, " B"]
    """Where each row begins."""

    def of(self, index: Int[Tensor, " b"]) -> Below:
        """That of some of the rows."""
        return Below(self.block, self.state, self.start[index])


@dataclass(frozen=True, eq=False)
class Asked:
    """Rows to be run, and what is wanted of them."""

    rows: Rows
    states: bool
    answers: bool
    below: Below | None = None
    """Where to begin; None: with the first block."""
    restored: tuple[Site, Float[Tensor, "B S D"]] | None = None
    """States that take the place of the site's at the rows' state positions: what comes after is computed from them,
    while the states that are returned are those before the change."""


def read_below(loaded: LoadedModel, groups: Mapping[str, Rows], sites: Sequence[Site]) -> dict[str, Below]:
    """The input of the lowest block that a step has to run: that trains, or holds a site that is read; {} where that is
    the first of all.

    For the time in which the parameters that train require a gradient; it lasts as long as the others stay as they are.
    """
    trains = (
        number
        for number, block in enumerate(loaded.blocks)
        if any(parameter.requires_grad for parameter in block.parameters())
    )
    lowest = min([next(trains, 0), *(site.layer for site in sites)])
    if lowest == 0 or not groups:
        return {}
    lengths = {name: rows.mask.sum(-1) for name, rows in groups.items()}
    sequences = [each for name, rows in groups.items() for each in _cut(rows, lengths[name])]
    site = Site(lowest - 1)
    state = read_sites(loaded, sequences, [range(len(sequence)) for sequence in sequences], [site])[site]
    found, start = {}, 0
    for name, each in lengths.items():
        found[name] = Below(lowest, state, start + each.cumsum(0) - each)
        start += int(each.sum())
    return found


def compute(
    loaded: LoadedModel, rows: Rows, sites: Sequence[Site], *, states: bool, answers: bool, **more: Any
) -> Forward:
    """One pass over rows of one kind; see `compute_together`, and `Asked` for what more can be said of them."""
    return compute_together(loaded, [Asked(rows, states, answers, **more)], sites)[0]


def compute_together(
    loaded: LoadedModel, asked: Sequence[Asked], sites: Sequence[Site], *, distributions: bool = True
) -> list[Forward]:
    """One pass over the tokens of all rows without padding, equal beginnings once, gradients as torch is set.

    It ends after the last position that is asked for, and after the last site when nobody asks for answers. Rows with
    restored states are asked for alone, for another's equal beginning would be changed with theirs; and of several,
    all begin at one block, as `read_below` keeps them.

    distributions  whether answers are distributions, or the states that `distributions_of` makes them of.
    """
    below, restored = asked[0].below, asked[0].restored
    assert len(asked) == 1 or not any(each.restored for each in asked)
    assert all((each.below and each.below.state) is (below and below.state) for each in asked)
    wanted = sites if any(each.states for each in asked) else ()
    answers = any(each.answers for each in asked)
    if not wanted and not answers:
        return [Forward({}, None) for _ in asked]
    until = None if answers else max(site.layer for site in sites)
    lengths = [
        (each.rows.answer_positions if each.answers else each.rows.state_positions).amax(-1) + 1 for each in asked
    ]
    sequences = [ids for each, length in zip(asked, lengths, strict=True) for ids in _cut(each.rows, length)]
    plan = plan_for(loaded, sequences, [range(len(sequence)) for sequence in sequences])
    node = np.empty(plan.items, dtype=np.int64)  # of each token of each row, among the nodes of all batches
    starts = np.cumsum([0, *(batch.tokens.size for batch in plan.batches)])
    for start, batch in zip(starts, plan.batches, strict=False):
        node[batch.item] = start + batch.row * batch.tokens.shape[1] + batch.node
    nodes = torch.from_numpy(node).to(loaded.device)
    every = torch.cat(lengths)
    firsts = (every.cumsum(0) - every)[:, None].split([len(each.rows) for each in asked])
    source = None if below is None else _kept_at([each.below for each in asked if each.below], every)
    passes = []
    for start, batch in zip(starts.tolist(), plan.batches, strict=False):
        with contextlib.ExitStack() as stack:
            if below is not None and source is not None:
                stack.enter_context(beginning_at(loaded, below.block, _laid_out(batch, below.state, source)))
            found = stack.enter_context(captured(loaded, wanted))
            if restored is not None:
                site, values = restored
                rows = asked[0].rows
                where = nodes[firsts[0] + rows.state_positions][rows.state_mask] - start
                inside = (where >= 0) & (where < batch.tokens.size)
                change = functools.partial(_put, where[inside], values[rows.state_mask][inside])
                stack.enter_context(edited(loaded, site, change))
            _, output = run_batch(loaded, batch, plan.trie, until=until)
        passes.append((found, output))
    state = {site: torch.cat([found[site].flatten(0, 1) for found, _ in passes]) for site in wanted}
    picked = [
        {site: state[site][nodes[at + each.rows.state_positions]] for site in (wanted if each.states else ())}
        for each, at in zip(asked, firsts, strict=True)
    ]
    if not answers:
        return [Forward(each, None) for each in picked]
    hidden = torch.cat([output.last_hidden_state.flatten(0, 1) for _, output in passes])
    places = [nodes[at + each.rows.answer_positions] for each, at in zip(asked, firsts, strict=True) if each.answers]
    distinct, which = torch.cat([place.flatten() for place in places]).unique(return_inverse=True)
    values = distributions_of(loaded, hidden[distinct]) if distributions else hidden[distinct]
    of_each = iter(
        values.index_select(0, entry).unflatten(0, place.shape)
        for place, entry in zip(places, which.split([place.numel() for place in places]), strict=True)
    )
    made = []
    for each, states in zip(asked, picked, strict=True):
        said = next(of_each) if each.answers else None
        made.append(Forward(states, said) if distributions else Forward(states, None, said))
    return made


def _cut(rows: Rows, lengths: Int[Tensor, " B"]) -> list[list[int]]:
    return [ids[:length] for ids, length in zip(rows.ids.tolist(), lengths.tolist(), strict=True)]


def _kept_at(below: Sequence[Below], lengths: Int[Tensor, " B"]) -> Int[Tensor, " n"]:
    """Where each token of each row is kept among the states."""
    begins = torch.cat([each.start for each in below]).tolist()
    return torch.cat([torch.arange(a, a + n) for a, n in zip(begins, lengths.tolist(), strict=True)])


def _laid_out(batch: Batch, state: Float[Tensor, "N D"], source: Int[Tensor, " n"]) -> Float[Tensor, "R T D"]:
    """The states of a batch's nodes, zero at padding; `source` says where that of each token of each row is kept."""
    found = state.new_zeros(*batch.tokens.shape, state.shape[-1])
    row, node = torch.from_numpy(batch.row), torch.from_numpy(batch.node)
    found[row, node] = state[source[torch.from_numpy(batch.item)]]
    return found


def _put(
    where: Int[Tensor, " n"], values: Float[Tensor, "n D"], state: Float[Tensor, "R T D"]
) -> Float[Tensor, "R T D"]:
    return state.flatten(0, 1).index_copy(0, where, values.to(state.dtype)).view_as(state)
