"""A saved model in a fresh process: the numbers of this one, by transformers alone, by peft, or with its edit."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from storage.records import Site, UsageError
from tasks.models.adapters import Keeping, adapted
from tasks.models.intervention import Intervention, attach
from tasks.models.load import LoadedModel, save_model
from tasks.models.release.fresh import Asked, score_in_fresh_process
from tasks.models.scoring import score_answers

ROWS = [Asked("ab", (1, 5, 9, 13), (4, 7)), Asked("a b", (1, 8, 3), (20, 11, 17)), Asked("", (1, 30), (44,))]
Fresh = Callable[..., LoadedModel]


@pytest.fixture
def make(fresh: Fresh, tokenizers: dict[str, PreTrainedTokenizerFast]) -> Callable[[str], LoadedModel]:
    return lambda family: dataclasses.replace(fresh(family), tokenizer=tokenizers["byte_level"])


def scored(loaded: LoadedModel) -> Any:
    prompts, answers = [each.prompt for each in ROWS], [[each.answer] for each in ROWS]
    return score_answers(loaded, prompts, answers, append_eos=False).log_probability


def test_merged_weights_and_adapter_score_as_the_model_that_was_saved(
    make: Callable[[str], LoadedModel], tmp_path: Path
) -> None:
    loaded = make("llama")
    save_model(loaded, tmp_path / "base")
    before = scored(loaded)
    with adapted(loaded, None, rank=2, alpha=4.0, keep=Keeping(tmp_path / "adapter")) as parameters, torch.no_grad():
        for each in parameters.values():
            each.add_(0.1 * torch.randn(each.shape, generator=torch.Generator().manual_seed(3)))
    save_model(loaded, tmp_path / "model")
    found = score_in_fresh_process(
        tmp_path / "model", ROWS, device="cpu", adapter=tmp_path / "adapter", base=tmp_path / "base"
    )
    assert not found.edited
    assert np.abs(scored(loaded) - before).min() > 1e-3
    assert found.log_probabilities == pytest.approx(scored(loaded), abs=1e-5)
    assert found.adapter == pytest.approx(scored(loaded), abs=1e-4)
    assert found.tokens == [list(loaded.tokenizer(each.text)["input_ids"]) for each in ROWS]


def test_an_edit_at_every_pass_is_made_there_too(make: Callable[[str], LoadedModel], tmp_path: Path) -> None:
    loaded = make("gpt2")
    unedited = scored(loaded)
    generator = torch.Generator().manual_seed(1)
    encoder, decoder = (torch.randn(2, loaded.width, generator=generator) for _ in range(2))
    tensors = {"encoder": encoder.T.contiguous(), "decoder": decoder, "bias": torch.zeros(2)}
    tensors |= {"center": torch.zeros(loaded.width), "thresholds": torch.zeros(2)}
    attach(loaded, Intervention(kind="clamp", site=Site(0), latents=(3, 4), strength=2.0, **tensors))
    save_model(loaded, tmp_path)
    found = score_in_fresh_process(tmp_path, ROWS, device="cpu")
    assert found.edited
    assert found.log_probabilities == pytest.approx(scored(loaded), abs=1e-5)
    assert np.abs(scored(loaded) - unedited).max() > 1e-2


def test_a_folder_that_transformers_cannot_read_is_one_line(make: Callable[[str], LoadedModel], tmp_path: Path) -> None:
    save_model(make("llama"), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "no_such_model"}))
    with pytest.raises(UsageError, match=r"cannot be read by transformers alone: .*no_such_model") as caught:
        score_in_fresh_process(tmp_path, ROWS, device="cpu")
    assert "\n" not in str(caught.value)
