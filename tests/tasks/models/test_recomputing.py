"""Blocks that are computed again for the gradients: the same gradients, less that is kept."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from storage.records import Site, UsageError
from tasks.models.adapters import adapted
from tasks.models.forward import edited, plan_for, recomputed, run_batch, run_decoder
from tasks.models.load import LoadedModel

SITES = (Site(0), Site(1, "mlp"), Site(1, "neurons"), Site(2, "attention"))
Fresh = Callable[..., LoadedModel]


def one_pass(loaded: LoadedModel, sequences: list[list[int]], *, again: bool) -> tuple[float, dict[str, Tensor], int]:
    """Loss over states and outputs of a tree of sequences, gradients of all parameters, numbers kept for the backward pass."""
    plan = plan_for(loaded, sequences, [range(len(each)) for each in sequences])
    assert plan.trie
    kept = 0

    def pack(value: Tensor) -> Tensor:
        nonlocal kept
        kept += 0 if isinstance(value, torch.nn.Parameter) else value.numel()
        return value

    loss = torch.zeros(())
    with recomputed(loaded) if again else nullcontext():
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            for batch in plan.batches:
                states, output = run_batch(loaded, batch, True, sites=SITES)
                for value in (*states.values(), output.last_hidden_state):
                    loss = loss + value[torch.from_numpy(batch.row), torch.from_numpy(batch.node)].square().mean()
        loss.backward()
    found = {name: each.grad for name, each in loaded.model.named_parameters() if each.grad is not None}
    loaded.model.zero_grad()
    return float(loss.detach()), found, kept


def test_same_gradients_and_less_is_kept(fresh: Fresh, loaded: LoadedModel, sequences: list[list[int]]) -> None:
    model = fresh(loaded.family.name, num_hidden_layers=3)
    plain_loss, plain, all_kept = one_pass(model, sequences, again=False)
    loss, found, kept = one_pass(model, sequences, again=True)
    assert loss == plain_loss
    assert set(found) == set(plain)
    assert len(found) > 10
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, plain[name], rtol=0, atol=0, msg=name)
    assert kept < all_kept / 3
    assert not any("forward" in vars(block) for block in model.blocks), "the blocks are their own again"


def test_through_adapters(fresh: Fresh, sequences: list[list[int]]) -> None:
    loaded = fresh("llama", num_hidden_layers=3)
    with adapted(loaded, None, rank=2, alpha=4.0) as parameters:
        with torch.no_grad():
            for each in parameters.values():
                each.fill_(0.1)
        _, plain, _ = one_pass(loaded, sequences, again=False)
        _, found, _ = one_pass(loaded, sequences, again=True)
        assert set(found) == set(parameters) == set(plain)
        assert all(torch.equal(found[name], plain[name]) for name in plain)


def test_leaving_early_and_edits_of_the_stream_go_together(tiny: Callable[[str], LoadedModel]) -> None:
    loaded = tiny("gemma2")
    ids = torch.tensor([[1, 5, 9, 13]])

    def gradient(again: bool) -> Any:
        shift = torch.zeros(loaded.width, requires_grad=True)
        with recomputed(loaded) if again else nullcontext():
            with edited(loaded, Site(0), lambda value: value + shift):
                states, _ = run_decoder(loaded, ids, sites=[Site(1)], until=1)
            return torch.autograd.grad(states[Site(1)].square().sum(), shift)[0]

    assert torch.equal(gradient(False), gradient(True))


def test_an_edit_inside_a_block_is_refused(tiny: Callable[[str], LoadedModel]) -> None:
    loaded = tiny("llama")
    ids = torch.tensor([[1, 5, 9, 13]])
    with recomputed(loaded):
        with (
            pytest.raises(UsageError, match="mlp_1 lies inside a block") as refused,
            edited(loaded, Site(1, "mlp"), lambda value: value),
        ):
            pass
        with torch.no_grad(), edited(loaded, Site(1, "mlp"), lambda value: value * 0):
            run_decoder(loaded, ids)
    assert "\n" not in str(refused.value)
    with edited(loaded, Site(1, "mlp"), lambda value: value):
        run_decoder(loaded, ids)
