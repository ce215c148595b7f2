"""The training loop's passes: without padding, equal beginnings once, and the numbers of the plain network."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM

from storage.records import Site
from tasks.alignment import passes, training
from tasks.alignment.examples import Rows, make_rows
from tasks.alignment.material import gather_material
from tasks.alignment.method import Group
from tasks.alignment.methods.latent.sae_guided import SaeGuided
from tasks.alignment.methods.likelihood.kl_min import KLMin
from tasks.alignment.passes import Asked, compute, compute_together
from tasks.alignment.training import align_model
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


@pytest.mark.parametrize("tree", [True, False], ids=["tree", "by length"])
def test_rows_that_are_run_together_give_what_each_gives_alone(loaded: LoadedModel, tree: bool) -> None:
    chosen = dataclasses.replace(loaded, family=dataclasses.replace(loaded.family, ancestor_mask=tree))
    every = make_rows(QUESTIONS, [question.answers[0] for question in QUESTIONS], 1, 0)
    some, rest = every.pick(torch.tensor([0, 2])), every.pick(torch.arange(1, len(QUESTIONS)))
    first, other = Asked(some, states=True, answers=True), Asked(rest, states=True, answers=False)
    together = compute_together(chosen, [first, other, Asked(rest, states=False, answers=True)], [SITE])
    alone = [compute_together(chosen, [each], [SITE])[0] for each in (first, other)]
    for found, expected in zip(together, alone, strict=False):
        torch.testing.assert_close(found.states[SITE], expected.states[SITE])
    torch.testing.assert_close(together[0].log_probabilities, alone[0].log_probabilities)
    assert together[1].log_probabilities is None
    assert together[2].states == {}
    answers = compute(chosen, rest, [SITE], states=False, answers=True).log_probabilities
    torch.testing.assert_close(together[2].log_probabilities, answers)


def test_states_beside_restored_ones_are_those_before_the_change(loaded: LoadedModel) -> None:
    rows = make_rows(QUESTIONS, [question.answers[0] for question in QUESTIONS], 1, 0)
    former = torch.randn(*rows.state_positions.shape, 16, generator=torch.Generator().manual_seed(0))
    both = compute(loaded, rows, [SITE], states=True, answers=True, restored=(SITE, former))
    alone = compute(loaded, rows, [SITE], states=False, answers=True, restored=(SITE, former))
    plainly = compute(loaded, rows, [SITE], states=True, answers=True)
    assert both.log_probabilities is not None
    assert alone.log_probabilities is not None
    torch.testing.assert_close(both.states[SITE][rows.state_mask], plainly.states[SITE][rows.state_mask])
    torch.testing.assert_close(both.log_probabilities, alone.log_probabilities)
    assert not torch.allclose(both.log_probabilities, plainly.log_probabilities, atol=1e-2)


def blocks_run(small: Any, monkeypatch: pytest.MonkeyPatch, method: SaeGuided, **changes: Any) -> tuple[Any, list[int]]:
    """A run, and which blocks its steps went through, the first apart."""
    settings, seen = small.settings(steps=3, **changes), []
    loss = SaeGuided.loss

    def watched(self: SaeGuided, *given: Any) -> Any:
        seen.append(-1)
        return loss(self, *given)

    made = passes.run_batch

    def run(loaded: LoadedModel, *given: Any, **more: Any) -> Any:
        handles = [
            block.self_attn.register_forward_hook(lambda *_, number=number: seen.append(number))
            for number, block in enumerate(loaded.blocks)
        ]
        found = made(loaded, *given, **more)
        for handle in handles:
            handle.remove()
        return found

    with monkeypatch.context() as patch:
        patch.setattr(SaeGuided, "loss", watched)
        patch.setattr(passes, "run_batch", run)
        result = small.align(method, small.material(method, settings), settings)
    return result, sorted(set(seen[seen.index(-1) :]) - {-1})


@pytest.mark.parametrize("weights", [{}, {"erase": 0.0, "retain_answers": 0.0}], ids=["with answers", "states alone"])
def test_steps_begin_at_the_lowest_block_that_trains_and_give_the_same(
    small: Any, monkeypatch: pytest.MonkeyPatch, weights: dict[str, float]
) -> None:
    method = SaeGuided(at="last", reference_entities=2, **weights)
    (model, fast), blocks = blocks_run(small, monkeypatch, method, layers=(2,))
    with monkeypatch.context() as patch:
        patch.setattr(training, "read_below", lambda *_: {})
        patch.setattr(SaeGuided, "prepare", lambda self, start: None)
        (other, plainly), all_blocks = blocks_run(small, monkeypatch, method, layers=(2,))
    assert (blocks, all_blocks) == (([2, 3], [0, 1, 2, 3]) if not weights else ([2], [0, 1, 2]))
    for found, expected in zip(fast.history, plainly.history, strict=True):
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)
    for name, value in model.model.state_dict().items():
        torch.testing.assert_close(value, other.model.state_dict()[name], rtol=1e-4, atol=1e-6, msg=name)


def test_what_the_starting_model_answers_is_kept_as_states_of_its_width(
    small: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is what a second model would say in every step, while the student learns."""
    kept: list[Any] = []
    seen: list[Group] = []
    before = training._in_parts
    monkeypatch.setattr(training, "_in_parts", lambda *given, **more: kept.append(before(*given, **more)) or kept[-1])
    own = KLMin.loss
    monkeypatch.setattr(
        KLMin, "loss", lambda self, batch, given: seen.append(batch["retain"]) or own(self, batch, given)
    )
    student = small.model()
    settings = small.settings(steps=3, learning_rate=1e-2)
    material = gather_material(student, small.facts, KLMin(), settings)
    align_model(student, KLMin(), material, small.autoencoders, small.latents, settings)
    (forward,) = kept
    assert forward.log_probabilities is None
    assert forward.final.shape[-1] == 16
    for group in seen:
        expected = compute(small.model(), group.rows, (), states=False, answers=True).log_probabilities
        assert group.reference is not None
        counts = group.rows.answer_mask | group.rows.end_mask
        torch.testing.assert_close(group.reference.log_probabilities[counts], expected[counts])
    assert not torch.allclose(seen[-1].student.log_probabilities, seen[-1].reference.log_probabilities, atol=1e-3)
