"""A model is asked in its own words: what it says is kept, and judged."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from storage import artifacts
from storage.records import Asking, ModelRef, World
from storage.tables import read_table, write_table
from tasks.entities.asking import ask, hits_exactly
from tasks.entities.settings import AskingSettings, LabelSettings
from tasks.entities.task import ask_model, label_answers
from tasks.models.families import family_of
from tasks.models.load import LoadedModel, save_model
from tasks.models.prompts import Question
from tasks.models.worlds import encode_world

WORDS = [f"word{letter}{other}" for letter in "abcdefgh" for other in "klmnop"]
QUESTIONS = {
    "question": np.arange(3),
    "entity": np.array(["Q1", "Q1", "Q2"], dtype=object),
    "relation": np.array(["team", "place", "team"], dtype=object),
    "template": np.array([0, 1, 0]),
    "prompt": ["wordak wordbl", "wordak wordcm", "worddn wordbl"],
    "name_start": np.array([0, 0, 0]),
    "name_end": np.array([6, 6, 6]),
}
NAMES = {"Q1": ["wordak"], "Q2": ["worddn"]}


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    vocabulary = {word: place for place, word in enumerate(["<eos>", "<unk>", *WORDS])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        bos_token_id=None, eos_token_id=0, initializer_range=0.6,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    fast = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<eos>", bos_token="<eos>", unk_token="<unk>")
    return LoadedModel(model, fast, family_of(model), torch.device("cpu"))


def _encoded(loaded: LoadedModel, answers: list[list[str]]) -> list[Question]:
    return encode_world(loaded, QUESTIONS | {"answers": answers}, range(3))


def test_what_was_said_is_kept_and_counts_by_greedy_answer_or_share(loaded: LoadedModel) -> None:
    answers = [["nothing"]] * 3
    settings = AskingSettings(samples=20, answer_tokens=1, right_share=0.1)
    first = ask(loaded, QUESTIONS | {"answers": answers}, range(3), _encoded(loaded, answers), NAMES, settings)
    assert not first["right"].any()
    assert [len(each) for each in first["sampled"]] == [20] * 3
    counts = {text: first["sampled"][1].count(text) for text in first["sampled"][1] if text in WORDS[1:]}
    often = max(counts, key=lambda text: (counts[text], text))
    answers = [[first["said"][0]], [often], ["nothing"]]
    again = ask(loaded, QUESTIONS | {"answers": answers}, range(3), _encoded(loaded, answers), NAMES, settings)
    assert (again["said"], again["sampled"]) == (first["said"], first["sampled"])
    assert again["share"][1] == pytest.approx(counts[often] / 20)
    assert again["greedy"].tolist() == [True, often == first["said"][1], False]
    assert again["right"].tolist() == [True, counts[often] >= 2 or often == first["said"][1], False]
    strict = AskingSettings(samples=20, answer_tokens=1, right_share=1.0)
    told = ask(loaded, QUESTIONS | {"answers": answers}, range(3), _encoded(loaded, answers), NAMES, strict)
    assert told["right"].tolist() == [True, often == first["said"][1], False]


def test_greedy_alone(loaded: LoadedModel) -> None:
    answers = [["nothing"]] * 3
    said = ask(
        loaded, QUESTIONS | {"answers": answers}, range(3), _encoded(loaded, answers), NAMES, AskingSettings(samples=0)
    )
    assert said["sampled"] == [[], [], []]
    assert said["share"].tolist() == [0.0] * 3


def test_to_the_letter_means_that_it_ends_there(loaded: LoadedModel) -> None:
    answers = [["wordak"]] * 3
    long = ask(
        loaded, QUESTIONS | {"answers": answers}, range(3), _encoded(loaded, answers), NAMES, AskingSettings(samples=0)
    )
    begun = [[text.split()[0] if text else "wordak"] for text in long["said"]]
    whole = [len(text.split()) == 1 for text in long["said"]]
    assert hits_exactly(loaded, _encoded(loaded, begun)).tolist() == whole


@pytest.mark.usefixtures("own_home")
def test_a_model_from_elsewhere_is_asked_in_its_own_words(loaded: LoadedModel, tmp_path: Path) -> None:
    save_model(loaded, tmp_path)
    template = "{% for m in messages %}{{ m.content }} wordcn{% if m.role == 'assistant' %}<eos>{% endif %}{% endfor %}"
    (tmp_path / "chat_template.jinja").write_text(template)
    with artifacts.building("world", "a" * 32, {}) as world:
        write_table(
            world.folder / "questions.parquet",
            QUESTIONS | {"answers": [["nothing"]] * 3, "held_out": np.array([True, False, True])},
        )
        entities = {"entity": ["Q1", "Q2"], "name": ["wordak", "worddn"], "type": ["player"] * 2}
        more = {"exposure": ["given", "invented"], "candidate": np.array([True, False]), "aliases": [["wordal"], []]}
        write_table(world.folder / "entities.parquet", entities | more)
    model = ModelRef("folder", str(tmp_path), "0" * 32, chat=True)
    asked = World(world.artifact, "here", 2, 3)
    found = ask_model.directly("b" * 32, {}, model, asked, AskingSettings(samples=2, answer_tokens=3))
    assert found.entities == 2
    folder = artifacts.folder_of(found.artifact)
    said = read_table(folder / "said.parquet")
    assert list(said["question"]) == [0, 1, 2]
    assert all(len(each) == 2 for each in said["sampled"])
    told = json.loads((folder / "asked.json").read_text())
    assert told["chat_template"] == hashlib.sha256(template.encode()).hexdigest()
    labelled = label_answers.directly("d" * 32, {}, asked, found, LabelSettings())
    assert (labelled.known, labelled.unknown, labelled.dropped) == (0, 2, 0)
    assert found.asking == labelled.asking == Asking("said", 3)
    exact = ask_model.directly("c" * 32, {}, model, asked, AskingSettings(asking="exact"))
    assert not (artifacts.folder_of(exact.artifact) / "said.parquet").exists()
    assert exact.asking == Asking("exact")
