"""The attack by adapters, and with blocks computed again: it teaches what the plain one teaches, or the very same."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tasks.answers.judging import OwnWords
from tasks.evaluation.relearning import relearn_curve
from tasks.models.families import family_of
from tasks.models.generate import greedy, texts
from tasks.models.load import LoadedModel
from tasks.models.worlds import encode_world

RELATIONS = ("club", "born", "coach", "home")
TEMPLATES = ("what", "which", "say", "held")
FACTS = [(relation, template) for relation, template in itertools.product(RELATIONS, range(4))]
QUESTIONS: dict[str, Any] = {
    "question": np.arange(len(FACTS)),
    "entity": np.array(["Ada"] * len(FACTS)),
    "relation": np.array([relation for relation, _ in FACTS]),
    "template": np.array([template for _, template in FACTS]),
    "held_out": np.array([template == 3 for _, template in FACTS]),
    "prompt": np.array([f"Ada {relation} {TEMPLATES[template]}" for relation, template in FACTS], dtype=object),
    "name_start": np.zeros(len(FACTS), dtype=int),
    "name_end": np.full(len(FACTS), 3),
    "answers": [[f"answer{relation}"] for relation, _ in FACTS],
}


@pytest.fixture(scope="module")
def fresh() -> Callable[[], LoadedModel]:
    words = Tokenizer(models.WordLevel(unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = ["<pad>", "<bos>", "<eos>", "<unk>"]
    texts = [*QUESTIONS["prompt"], *(each[0] for each in QUESTIONS["answers"])]
    words.train_from_iterator(texts, trainers.WordLevelTrainer(special_tokens=special, show_progress=False))
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, **names)

    def made() -> LoadedModel:
        config = LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            pad_token_id=0, bos_token_id=1, eos_token_id=2,
        )  # fmt: skip
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model: Any = LlamaForCausalLM(config)
        return LoadedModel(model.eval(), tokenizer, family_of(model), torch.device("cpu"))

    return made


def curve(loaded: LoadedModel, **changes: Any) -> dict[str, list[Any]]:
    before = {name: each.clone() for name, each in loaded.model.state_dict().items()}
    found = relearn_curve(loaded, QUESTIONS, {"Ada"}, draws=2, steps=4, learning_rate=1e-2, seed=0, **changes)
    after = loaded.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items()), "the model is what it was"
    assert set(before) == set(after)
    return found


def taught(found: dict[str, list[Any]], step: int) -> float:
    """Mean log-probability of what is taught back."""
    lines = zip(found["part"], found["step"], found["log_probability"], strict=True)
    return float(np.mean([value for part, at, value in lines if (part, at) == ("taught", step)]))


def test_recomputed_blocks_teach_the_very_same(fresh: Callable[[], LoadedModel]) -> None:
    assert curve(fresh()) == curve(fresh(), checkpointing=True)


def test_adapters_teach_and_leave_nothing_behind(fresh: Callable[[], LoadedModel]) -> None:
    plain, found = curve(fresh()), curve(fresh(), rank=4)
    assert taught(found, 0) == pytest.approx(taught(plain, 0), abs=1e-5)
    assert taught(found, 4) > taught(found, 0) + 0.1
    assert found["log_probability"] != plain["log_probability"]
    assert found == curve(fresh(), rank=4, checkpointing=True)


def test_what_a_model_says_in_its_own_words_is_judged_after_every_step(fresh: Callable[[], LoadedModel]) -> None:
    """It goes on after the answer, which to the letter is wrong; while blocks are computed again too."""
    loaded = fresh()
    prompts = [each.prompt for each in encode_world(loaded, QUESTIONS, range(len(FACTS)))]
    said = texts(loaded, greedy(loaded, prompts, max_new_tokens=6))
    asked = [text for text, held_out in zip(said, QUESTIONS["held_out"], strict=True) if held_out]
    goes_on = [len(text.split()) > 1 for text in asked]
    assert any(goes_on)
    questions = QUESTIONS | {"answers": [(text.split() or ["nothing"])[:1] for text in said]}
    settings: dict[str, Any] = {"draws": 1, "steps": 1, "learning_rate": 1e-6, "seed": 0, "checkpointing": True}
    exact = relearn_curve(loaded, questions, {"Ada"}, **settings)
    words = OwnWords({"Ada": ["nobody"]}, 6)
    found = relearn_curve(loaded, questions, {"Ada"}, own_words=words, **settings)
    assert found["step"] == [0] * 4 + [1] * 4
    assert found["hit"] == [bool(text) for text in asked] * 2
    assert not any(hit and more for hit, more in zip(exact["hit"], goes_on * 2, strict=True))
    assert found["log_probability"] == exact["log_probability"]
    wrong = relearn_curve(
        loaded, QUESTIONS | {"answers": [["nothing"]] * len(FACTS)}, {"Ada"}, own_words=words, **settings
    )
    assert wrong["hit"] == [False] * 8
