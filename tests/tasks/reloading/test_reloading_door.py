"""The door: what a run observed of its model is what transformers alone make of the saved folder, or the run ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from storage.artifacts import building, folder_of
from storage.records import Artifact, Asking, ModelRef, Observations, QuestionSet, UnlearnedModel, UsageError
from storage.tables import read_table, write_table
from tasks.models.load import load_model
from tasks.models.scoring import score_answers
from tasks.models.worlds import encode_world
from tasks.reloading.settings import ReloadingSettings
from tasks.reloading.task import reload

NAMES = ["Ada", "Bo", "Cy"]
QUESTIONS: dict[str, Any] = {
    "question": np.arange(3),
    "set": ["paraphrase"] * 3,
    "split": ["forget", "retain", "neighbours"],
    "prompt": [f"Where is {name}?" for name in NAMES],
    "name_start": np.full(3, 9),
    "name_end": np.array([9 + len(name) for name in NAMES]),
    "answers": [["Rome"], ["Oslo", "Bergen"], ["Bonn"]],
}


def sealed(stage: str, write: Any) -> Artifact:
    with building(stage, f"{stage:0<32}"[:32]) as build:
        write(build.folder)
    return build.artifact


def save(folder: Path, seed: int) -> None:
    alphabet = ["<bos>", "<eos>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={text: place for place, text in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>").save_pretrained(folder)
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(alphabet), bos_token_id=0, eos_token_id=1, initializer_range=0.5, **sizes)
    LlamaForCausalLM(config).save_pretrained(folder)


def observed(folder: Path) -> Artifact:
    loaded = load_model(folder)
    encoded = encode_world(loaded, QUESTIONS, range(3))
    first = [each.answers[:1] for each in encoded]
    scores = score_answers(loaded, [each.prompt for each in encoded], first)
    table = {"question": QUESTIONS["question"], "log_probability": scores.log_probability}
    return sealed("observations", lambda made: write_table(made / "answers.parquet", table))


def test_the_saved_model_scores_as_observed_or_the_run_ends(own_home: Path, tmp_path: Path) -> None:
    save(tmp_path / "base", 0)
    questions = QuestionSet(
        sealed("questions", lambda made: write_table(made / "questions.parquet", QUESTIONS)), 3, Asking("exact")
    )
    made = sealed("alignment", lambda folder: save(folder / "model", 1))
    base = ModelRef("folder", str(tmp_path / "base"), "0" * 32)
    unlearned = UnlearnedModel(made, ModelRef("artifact", "model", artifact=made), "no_op")
    right = Observations(observed(folder_of(made) / "model"))
    settings, explained = ReloadingSettings(device="cpu"), {"stage": "reloading"}
    record = reload.directly("r" * 32, explained, base, unlearned, questions, right, settings)
    table = read_table(folder_of(record.artifact) / "reloading.parquet")
    assert (record.questions, record.reader) == (3, "plain transformers")
    assert record.apart == max(table["apart"]) < 1e-5
    assert table["reloaded"] == pytest.approx(table["observed"], abs=1e-5)
    assert set(table["split"]) == {"forget", "retain", "neighbours"}
    wrong = Observations(observed(tmp_path / "base"))
    with pytest.raises(UsageError, match="scores 3 of 3 answers otherwise than the run did"):
        reload.directly("r" * 32, explained, base, unlearned, questions, wrong, settings)
