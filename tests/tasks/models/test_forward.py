"""What is read equals what the plain model computes, in every family and on every path."""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from storage.records import Site, UsageError
from tasks.models import forward
from tasks.models.families import decoder_of, family_of_type
from tasks.models.forward import (
    PARTS,
    all_residuals,
    beginning_at,
    captured,
    edited,
    next_token_log_probabilities,
    plan_for,
    read_sites,
    run_decoder,
    takes_ancestor_mask,
)
from tasks.models.load import LoadedModel

Sequences = list[list[int]]


def positions(sequences: Sequences) -> list[list[int]]:
    return [sorted({len(sequence) - 1, len(sequence) // 2}) for sequence in sequences]


@torch.no_grad()
def plain_states(loaded: LoadedModel, sequences: Sequences) -> list[Tensor]:
    """Per layer boundary, the wanted states: transformers' own hidden states, one sequence at a time."""
    rows: list[list[Tensor]] = []
    for sequence, wanted in zip(sequences, positions(sequences), strict=True):
        states = loaded.model(torch.tensor([sequence]), output_hidden_states=True).hidden_states
        rows += [[state[0, p] for state in states] for p in wanted]
    return [torch.stack(column) for column in zip(*rows, strict=True)]


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> bool:
    return bool(((found - expected).norm(dim=-1) <= tolerance * expected.norm(dim=-1)).all())


def test_every_site_equals_the_plain_hidden_states(loaded: LoadedModel, sequences: Sequences) -> None:
    sites = [Site(layer, part) for layer in range(2) for part in PARTS]
    found = read_sites(loaded, sequences, positions(sequences), sites)
    before, after_first, after_norm = plain_states(loaded, sequences)
    assert close(found[Site(0)], after_first)
    # The last entry of `hidden_states` has gone through the final norm: so must the last residual before it compares.
    norm = loaded.decoder.get_submodule(loaded.family.final_norm)
    assert close(norm(found[Site(1)]).detach(), after_norm)
    for layer, entering in enumerate((before, after_first)):
        added = found[Site(layer, "attention")] + found[Site(layer, "mlp")]
        assert close(entering + added, found[Site(layer)], 1e-4)


def test_every_family_takes_the_tree(loaded: LoadedModel, sequences: Sequences) -> None:
    assert takes_ancestor_mask(loaded)
    plan = plan_for(loaded, sequences, positions(sequences))
    assert plan.trie
    assert plan.tokens_run < plan.tokens_given


def test_tree_and_buckets_agree(loaded: LoadedModel, sequences: Sequences) -> None:
    without = replace(loaded, family=replace(loaded.family, ancestor_mask=False))
    assert not plan_for(without, sequences, positions(sequences)).trie
    tree = read_sites(loaded, sequences, positions(sequences), all_residuals(loaded), budget=40)
    buckets = read_sites(without, sequences, positions(sequences), all_residuals(loaded), budget=20)
    for site in tree:
        assert close(tree[site], buckets[site])


def test_next_token_log_probabilities_equal_the_plain_ones(loaded: LoadedModel, sequences: Sequences) -> None:
    found = next_token_log_probabilities(loaded, sequences)
    with torch.no_grad():
        expected = torch.stack([loaded.model(torch.tensor([s])).logits[0, -1].log_softmax(-1) for s in sequences])
    assert torch.allclose(found, expected, atol=2e-5)


def test_the_pass_ends_after_the_last_wanted_block(tiny: Callable[[str], LoadedModel], sequences: Sequences) -> None:
    loaded = tiny("llama")
    reached = []
    handle = loaded.blocks[1].register_forward_hook(lambda *_: reached.append(1))
    try:
        takes_ancestor_mask(loaded)
        reached.clear()
        read_sites(loaded, sequences, positions(sequences), [Site(0)])
        assert not reached
        read_sites(loaded, sequences, positions(sequences), [Site(1)])
        assert reached
    finally:
        handle.remove()


def test_a_pass_that_begins_at_a_block_is_the_rest_of_the_whole_one(loaded: LoadedModel) -> None:
    tokens = torch.tensor([[1, 5, 6, 7], [1, 8, 9, 10]])
    states, expected = run_decoder(loaded, tokens, sites=[Site(0), Site(1)])
    below = loaded.blocks[0]

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("the block below was run")

    handles = [module.register_forward_pre_hook(never) for module in below.modules() if module is not below]
    with beginning_at(loaded, 1, states[Site(0)]):
        found, output = run_decoder(loaded, torch.zeros_like(tokens), sites=[Site(1)])
    for handle in handles:
        handle.remove()
    assert close(found[Site(1)], states[Site(1)])
    assert close(output[0], expected[0])
    again, _ = run_decoder(loaded, tokens, sites=[Site(0)])
    assert torch.equal(again[Site(0)], states[Site(0)]), "the block is as it was"


def test_no_hook_is_left_behind(tiny: Callable[[str], LoadedModel], sequences: Sequences) -> None:
    loaded = tiny("gemma2")

    def hooks() -> int:
        return sum(len(module._forward_hooks) for module in loaded.model.modules())

    before = hooks()  # transformers leaves some of its own
    read_sites(loaded, sequences, positions(sequences), [Site(0), Site(1, "mlp")])
    assert hooks() == before


def test_a_model_that_ignores_the_mask_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fresh: Callable[..., LoadedModel],
    sequences: Sequences,
) -> None:
    loaded = fresh("llama")
    honest = forward._scores
    monkeypatch.setattr(forward, "_scores", lambda model, end: honest(model, torch.full_like(end, end.shape[1])))
    with caplog.at_level(logging.WARNING, logger="sae_unlearn"):
        assert not takes_ancestor_mask(loaded)
    assert "does not take an ancestor mask" in caplog.text
    found = read_sites(loaded, sequences, positions(sequences), [Site(0)])
    assert close(found[Site(0)], plain_states(loaded, sequences)[1])


def test_beyond_the_sliding_window_sequences_are_run_plainly(
    fresh: Callable[..., LoadedModel], sequences: Sequences
) -> None:
    loaded = fresh("gemma2", sliding_window=6)
    assert max(map(len, sequences)) > 6
    assert not plan_for(loaded, sequences, positions(sequences)).trie
    found = read_sites(loaded, sequences, positions(sequences), all_residuals(loaded))
    expected = plain_states(loaded, sequences)
    norm = loaded.decoder.get_submodule("norm")
    assert close(found[Site(0)], expected[1])
    assert close(norm(found[Site(1)]).detach(), expected[2])
    short = [sequence[:6] for sequence in sequences]
    assert plan_for(loaded, short, positions(short)).trie
    assert close(read_sites(loaded, short, positions(short), [Site(0)])[Site(0)], plain_states(loaded, short)[1])


def test_a_tuple_from_a_block_is_read_and_edited(tiny: Callable[[str], LoadedModel], sequences: Sequences) -> None:
    loaded = tiny("mistral")
    tokens = torch.tensor([[1, 3, 4, 5]])
    with torch.no_grad():
        expected, _ = run_decoder(loaded, tokens, sites=[Site(0)])
        handle = loaded.blocks[0].register_forward_hook(lambda _m, _i, output: (output, None))
        unpack = loaded.blocks[1].register_forward_pre_hook(lambda _m, inputs: (inputs[0][0], *inputs[1:]))
        try:
            found, _ = run_decoder(loaded, tokens, sites=[Site(0)])
            with edited(loaded, Site(0), lambda state: state * 0):
                changed, _ = run_decoder(loaded, tokens, sites=[Site(1)])
        finally:
            handle.remove()
            unpack.remove()
        with edited(loaded, Site(0), lambda state: state * 0):
            zeroed, _ = run_decoder(loaded, tokens, sites=[Site(1)])
    assert torch.equal(found[Site(0)], expected[Site(0)])
    assert torch.equal(changed[Site(1)], zeroed[Site(1)])


def test_padding_on_either_side_changes_nothing_and_gradients_arrive(loaded: LoadedModel) -> None:
    tokens = torch.tensor([[1, 3, 4, 5, 0, 0], [1, 5, 4, 3, 6, 7]])
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1] * 6])
    states, output = run_decoder(loaded, tokens, mask, sites=[Site(0), Site(1)])
    expected, _ = run_decoder(loaded, tokens[:1, :4], sites=[Site(0), Site(1)])
    for site in states:
        assert torch.allclose(states[site][0, :4], expected[site][0], atol=1e-5)
    assert output[0].shape == (2, 6, 32)
    gradient = torch.autograd.grad(states[Site(0)][0, 3].sum(), list(loaded.blocks[0].parameters()), allow_unused=True)
    assert any(each is not None and float(each.abs().max()) > 0 for each in gradient)


def test_neurons_are_what_the_down_projection_reads(loaded: LoadedModel) -> None:
    tokens, site = torch.tensor([[1, 3, 4, 5]]), Site(0, "neurons")
    down = loaded.blocks[0].get_submodule(loaded.family.down_projection)
    wanted = [site, Site(1), Site(0, "mlp")]
    states, _ = run_decoder(loaded, tokens, sites=wanted)
    assert states[site].shape == (1, 4, 48)
    written: list[Tensor] = []
    handle = down.register_forward_hook(lambda _m, _i, output: written.append(output))
    try:
        with edited(loaded, site, lambda value: value * 0):
            changed, _ = run_decoder(loaded, tokens, sites=wanted)
    finally:
        handle.remove()
    constant = down.bias if down.bias is not None else torch.zeros(32)
    assert torch.equal(written[0], constant.expand(1, 4, 32))
    assert not close(changed[Site(1)], states[Site(1)])
    # What a neuron does downstream can be told by its gradient.
    (gradient,) = torch.autograd.grad(states[Site(0, "mlp")].sum(), [states[site]])
    assert gradient.abs().min() > 0


def test_a_hook_that_never_fires_is_an_error(tiny: Callable[[str], LoadedModel]) -> None:
    loaded = tiny("llama")
    with pytest.raises(RuntimeError, match="residual_1 never fired"), captured(loaded, [Site(1)]):
        run_decoder(loaded, torch.tensor([[1, 3]]), until=0)


@pytest.mark.parametrize(
    ("site", "message"), [(Site(2), "layers 0 to 1"), (Site(-1), "out of range"), (Site(0, "nose"), "residual, mlp")]
)
def test_a_site_that_does_not_exist_is_refused(tiny: Callable[[str], LoadedModel], site: Site, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_sites(tiny("llama"), [[1, 2]], [[1]], [site])


def test_bfloat16_is_near(
    tiny: Callable[[str], LoadedModel], fresh: Callable[..., LoadedModel], sequences: Sequences
) -> None:
    expected = read_sites(tiny("gemma2"), sequences, positions(sequences), [Site(1)])[Site(1)]
    loaded = fresh("gemma2")
    loaded.model.to(torch.bfloat16)
    assert takes_ancestor_mask(loaded)
    found = read_sites(loaded, sequences, positions(sequences), [Site(1)])[Site(1)]
    assert found.dtype == torch.float32
    assert close(found, expected, 0.1)


def test_the_decoder_of_a_multimodal_model_is_found() -> None:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    text = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = Gemma3Config(
        text_config=text | heads,
        vision_config=vision | {"image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4,
        image_token_index=60,
        boi_token_index=59,
        eoi_token_index=58,
    )
    model: Any = Gemma3ForConditionalGeneration(config).eval()
    family = family_of_type("gemma3")
    assert decoder_of(model, family) is model.model.language_model
    loaded = LoadedModel(model, None, family, torch.device("cpu"))
    assert loaded.width == 32
    found = read_sites(loaded, [[1, 3, 4], [1, 3, 5]], [[2], [2]], [Site(0)])[Site(0)]
    with torch.no_grad():
        states = model(torch.tensor([[1, 3, 4], [1, 3, 5]]), output_hidden_states=True).hidden_states
    assert close(found, states[1][:, 2])
