"""Lens and patching equal a slow reference that runs one plain forward pass per question and layer."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from storage.records import Site, UsageError
from tasks.models.forward import all_residuals, read_sites
from tasks.models.load import LoadedModel
from tasks.models.patching import lens, patch_answers, teacher_forced

PROMPTS = [[1, 3, 4, 5], [1, 3, 4, 6, 7], [1, 8], [1, 9, 9, 4, 5, 6]]
ANSWERS = [[9, 10, 11], [12], [13, 14], [3, 4]]
VARIANTS = [0, 2, 2, 1, 3, 0]


def sources(loaded: LoadedModel, seed: int = 0) -> dict[Site, Tensor]:
    rows = sum(len(ANSWERS[q]) for q in VARIANTS)
    generator = torch.Generator().manual_seed(seed)
    return {site: torch.randn(rows, loaded.width, generator=generator) for site in all_residuals(loaded)}


@torch.no_grad()
def slow_patch(loaded: LoadedModel, prompt: list[int], answer: list[int], layer: int, states: Tensor | None) -> float:
    """A hand-written hook on the block, one sequence at a time."""

    def put(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        value = (output[0] if isinstance(output, tuple) else output).clone()
        value[0, len(prompt) - 1 : len(prompt) - 1 + len(answer)] = states
        return (value, *output[1:]) if isinstance(output, tuple) else value

    handle = loaded.blocks[layer].register_forward_hook(put) if states is not None else None
    try:
        logits = loaded.model(torch.tensor([prompt + answer])).logits[0].double()
    finally:
        if handle is not None:
            handle.remove()
    log_p = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    return float(log_p[torch.arange(len(answer)), torch.tensor(answer)].mean())


@pytest.mark.parametrize("budget", [1, 14, None])
def test_patching_equals_a_hook_on_the_plain_model(loaded: LoadedModel, budget: int | None) -> None:
    given = sources(loaded)
    plain, changed = patch_answers(loaded, PROMPTS, ANSWERS, VARIANTS, given, budget=budget)
    expected = [slow_patch(loaded, p, a, 0, None) for p, a in zip(PROMPTS, ANSWERS, strict=True)]
    np.testing.assert_allclose(plain, expected, atol=1e-5)
    for site, values in given.items():
        parts = values.split([len(ANSWERS[q]) for q in VARIANTS])
        expected = [
            slow_patch(loaded, PROMPTS[q], ANSWERS[q], site.layer, part)
            for q, part in zip(VARIANTS, parts, strict=True)
        ]
        np.testing.assert_allclose(changed[site], expected, atol=1e-5, rtol=1e-5)
        assert np.ptp(changed[site]) > 0.1


def test_a_models_own_states_change_nothing(loaded: LoadedModel) -> None:
    sequences, positions = teacher_forced(PROMPTS, ANSWERS)
    own = read_sites(loaded, sequences, positions, all_residuals(loaded))
    plain, changed = patch_answers(loaded, PROMPTS, ANSWERS, range(len(PROMPTS)), own)
    for values in changed.values():
        np.testing.assert_allclose(values, plain, atol=1e-5)


def test_the_lens_after_the_last_block_is_the_models_own_answer(loaded: LoadedModel) -> None:
    sequences, positions = teacher_forced(PROMPTS, ANSWERS)
    states = read_sites(loaded, sequences, positions, all_residuals(loaded))
    token = torch.tensor([token for answer in ANSWERS for token in answer])
    found = lens(loaded, states[Site(1)], token).split([len(answer) for answer in ANSWERS])
    expected = [slow_patch(loaded, p, a, 0, None) for p, a in zip(PROMPTS, ANSWERS, strict=True)]
    np.testing.assert_allclose([float(each.mean()) for each in found], expected, atol=1e-5)


@pytest.mark.parametrize("family", ["gemma2", "llama"])
def test_the_lens_below_equals_transformers_hidden_states(tiny: Callable[[str], LoadedModel], family: str) -> None:
    loaded = tiny(family)
    sequences, positions = teacher_forced(PROMPTS, ANSWERS)
    states = read_sites(loaded, sequences, positions, [Site(0)])[Site(0)]
    token = torch.tensor([token for answer in ANSWERS for token in answer])
    expected = []
    with torch.no_grad():
        for sequence, at, answer in zip(sequences, positions, ANSWERS, strict=True):
            hidden = loaded.model(torch.tensor([sequence]), output_hidden_states=True).hidden_states[1][0]
            logits = loaded.model.lm_head(loaded.model.model.norm(hidden[list(at)]))
            cap = getattr(loaded.config, "final_logit_softcapping", None)
            logits = logits if cap is None else cap * torch.tanh(logits / cap)
            expected.append(logits.log_softmax(-1)[torch.arange(len(answer)), torch.tensor(answer)])
    torch.testing.assert_close(lens(loaded, states, token).float(), torch.cat(expected), atol=1e-5, rtol=1e-5)


def test_the_model_is_left_as_it_was(tiny: Callable[[str], LoadedModel]) -> None:
    loaded = tiny("gemma2")
    patch_answers(loaded, PROMPTS, ANSWERS, VARIANTS, sources(loaded))
    assert all("forward" not in block.__dict__ for block in loaded.blocks)
    bad = {Site(1): torch.zeros(1, loaded.width)}  # too few rows
    with pytest.raises(IndexError):
        patch_answers(loaded, PROMPTS, ANSWERS, VARIANTS, bad)
    assert all("forward" not in block.__dict__ for block in loaded.blocks)


def test_blocks_below_the_patch_are_not_run(tiny: Callable[[str], LoadedModel]) -> None:
    loaded = tiny("llama")
    runs = []
    handle = loaded.blocks[0].get_submodule("mlp").register_forward_hook(lambda *_: runs.append(1))
    patch_answers(loaded, PROMPTS, ANSWERS, VARIANTS, sources(loaded))
    handle.remove()
    assert len(runs) == 1


def test_other_places_than_the_stream_are_refused(tiny: Callable[[str], LoadedModel]) -> None:
    loaded = tiny("llama")
    with pytest.raises(UsageError, match="residual stream only"):
        patch_answers(loaded, PROMPTS, ANSWERS, [0], {Site(0, "mlp"): torch.zeros(3, loaded.width)})
    with pytest.raises(UsageError, match="out of range"):
        patch_answers(loaded, PROMPTS, ANSWERS, [0], {Site(7): torch.zeros(3, loaded.width)})
    with pytest.raises(UsageError, match="has no token"):
        patch_answers(loaded, [[]], [[1]], [0], {})
