"""An offset of the logits is what three separate models say, however a sequence is run; and it is saved with the model."""

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedTokenizerFast

from storage.records import UsageError
from tasks.models.forward import all_residuals, next_token_log_probabilities, read_sites, run_decoder
from tasks.models.generate import greedy, sample
from tasks.models.intervention import Offset, attach, detach, edit_parameters, offset_of
from tasks.models.load import LoadedModel, load_model, save_model
from tasks.models.patching import patch_answers, teacher_forced

FAMILIES = ["gemma2", "gpt2", "gpt_neox", "llama"]
"""Logits of gemma2 are soft-capped; the others differ in how blocks, positions and biases are made."""
BLOCKS, SMALL, STRENGTH = 3, 2, 0.7

Build = Callable[..., LoadedModel]


def moved(loaded: LoadedModel, strength: float = STRENGTH) -> Offset:
    """A pair whose second model has other weights."""
    offset, generator = offset_of(loaded, SMALL, strength), torch.Generator().manual_seed(3)
    for tensor in offset.after.values():
        tensor += 0.2 * torch.randn(tensor.shape, generator=generator)
    return offset


@torch.no_grad()
def slow(fresh: Build, family: str, offset: Offset, tokens: Tensor) -> Tensor:
    """Logits of one pass of each of three models, which know nothing of one another."""
    large = fresh(family, num_hidden_layers=BLOCKS)
    embeddings = {
        f"{name}.weight": module.weight
        for name, module in large.decoder.named_modules()
        if isinstance(module, torch.nn.Embedding)
    }
    hidden = [large.decoder(tokens, use_cache=False)[0]]
    for tensors in (offset.before, offset.after):
        small = fresh(family, num_hidden_layers=SMALL)
        report = small.decoder.load_state_dict(embeddings | dict(tensors), strict=False)
        assert not report.missing_keys
        assert not report.unexpected_keys
        hidden.append(small.decoder(tokens, use_cache=False)[0])
    head = large.model.get_output_embeddings()
    logits = head(hidden[0]) + offset.strength * (head(hidden[2]) - head(hidden[1]))
    cap = getattr(large.config, "final_logit_softcapping", None)
    return logits if cap is None else torch.tanh(logits / cap) * cap


@pytest.mark.parametrize("family", FAMILIES)
def test_every_way_to_run_a_sequence_equals_three_models(fresh: Build, sequences: list[list[int]], family: str) -> None:
    loaded = fresh(family, num_hidden_layers=BLOCKS)
    before = next_token_log_probabilities(loaded, sequences)
    offset = moved(loaded)
    expected = torch.stack(
        [slow(fresh, family, offset, torch.tensor([each]))[0, -1].log_softmax(-1) for each in sequences]
    )
    assert float((expected - before).abs().max()) > 0.1
    attach(loaded, offset)
    plain = replace(loaded, family=replace(loaded.family, ancestor_mask=False))
    width = max(map(len, sequences))
    mask = torch.tensor([[0] * (width - len(each)) + [1] * len(each) for each in sequences])
    tokens = torch.tensor([[0] * (width - len(each)) + each for each in sequences])
    padded = loaded.model(tokens, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0))
    runs = {
        "tree": next_token_log_probabilities(loaded, sequences),
        "small trees": next_token_log_probabilities(loaded, sequences, budget=8),
        "buckets": next_token_log_probabilities(plain, sequences),
        "padded left": padded.logits[:, -1].log_softmax(-1).detach(),
    }
    for name, found in runs.items():
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3, msg=lambda m, n=name: n + m)


def test_the_inside_stays_and_so_does_a_pair_that_was_not_trained(fresh: Build, sequences: list[list[int]]) -> None:
    loaded = fresh("llama", num_hidden_layers=BLOCKS)
    wanted, sites = [list(range(len(each))) for each in sequences], all_residuals(loaded)
    states, answers = read_sites(loaded, sequences, wanted, sites), next_token_log_probabilities(loaded, sequences)
    attach(loaded, offset_of(loaded, SMALL, STRENGTH))
    assert torch.equal(next_token_log_probabilities(loaded, sequences), answers)
    detach(loaded)
    attach(loaded, moved(loaded))
    assert not torch.allclose(next_token_log_probabilities(loaded, sequences), answers, atol=0.1)
    for site, value in read_sites(loaded, sequences, wanted, sites).items():
        assert torch.equal(value, states[site])
    # What is put into the model's states does not reach the small models, which read the tokens.
    prompts, replies = [[1, 3, 4, 5], [1, 3, 4, 6, 7]], [[9, 10, 11], [12]]
    given, positions = teacher_forced(prompts, replies)
    plain, changed = patch_answers(loaded, prompts, replies, range(2), read_sites(loaded, given, positions, sites))
    for values in changed.values():
        torch.testing.assert_close(torch.from_numpy(values), torch.from_numpy(plain), atol=1e-5, rtol=1e-5)
    detach(loaded)
    assert torch.equal(next_token_log_probabilities(loaded, sequences), answers)


@pytest.mark.parametrize(("family", "changes"), [(f, {}) for f in FAMILIES] + [("gemma2", {"sliding_window": 4})])
def test_generation_with_a_cache_equals_generation_without(fresh: Build, family: str, changes: dict[str, Any]) -> None:
    loaded = fresh(family, num_hidden_layers=BLOCKS, **changes)
    prompts = [[1, *([3, 4, 5, 6] * 3)[:length]] for length in (1, 3, 5, 9)] + [[1, 7, 8, 3]]
    before = greedy(loaded, prompts, max_new_tokens=5)
    attach(loaded, moved(loaded))
    expected = [slow_greedy(loaded, each) for each in prompts]
    assert expected != before
    assert greedy(loaded, prompts, max_new_tokens=5, rows=2) == expected
    assert sample(loaded, prompts, 2, temperature=0, max_new_tokens=5) == [[each] * 2 for each in expected]
    plain = replace(loaded, family=replace(loaded.family, ancestor_mask=False))
    assert greedy(plain, prompts, max_new_tokens=5) == expected
    prompt = torch.tensor([prompts[-1]])
    asked = {"do_sample": False, "max_new_tokens": 5, "num_beams": 3, "pad_token_id": 0, "attention_mask": prompt > 0}
    beams = [loaded.model.generate(prompt, use_cache=cached, **asked).tolist() for cached in (True, False)]
    assert beams[0] == beams[1]


@torch.no_grad()
def slow_greedy(loaded: LoadedModel, prompt: Sequence[int]) -> tuple[int, ...]:
    """One whole pass a token."""
    ids = list(prompt)
    while len(ids) < len(prompt) + 5:
        token = int(loaded.model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
        if token == 2:
            break
        ids.append(token)
    return tuple(ids[len(prompt) :])


def test_a_cache_that_does_not_hold_the_pair_is_refused(fresh: Build) -> None:
    loaded = fresh("llama", num_hidden_layers=BLOCKS)
    cache = DynamicCache()
    run_decoder(loaded, torch.tensor([[1, 3, 4]]), past_key_values=cache, use_cache=True)
    attach(loaded, moved(loaded))
    with pytest.raises(UsageError, match="knows 0 of the 3 tokens in the cache"):
        run_decoder(loaded, torch.tensor([[5]]), past_key_values=cache, use_cache=True)
    with pytest.raises(UsageError, match="cannot keep its states in a StaticCache"):
        loaded.model.generate(torch.tensor([[1, 3]]), cache_implementation="static", max_new_tokens=2, do_sample=False)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_pair_runs_when_the_model_is_loaded(
    fresh: Build, tokenizers: dict[str, PreTrainedTokenizerFast], tmp_path: Path, family: str
) -> None:
    loaded = replace(fresh(family, num_hidden_layers=BLOCKS), tokenizer=tokenizers["byte_level"])
    tokens = torch.arange(1, 61)[None]
    before = loaded.model(tokens).logits
    attach(loaded, moved(loaded))
    save_model(loaded, tmp_path / "once")
    again = load_model(tmp_path / "once")
    assert isinstance(again.intervention, Offset)
    assert torch.equal(again.model(tokens).logits, loaded.model(tokens).logits)
    assert not torch.allclose(again.model(tokens).logits, before, atol=0.1)
    save_model(again, tmp_path / "twice")
    for file in ("intervention.json", "intervention.safetensors", "model.safetensors", "config.json"):
        assert (tmp_path / "once" / file).read_bytes() == (tmp_path / "twice" / file).read_bytes()
    assert load_model(tmp_path / "once", blocks=SMALL).intervention is None
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "once", attn_implementation=loaded.family.attention)
    assert torch.equal(plain(tokens).logits, before)

    description = tmp_path / "once" / "intervention.json"
    told = json.loads(description.read_text())
    assert "load_model" in told["how"]
    description.write_text(json.dumps(told | {"blocks": 1}))
    with pytest.raises(UsageError, match="the offset is not of this model: they differ in tensor"):
        load_model(tmp_path / "once")
    description.write_text(json.dumps(told | {"blocks": "many"}))
    with pytest.raises(UsageError, match="cannot be read"):
        load_model(tmp_path / "once")


def test_only_the_second_model_of_the_pair_trains(fresh: Build) -> None:
    loaded = fresh("llama", num_hidden_layers=BLOCKS)
    assert edit_parameters(loaded.model) == {}
    loaded.model.requires_grad_(False)
    offset = moved(loaded)
    attach(loaded, offset)
    parameters = edit_parameters(loaded.model)
    assert set(parameters) == set(offset.after)
    assert not any("embed" in name for name in parameters)
    tokens = torch.arange(1, 61)[None]
    assert not loaded.model(tokens).logits.requires_grad
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    loss = loaded.model(tokens, labels=tokens).loss
    loss.backward()
    with torch.no_grad():
        for name, parameter in parameters.items():
            assert float(parameter.grad.norm()) > 0, name
            parameter -= 1e-3 * parameter.grad / parameter.grad.norm()
            assert torch.equal(offset.after[name], parameter), "the offset is what was trained"
        assert loaded.model(tokens, labels=tokens).loss < loss
    # Relearning trains the model's own weights; the pair is none of them.
    loaded.model.requires_grad_(True)
    assert not {id(each) for each in loaded.model.parameters()} & {id(each) for each in parameters.values()}
    loaded.model(tokens, labels=tokens).loss.backward()
    assert float(loaded.blocks[0].get_submodule("mlp.down_proj").weight.grad.norm()) > 0


def test_a_copy_of_the_network_has_a_pair_of_its_own(fresh: Build) -> None:
    loaded = fresh("gpt2", num_hidden_layers=BLOCKS)
    tokens = torch.arange(1, 61)[None]
    before = loaded.model(tokens).logits
    attach(loaded, moved(loaded))
    twin = replace(loaded, model=copy.deepcopy(loaded.model))
    after = loaded.model(tokens).logits
    detach(loaded)
    assert torch.equal(loaded.model(tokens).logits, before)
    assert torch.equal(twin.model(tokens).logits, after)
    assert not torch.equal(after, before)


def test_what_makes_no_pair_is_refused(fresh: Build) -> None:
    loaded = fresh("llama", num_hidden_layers=BLOCKS)
    for blocks in (0, 4):
        with pytest.raises(UsageError, match="give 1 to 3"):
            offset_of(loaded, blocks, 1.0)
    offset = offset_of(loaded, SMALL, 1.0)
    with pytest.raises(UsageError, match="strength nan; expected"):
        replace(offset, strength=float("nan"))
    with pytest.raises(UsageError, match=r"differ in tensor 'norm\.weight'"):
        replace(offset, after={**offset.after, "norm.weight": torch.zeros(3)})
    with pytest.raises(UsageError, match="small models have 2 blocks, the model 1"):
        attach(fresh("llama", num_hidden_layers=1), offset)
    with pytest.raises(UsageError, match=r"not of this model: they differ in tensor"):
        attach(fresh("gpt2", num_hidden_layers=BLOCKS), offset)
    attach(loaded, offset)
    with pytest.raises(UsageError, match="has an intervention already"):
        attach(loaded, offset)
