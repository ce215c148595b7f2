"""Offset unlearning by hand: three models of two tokens, and the losses of what they say together."""

from collections.abc import Callable
from math import exp, log
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from storage.records import UsageError
from tasks.alignment.method import Given, Group
from tasks.alignment.methods.weight.offset import OffsetUnlearning
from tasks.alignment.training import align_model
from tasks.models.families import family_of
from tasks.models.forward import next_token_log_probabilities
from tasks.models.intervention import Offset, attach, offset_of
from tasks.models.load import LoadedModel

EMPTY = Given((), {}, {}, {}, 0)


def two_tokens() -> LoadedModel:
    """Reads and says two tokens. No block writes anything, so that every pass is the norm of the embedding, and the
    head."""
    config = LlamaConfig(
        vocab_size=2, hidden_size=2, intermediate_size=2, num_hidden_layers=2, num_attention_heads=1,
        num_key_value_heads=1, head_dim=2, tie_word_embeddings=False, rms_norm_eps=0.0, pad_token_id=0,
    )  # fmt: skip
    model: Any = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.model.embed_tokens.weight.copy_(torch.tensor([[3.0, 3.0], [5.0, -5.0]]))  # norms (1, 1) and (1, -1)
        model.model.norm.weight.copy_(torch.tensor([1.0, 2.0]))
        model.lm_head.weight.copy_(torch.tensor([[1.0, 0.5], [0.0, 0.0]]))
    return LoadedModel(model, None, family_of(model), torch.device("cpu"))


@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_the_offset_by_hand(alpha: float) -> None:
    """The logit of token 0 over that of token 1 is g·x + ½ k·y, with (g, k) the norm's weights and x, y = 1, ±1."""
    loaded = two_tokens()
    offset = offset_of(loaded, 1, alpha)
    offset.after["norm.weight"].copy_(torch.tensor([-2.0, 4.0]))
    attach(loaded, offset)
    for token, before, after in ((0, 1 + 1, -2 + 2), (1, 1 - 1, -2 - 2)):
        expected = 1 / (1 + exp(-(before + alpha * (after - before))))
        found = next_token_log_probabilities(loaded, [[token]])[0].exp()
        assert found.tolist() == pytest.approx([expected, 1 - expected])


def test_the_loss_by_hand(answers: Callable[..., Group]) -> None:
    """The model says 0.8; the small one's offset takes log 16 from the logit of the answer: 0.2 is left."""
    left = 1 / (1 + exp(-(log(4) - log(16))))
    assert left == pytest.approx(0.2)
    forget, retain = answers([left, 0.5], reference=([0.8, 0.5],)), answers([0.6])
    kept = -(log(0.6) + log(0.5)) / 2
    npo = OffsetUnlearning(beta=0.5, retain_weight=3.0).loss({"forget": forget, "retain": retain}, EMPTY)
    forgotten = -(2 / 0.5) * log(1 / (1 + exp(0.5 * log(0.2 / 0.8))))
    assert npo.parts["forget"].item() == pytest.approx(forgotten)
    assert npo.total.item() == pytest.approx(forgotten + 3 * kept)
    ascent = OffsetUnlearning(forget_loss="gradient_ascent").loss({"forget": forget, "retain": retain}, EMPTY)
    assert ascent.total.item() == pytest.approx((log(0.2) + log(0.5)) / 2 + kept)


def test_the_start_is_read_by_npo_only() -> None:
    assert "reference answers" in OffsetUnlearning().reads["forget"]
    assert OffsetUnlearning(forget_loss="gradient_ascent").reads["forget"] == {"answers"}


@pytest.mark.parametrize(("asked", "made"), [(0, 2), (1, 1), (4, 4)])
def test_the_pair_is_returned_and_off_the_model(asked: int, made: int, small: Any) -> None:
    """0 blocks are half of the model's four; of the two small models just the second has moved."""
    method = OffsetUnlearning(blocks=asked, forget_loss="gradient_ascent")
    student, aligned = small.align(method, small.material(method, small.settings()), small.settings())
    offset = aligned.intervention
    assert isinstance(offset, Offset)
    assert (offset.blocks, offset.strength) == (made, 1.0)
    assert student.intervention is None
    before = small.model()
    for name, tensor in offset_of(before, made, 1.0).before.items():
        assert torch.equal(offset.before[name], tensor)
        assert not torch.equal(offset.after[name], tensor)
        assert not offset.after[name].requires_grad
    attach(student, offset)
    assert not torch.equal(
        next_token_log_probabilities(student, [[2, 5]]), next_token_log_probabilities(before, [[2, 5]])
    )


@pytest.mark.parametrize(
    ("changes", "given"), [({"train": "lora"}, r"train = 'lora'"), ({"layers": (1,)}, r"layers = \[1\]")]
)
def test_a_choice_of_weights_is_refused(changes: dict[str, Any], given: str, small: Any) -> None:
    settings = small.settings(method="offset", **changes)
    method = OffsetUnlearning()
    with pytest.raises(UsageError, match=rf"\[alignment\] {given}: method 'offset' .* leave both out"):
        small.align(method, small.material(method, settings), settings)


def test_a_model_that_is_edited_already_is_refused(small: Any) -> None:
    method, student = OffsetUnlearning(), small.model()
    attach(student, offset_of(student, 1, 1.0))
    material = small.material(method, small.settings())
    with pytest.raises(UsageError, match="has an intervention already"):
        align_model(student, method, material, small.autoencoders, small.latents, small.settings())
