"""The loop's float32 copies of what trains in 16 bits, and its assertions about what moved."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tasks.models.adapters import adapted
from tasks.models.forward import logits_of, run_decoder
from tasks.models.load import LoadedModel
from tasks.models.train import Loss, minimise, nothing_else_moves

IDS = torch.tensor([[1, 5, 9, 13, 4, 7], [1, 8, 3, 3, 20, 11]])
Fresh = Callable[..., LoadedModel]


def towards(weight: nn.Parameter, goal: Tensor) -> Callable[[int], Loss]:
    def loss_at(step: int) -> Loss:
        loss = (weight.float() - goal).square().mean()
        return Loss(loss, {})

    return loss_at


def likelier(loaded: LoadedModel) -> Callable[[int], Loss]:
    def loss_at(step: int) -> Loss:
        logits = logits_of(loaded, run_decoder(loaded, IDS)[1].last_hidden_state).float()
        loss = -logits.log_softmax(-1)[:, :-1].gather(-1, IDS[:, 1:, None]).mean()
        return Loss(loss, {"nll": loss})

    return loss_at


def test_small_steps_are_not_rounded_away_in_bfloat16() -> None:
    """Forty steps of 1e-5 move a weight of 0.02 by 4e-4, of which plain AdamW on bfloat16 would make nothing."""
    start, goal = torch.full((64, 64), 0.02), torch.full((64, 64), 1.0)
    exact, coarse, rounded = (nn.Parameter(start.clone()) for _ in range(3))
    coarse.data, rounded.data = coarse.data.bfloat16(), rounded.data.bfloat16()
    for weight in (exact, coarse):
        minimise([weight], towards(weight, goal), steps=40, learning_rate=1e-5, decay=0.0)
    plain = torch.optim.AdamW([rounded], lr=1e-5, weight_decay=0.0)
    for step in range(40):
        plain.zero_grad()
        towards(rounded, goal)(step).total.backward()
        plain.step()
    assert torch.equal(rounded.float(), start.bfloat16().float()), "why there are copies"
    assert coarse.dtype == torch.bfloat16
    moved = exact.detach() - start
    assert float(moved.mean()) == pytest.approx(4e-4, rel=0.1)
    torch.testing.assert_close(coarse.float(), exact.detach(), rtol=2**-8, atol=0)
    assert float(coarse.detach().float().mean() - start.bfloat16().float().mean()) == pytest.approx(4e-4, rel=0.2)


def test_a_whole_model_in_bfloat16_learns_what_it_learns_in_float32(fresh: Fresh) -> None:
    ends = {}
    for dtype in (torch.float32, torch.bfloat16):
        loaded = fresh("llama")
        loaded.model.to(dtype)
        history = minimise(list(loaded.model.parameters()), likelier(loaded), steps=6, learning_rate=2e-3)
        ends[dtype] = [parts["nll"] for parts in history]
    assert ends[torch.float32][-1] < ends[torch.float32][0] - 0.5
    assert ends[torch.bfloat16] == pytest.approx(ends[torch.float32], rel=0.05)


def test_steps_too_small_for_the_type_are_said_to_be() -> None:
    weight = nn.Parameter(torch.full((8,), 1.0, dtype=torch.bfloat16))
    with pytest.raises(ArithmeticError, match=r"less than torch.bfloat16 tells apart; raise the learning rate"):
        minimise([weight], towards(weight, torch.zeros(8)), steps=3, learning_rate=1e-5)
    exact = nn.Parameter(torch.full((8,), 1.0))
    minimise([exact], towards(exact, torch.zeros(8)), steps=3, learning_rate=1e-5)


def test_equal_weights_that_move_alike_have_moved() -> None:
    """A hash by exclusive or is 0 of any even number of equal values."""
    weight = nn.Parameter(torch.ones(16))
    minimise([weight], towards(weight, torch.zeros(16)), steps=1, learning_rate=1e-3)
    assert bool((weight < 1).all())
    still = nn.Parameter(torch.ones(16))
    with pytest.raises(ArithmeticError, match="the loss reaches none"):
        minimise([still], towards(weight, torch.zeros(16)), steps=1, learning_rate=1e-3)


def test_adapters_of_a_model_in_bfloat16_are_float32(fresh: Fresh) -> None:
    loaded = fresh("gemma2")
    loaded.model.to(torch.bfloat16)
    before = {name: each.clone() for name, each in loaded.model.state_dict().items()}
    with adapted(loaded, None, rank=2, alpha=4.0) as parameters, nothing_else_moves(loaded.model, parameters.values()):
        assert {each.dtype for each in parameters.values()} == {torch.float32}
        history = minimise(list(parameters.values()), likelier(loaded), steps=4, learning_rate=5e-3)
        assert history[-1]["nll"] < history[0]["nll"]
    after = loaded.model.state_dict()
    assert {each.dtype for each in after.values()} == {torch.bfloat16}
    assert any(not torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize("change", ["add", "swap", "negate"])
def test_whatever_else_moves_is_named(fresh: Fresh, change: str) -> None:
    loaded = fresh("llama")
    named = dict(loaded.model.named_parameters())
    trained, other = named["model.layers.0.mlp.down_proj.weight"], named["model.layers.1.mlp.up_proj.weight"]
    with nothing_else_moves(loaded.model, [trained]), torch.no_grad():
        trained.add_(1.0)
    with (
        pytest.raises(ArithmeticError, match=r"model.layers.1.mlp.up_proj.weight changed in training"),
        nothing_else_moves(loaded.model, [trained]),
        torch.no_grad(),
    ):
        if change == "add":
            other[3, 4] += 1e-6
        elif change == "swap":
            other.data[0] = other.data[0].flip(0) + 0.01
        else:
            other.neg_()
