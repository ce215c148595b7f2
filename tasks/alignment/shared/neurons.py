"""Feed-forward neurons: what each block's down-projection reads, which weights belong to a neuron, plain passes over rows.

B rows, T tokens, A answer positions, N neurons of a block, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from storage.records import Site, UsageError
from tasks.alignment.examples import Rows
from tasks.alignment.method import Forward
from tasks.models.forward import distributions_of, run_decoder
from tasks.models.load import LoadedModel

ROWS_AT_ONCE = 32
"""Rows of a plain pass."""


class NeuronWeights(NamedTuple):
    """A down-projection's weight."""

    block: int
    neuron_axis: int
    """The axis that runs over the neurons: 1 in a linear layer, 0 where the family keeps its weights transposed."""


def neuron_sites(student: LoadedModel) -> tuple[Site, ...]:
    """The neurons of every block."""
    return tuple(Site(layer, "neurons") for layer in range(len(student.blocks)))


def neuron_weights(student: LoadedModel) -> dict[str, NeuronWeights]:
    """Parameter name -> which block's neurons it belongs to, for the weight of every down-projection."""
    names = {id(parameter): name for name, parameter in student.model.named_parameters()}
    found = {}
    for block, module in enumerate(student.blocks):
        down: Any = module.get_submodule(student.family.down_projection)
        found[names[id(down.weight)]] = NeuronWeights(block, 1 if isinstance(down, nn.Linear) else 0)
    return found


def neuron_gradients(
    parameters: Mapping[str, nn.Parameter], weights: Mapping[str, NeuronWeights], blocks: Collection[int]
) -> list[tuple[int, Float[Tensor, "D N"]]]:
    """Block and gradient, a column a neuron, of those blocks' down-projections, as views to be changed in place; every
    other gradient is set to zero.

    Raises: UsageError when none of them trains.
    """
    chosen = {name: place for name, place in weights.items() if place.block in blocks and name in parameters}
    if not chosen:
        named = ", ".join(map(str, sorted(blocks)))
        raise UsageError(
            f"the method changes down-projections of blocks {named} and none of them is set to train; use "
            '[alignment] train = "own" or "down_projections", and let layers be empty or name some of these blocks'
        )
    found = []
    for name, parameter in parameters.items():
        if parameter.grad is None:
            continue
        if name in chosen:
            block, axis = chosen[name]
            found.append((block, parameter.grad if axis == 1 else parameter.grad.T))
        else:
            parameter.grad.zero_()
    return found


def real_tokens(rows: Rows) -> Bool[Tensor, "B T"]:
    """The prompt's and the answer's tokens: neither padding nor the end, which predicts nothing."""
    place = torch.arange(rows.ids.shape[1], device=rows.ids.device)
    return place <= rows.answer_positions.amax(-1, keepdim=True)


def plain_pass(
    student: LoadedModel, rows: Rows, sites: Sequence[Site], embeddings: Float[Tensor, "B T D"] | None = None
) -> tuple[dict[Site, Float[Tensor, "B T _"]], Forward]:
    """One padded pass, in which no two rows share a state, so that each has gradients of its own: the sites at every
    token, and the answers' distributions.

    embeddings  what is read in the place of the tokens' own. The sites have gradients where these do, whatever trains.
    """
    read = student.embeddings(rows.ids) if embeddings is None else embeddings
    states, output = run_decoder(student, rows.ids, rows.mask, sites=sites, input_ids=None, inputs_embeds=read)
    each = torch.arange(len(rows), device=rows.ids.device)[:, None]
    hidden = output.last_hidden_state[each, rows.answer_positions]
    return states, Forward({}, distributions_of(student, hidden))


def parts_of(rows: Rows) -> Iterator[Rows]:
    """The rows, a few at once."""
    for start in range(0, len(rows), ROWS_AT_ONCE):
        yield rows.pick(torch.arange(start, min(start + ROWS_AT_ONCE, len(rows)), device=rows.ids.device))
