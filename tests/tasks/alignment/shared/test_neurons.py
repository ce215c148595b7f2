"""Plain passes give what the network gives; a neuron's weights are found in every layout."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from storage.records import Site, UsageError
from tasks.alignment.methods.likelihood.grad_diff import GradDiff
from tasks.alignment.passes import compute
from tasks.alignment.shared.neurons import (
    neuron_gradients,
    neuron_sites,
    neuron_weights,
    parts_of,
    plain_pass,
    real_tokens,
)
from tasks.models.families import family_of
from tasks.models.load import LoadedModel


@pytest.fixture
def transposed() -> LoadedModel:
    """A family that keeps a weight the other way round, with a bias."""
    torch.manual_seed(0)
    config = GPT2Config(n_layer=2, n_embd=8, n_head=2, n_inner=12, vocab_size=20, n_positions=16)
    model: Any = GPT2LMHeadModel(config).eval()
    return LoadedModel(model, SimpleNamespace(eos_token_id=1), family_of(model), torch.device("cpu"))


def test_a_plain_pass_gives_what_training_sees(small: Any) -> None:
    """On rows of unequal length, in every part."""
    student = small.model()
    material = small.material(GradDiff(), small.settings())
    rows = material.groups["retain"]
    site = Site(1, "neurons")
    assert site in neuron_sites(student)
    expected = compute(student, rows, [site], states=True, answers=True)
    start = 0
    for part in parts_of(rows):
        states, forward = plain_pass(student, part, [site])
        assert forward.log_probabilities is not None
        assert expected.log_probabilities is not None
        each = torch.arange(len(part))[:, None]
        own = slice(start, start + len(part))
        found = states[site][each, part.state_positions][part.state_mask]
        torch.testing.assert_close(found, expected.states[site][own][part.state_mask], rtol=1e-4, atol=1e-5)
        counts = part.answer_mask | part.end_mask
        torch.testing.assert_close(
            forward.log_probabilities[counts], expected.log_probabilities[own][counts], rtol=1e-4, atol=1e-5
        )
        start += len(part)
    assert start == len(rows)
    assert len(set(rows.mask.sum(-1).tolist())) > 1


def test_gradients_reach_the_neurons_of_a_frozen_model(small: Any) -> None:
    student = small.model()
    student.model.requires_grad_(False)
    rows = small.material(GradDiff(), small.settings()).groups["forget"]
    embeddings = student.embeddings(rows.ids).detach().requires_grad_()
    states, forward = plain_pass(student, rows, [Site(0, "neurons")], embeddings)
    assert forward.log_probabilities is not None
    (gradient,) = torch.autograd.grad(forward.log_probabilities[1].sum(), [states[Site(0, "neurons")]])
    assert float(gradient[1].abs().max()) > 0
    assert float(gradient[0].abs().max()) == 0, "rows do not share a state"


def test_padding_and_the_end_are_no_real_tokens(small: Any) -> None:
    rows = small.material(GradDiff(), small.settings()).groups["retain"]
    real = real_tokens(rows)
    assert torch.equal(real.sum(-1), rows.mask.sum(-1) - 1)
    for ids, inside, end in zip(rows.ids, real, rows.mask.sum(-1), strict=True):
        assert ids[end - 1] == 1
        assert not bool(inside[end - 1 :].any())


def test_a_gradient_has_a_column_for_each_neuron_in_every_layout(transposed: LoadedModel, small: Any) -> None:
    for student in (transposed, small.model()):
        parameters = dict(student.model.named_parameters())
        weights = neuron_weights(student)
        assert [place.block for place in weights.values()] == list(range(len(student.blocks)))
        for number, parameter in enumerate(parameters.values()):
            parameter.grad = torch.full_like(parameter, number + 1.0)
        (found,) = neuron_gradients(parameters, weights, {1})
        block, gradient = found
        down: Any = student.blocks[1].get_submodule(student.family.down_projection)
        assert block == 1
        assert gradient.shape == (student.width, 24 if student is not transposed else 12)
        gradient[:, 3] = -7.0
        column = down.weight.grad[3] if student is transposed else down.weight.grad[:, 3]
        assert bool((column == -7.0).all()), "it is the gradient itself that is changed"
        for name, parameter in parameters.items():
            assert parameter.grad is not None
            assert bool((parameter.grad == 0).all()) == (parameter is not down.weight), name


def test_nothing_to_change_is_refused_in_one_line(small: Any) -> None:
    student = small.model()
    parameters = {name: each for name, each in student.model.named_parameters() if "layers.0." in name}
    with pytest.raises(
        UsageError, match=r"down-projections of blocks 1, 2 and none .* set to train; use \[alignment\]"
    ):
        neuron_gradients(parameters, neuron_weights(student), {1, 2})
