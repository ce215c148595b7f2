"""The training loop's passes: without padding, equal beginnings once, and the numbers of the plain network."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM

from storage.records import Site
from tasks.alignment.examples import Rows, make_rows
from tasks.alignment.training import compute
from tasks.models.families import family_of
from tasks.models.forward import takes_ancestor_mask
from tasks.models.load import LoadedModel
from tasks.models.prompts import Question

SITE = Site(0)
QUESTIONS = [
    Question((2, 5, 6, 7, 8), ((9,),), 2, 3),
    Question((2, 5, 6, 9), ((10, 11, 12),), 2, 2),
    Question((2, 5, 6, 7, 8), ((13, 14),), 2, 3),
    Question((2, 15, 16, 17, 18, 19, 20), ((21,),), 3, 5),
]


@pytest.fixture
def loaded() -> LoadedModel:
    config = Gemma2Config(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, initializer_range=0.3, pad_token_id=0, bos_token_id=2, eos_token_id=1,
    )  # fmt: skip
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model: Any = Gemma2ForCausalLM(config)
    return LoadedModel(model.eval(), SimpleNamespace(eos_token_id=1), family_of(model), torch.device("cpu"))


def plain(loaded: LoadedModel, rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
    """States and distributions of the padded rows, as transformers itself gives them."""
    output = loaded.model(input_ids=rows.ids, attention_mask=rows.mask, output_hidden_states=True)
    each = torch.arange(len(rows))[:, None]
    return (
        output.hidden_states[SITE.layer + 1][each, rows.state_positions],
        output.logits[each, rows.answer_positions].log_softmax(-1),
    )


def gradients(loaded: LoadedModel, rows: Rows, states: torch.Tensor, log_p: torch.Tensor) -> list[torch.Tensor]:
    """Of a loss that weighs every position that counts differently."""
    loaded.model.zero_grad()
    counts = rows.answer_mask | rows.end_mask
    weight = torch.linspace(1, 2, int(rows.state_mask.sum()))
    loss = (states[rows.state_mask].square().sum(-1) * weight).sum() + (log_p[counts][:, 3:9] ** 2).sum()
    loss.backward()
    return [parameter.grad.clone() for parameter in loaded.model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("tree", [True, False], ids=["tree", "by length"])
def test_values_and_gradients_are_those_of_the_padded_pass(loaded: LoadedModel, tree: bool) -> None:
    rows = make_rows(QUESTIONS, [question.answers[0] for question in QUESTIONS], 1, 0)
    chosen = dataclasses.replace(loaded, family=dataclasses.replace(loaded.family, ancestor_mask=tree))
    expected_states, expected_log_p = plain(loaded, rows)
    expected = gradients(loaded, rows, expected_states, expected_log_p)

    forward = compute(chosen, rows, [SITE], states=True, answers=True)
    assert forward.log_probabilities is not None
    counts = rows.answer_mask | rows.end_mask
    torch.testing.assert_close(forward.states[SITE][rows.state_mask], expected_states[rows.state_mask])
    torch.testing.assert_close(forward.log_probabilities[counts], expected_log_p[counts])
    found = gradients(loaded, rows, forward.states[SITE], forward.log_probabilities)
    assert len(found) == len(expected)
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-4)


def test_without_answers_nothing_after_the_prompt_is_run(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = make_rows(QUESTIONS, [question.answers[0] for question in QUESTIONS], 1, 0)
    takes_ancestor_mask(loaded)  # its own trial passes are not counted
    seen: list[int] = []
    forward_of = loaded.decoder.forward
    monkeypatch.setattr(
        loaded.decoder, "forward", lambda **given: seen.extend(given["input_ids"].flatten().tolist()) or forward_of(**given)
    )  # fmt: skip
    forward = compute(loaded, rows, [SITE], states=True, answers=False)
    assert forward.log_probabilities is None
    assert not set(seen) & {token for question in QUESTIONS for token in question.answers[0] if token != 9}
    assert seen.count(15) == 1
    torch.testing.assert_close(forward.states[SITE][rows.state_mask], plain(loaded, rows)[0][rows.state_mask])
