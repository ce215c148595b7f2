"""The passes of the training loop: without padding, equal beginnings once, from the lowest block that trains upward."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from storage.records import Site
from tasks.alignment.examples import Rows
from tasks.alignment.method import Forward
from tasks.models.forward import beginning_at, captured, edited, logits_of, plan_for, read_sites, run_batch
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


def read_below(loaded: LoadedModel, rows: Rows, sites: Sequence[Site]) -> Below | None:
    """The input of the lowest block that a step has to run: that trains, or holds a site that is read; None for the
    first of all.

    For the time in which the parameters that train require a gradient; it lasts as long as the others stay as they are.
    """
    trains = (
        number
        for number, block in enumerate(loaded.blocks)
        if any(parameter.requires_grad for parameter in block.parameters())
    )
    lowest = min([next(trains, 0), *(site.layer for site in sites)])
    if lowest == 0:
        return None
    lengths = rows.mask.sum(-1)
    sequences = [ids[:length] for ids, length in zip(rows.ids.tolist(), lengths.tolist(), strict=True)]
    site = Site(lowest - 1)
    states = read_sites(loaded, sequences, [range(len(sequence)) for sequence in sequences], [site])
    return Below(lowest, states[site], lengths.cumsum(0) - lengths)


def compute(
    loaded: LoadedModel,
    rows: Rows,
    sites: Sequence[Site],
    *,
    states: bool,
    answers: bool,
    restored: tuple[Site, Float[Tensor, "B S D"]] | None = None,
    below: Below | None = None,
) -> Forward:
    """One pass over the rows' tokens without padding, equal beginnings once, gradients as torch is set.

    It ends after the last position that is asked for, and after the last site when no answers are.

    restored  states that take the place of the site's at the rows' state positions: what comes after is computed from
              them, while the states that are returned are those before the change.
    below     where to begin, of the same rows; None: with the first block.
    """
    wanted = sites if states else ()
    if not wanted and not answers:
        return Forward({}, None)
    until = max(site.layer for site in sites) if not answers else None
    lengths = (rows.answer_positions if answers else rows.state_positions).amax(-1) + 1
    sequences = [ids[:length] for ids, length in zip(rows.ids.tolist(), lengths.tolist(), strict=True)]
    plan = plan_for(loaded, sequences, [range(len(sequence)) for sequence in sequences])
    node = np.empty(plan.items, dtype=np.int64)  # of each token of each row, among the nodes of all batches
    starts = np.cumsum([0, *(batch.tokens.size for batch in plan.batches)])
    for start, batch in zip(starts, plan.batches, strict=False):
        node[batch.item] = start + batch.row * batch.tokens.shape[1] + batch.node
    first = (lengths.cumsum(0) - lengths)[:, None]
    nodes = torch.from_numpy(node).to(rows.ids.device)
    passes = []
    for start, batch in zip(starts.tolist(), plan.batches, strict=False):
        with contextlib.ExitStack() as stack:
            if below is not None:
                source = torch.cat(
                    [torch.arange(a, a + n) for a, n in zip(below.start.tolist(), lengths.tolist(), strict=True)]
                )
                stack.enter_context(beginning_at(loaded, below.block, _laid_out(batch, below.state, source)))
            found = stack.enter_context(captured(loaded, wanted))
            if restored is not None:
                site, values = restored
                where = nodes[first + rows.state_positions][rows.state_mask] - start
                inside = (where >= 0) & (where < batch.tokens.size)
                change = functools.partial(_put, where[inside], values[rows.state_mask][inside])
                stack.enter_context(edited(loaded, site, change))
            _, output = run_batch(loaded, batch, plan.trie, until=until)
        passes.append((found, output))
    picked = {
        site: torch.cat([found[site].flatten(0, 1) for found, _ in passes])[nodes[first + rows.state_positions]]
        for site in wanted
    }
    if not answers:
        return Forward(picked, None)
    hidden = torch.cat([output.last_hidden_state.flatten(0, 1) for _, output in passes])
    distinct, which = nodes[first + rows.answer_positions].unique(return_inverse=True)
    log_probabilities = logits_of(loaded, hidden[distinct]).float().log_softmax(-1)
    return Forward(picked, log_probabilities.index_select(0, which.flatten()).unflatten(0, which.shape))


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
