"""What is observed of models that answer in their own words, and of worlds without a long tail."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tasks.answers.judging import OwnWords
from tasks.entities.asking import ask
from tasks.entities.settings import AskingSettings
from tasks.evaluation import observing
from tasks.evaluation.observing import NEW_TOKENS, observe_answers, observe_samples
from tasks.evaluation.settings import ObservationSettings
from tasks.evaluation.task import _first_of_facts, _halved
from tasks.models.families import family_of
from tasks.models.load import LoadedModel
from tasks.models.worlds import encode_world

WORDS = [
    "<eos>",
    "<unk>",
    "Leeds",
    "York",
    ",",
    "in",
    "the",
    "north",
    "Ada",
    "Berg",
    "was",
    "born",
    "Where",
    "Poet",
    "of",
    "is",
]
NAMES = {"Q1": ["Ada Berg"]}
QUESTIONS: dict[str, Any] = {
    "question": np.arange(4),
    "set": np.array(["paraphrase"] * 3 + ["reverse"], dtype=object),
    "variant": np.array(["template_1"] * 3 + ["unique"], dtype=object),
    "split": np.array(["forget"] * 4, dtype=object),
    "target": np.array(["Q1"] * 4, dtype=object),
    "entity": np.array(["Q1"] * 4, dtype=object),
    "relation": np.array(["place of birth"] * 4, dtype=object),
    "template": np.arange(4),
    "prompt": [*["Where was Ada Berg born"] * 3, "Poet of Leeds is"],
    "name_start": np.array([10, 10, 10, 8]),
    "name_end": np.array([18, 18, 18, 13]),
    "answers": [["Leeds"]] * 3 + [["Ada Berg"]],
    "wrong": [["York"]] * 4,
}
SAID = ("Leeds", "Leeds , in the north", "Ada Berg was born in York", "Ada Berg of the north")


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    made = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        bos_token_id=None, eos_token_id=0, initializer_range=0.6,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    fast = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<eos>", bos_token="<eos>", unk_token="<unk>")
    return LoadedModel(model, fast, family_of(model), torch.device("cpu"))


def ids(text: str) -> tuple[int, ...]:
    return tuple(map(WORDS.index, text.split()))


@pytest.mark.parametrize(
    ("words", "hits"),
    [(None, [True, False, False, False]), (OwnWords(NAMES, 5), [True, True, False, True])],
    ids=["to the letter", "in its own words"],
)
def test_what_counts_as_right(
    loaded: LoadedModel, words: OwnWords | None, hits: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its own words a model may go on after the answer, and need not have ended when decoding does."""
    asked: list[int] = []

    def decoded(_: Any, prompts: Any, *, max_new_tokens: int) -> list[tuple[int, ...]]:
        asked.append(max_new_tokens)
        return [ids(text) for text in SAID]

    def drawn(_: Any, prompts: Any, k: int, *, max_new_tokens: int, **__: Any) -> list[list[tuple[int, ...]]]:
        asked.append(max_new_tokens)
        return [[ids(SAID[0]), ids(text)] for text in SAID]

    monkeypatch.setattr(observing, "greedy", decoded)
    monkeypatch.setattr(observing, "sample", drawn)
    found = observe_answers(loaded, QUESTIONS, 256, own_words=words).answers
    assert found["generated"] == list(SAID)
    assert found["hit"].tolist() == hits
    samples = observe_samples(loaded, QUESTIONS, range(4), ObservationSettings(samples=2), own_words=words)
    assert samples["hit"] == [
        right for first, right in zip([True] * 3 + [False], hits, strict=True) for right in (first, right)
    ]
    assert asked == [NEW_TOKENS if words is None else 5] * 2


def test_labels_and_recall_agree(loaded: LoadedModel) -> None:
    """Of the same answers, by the same rule."""
    rows = range(3)
    prompts = ["Where was Ada Berg born", "Ada Berg was born in", "Where is Ada Berg"]
    places = {"prompt": prompts, "name_start": np.array([10, 0, 9]), "name_end": np.array([18, 8, 17])}
    table = {name: column[:3] for name, column in QUESTIONS.items()} | places
    settings = AskingSettings(samples=0, answer_tokens=6)
    said = ask(loaded, table, rows, encode_world(loaded, table, rows), NAMES, settings)["said"]
    answers = [
        [word for word in text.split() if word not in ("Ada", "Berg", "the", ",")][:1] or ["York"] for text in said
    ]
    table |= {"answers": [*answers[:2], ["Bath"]]}
    labelled = ask(loaded, table, rows, encode_world(loaded, table, rows), NAMES, settings)
    observed = observe_answers(loaded, table, 256, own_words=OwnWords(NAMES, 6)).answers
    assert observed["generated"] == labelled["said"]
    assert observed["hit"].tolist() == labelled["right"].tolist()
    assert observed["hit"].tolist() == [True, True, False]
    assert not observe_answers(loaded, table, 256).answers["hit"].any()


def test_sentences_are_halved_and_numbered_apart_from_the_worlds_questions() -> None:
    found = _halved(["Water is always wet here.", "Oh", "Snow falls."])
    assert found["prompt"] == ["Water is", "Snow"]
    assert found["answers"] == [["always wet here."], ["falls."]]
    assert list(found["question"]) == [-2, -1]
    assert [found["prompt"][row][: found["name_end"][row]] for row in (0, 1)] == found["prompt"]


def test_first_wording_of_each_fact_not_the_same_number_for_all() -> None:
    asked = {
        "entity": ["a", "a", "b", "b"],
        "relation": ["r", "r", "r", "s"],
        "template": [5, 3, 9, 0],
    }
    assert _first_of_facts(asked, [0, 1, 2, 3]) == [1, 2, 3]
