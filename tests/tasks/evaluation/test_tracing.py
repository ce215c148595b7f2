"""Traces equal a slow reference: plain forward passes, hidden states as transformers gives them, a hand-written hook."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from storage.records import UsageError
from tasks.evaluation import tracing
from tasks.evaluation.tracing import rows_to_trace, trace, unknown_rows
from tasks.models.families import family_of
from tasks.models.load import LoadedModel
from tasks.models.worlds import encode_world

LAYERS = 3
SPECIAL = ["<pad>", "<bos>", "<eos>"]
TEXT = "the team of player is : . Ada Bo Cy Di Ed Flo Lions Red Sox city lies in Rome"
WORDS = [*SPECIAL, *TEXT.split()]
Build = Callable[[str, int], LoadedModel]


@pytest.fixture(scope="module")
def build() -> Build:
    """A random model of a family; the seed tells one from another."""
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<pad>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, **names)
    sizes: dict[str, Any] = {
        "vocab_size": len(WORDS), "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": LAYERS, "head_dim": 6,
        "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3, "pad_token_id": 0,
        "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    extra = {"gemma2": {"final_logit_softcapping": 3.0, "query_pre_attn_scalar": 6}, "llama": {}}

    @cache
    def make(family: str, seed: int) -> LoadedModel:
        torch.manual_seed(seed)
        config = AutoConfig.for_model(family, **sizes, **extra[family])
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
        for parameter in model.parameters():
            if parameter.ndim == 1:
                torch.nn.init.normal_(parameter, 0.5, 0.3)
        return LoadedModel(model, tokenizer, family_of(model), torch.device("cpu"))

    return make


def asked(order: int = 0) -> dict[str, Any]:
    """A target, a neighbour and unknown players in two sentences; one unknown city in a sentence of its own."""
    table: list[tuple[Any, ...]] = []
    who = [("Ada", "forget"), ("Bo", "neighbours"), ("Cy", "unknown_held_out"), ("Di", "unknown_held_out"),
           ("Ed", "unknown_reference")]  # fmt: skip
    for name, split in who:
        for template, (before, after, answer) in enumerate(
            [("the team of player", "is :", "Lions Red"), ("player", "is in team :", "Sox")]
        ):
            prompt = f"{before} {name} {after}"
            table.append((split, name, template, prompt, prompt.index(name), [answer], "paraphrase"))
    table.append(("unknown_held_out", "Flo", 0, "the city Flo lies in", 9, ["Rome"], "paraphrase"))
    table.append(("forget", "Ada", 9, "team of Ada :", 8, ["Lions Red"], "base"))
    table = [table[i] for i in (np.random.default_rng(order).permutation(len(table)) if order else range(len(table)))]
    names = [row[1] for row in table]
    question = [hash_of(row) for row in table]
    return {
        "question": np.array(question), "set": np.array([row[6] for row in table], dtype=object),
        "split": np.array([row[0] for row in table], dtype=object), "entity": np.array(names, dtype=object),
        "target": np.array(["Ada" if row[0] == "forget" else "" for row in table], dtype=object),
        "template": np.array([row[2] for row in table]), "prompt": np.array([row[3] for row in table], dtype=object),
        "name_start": np.array([row[4] for row in table]),
        "name_end": np.array([row[4] + len(row[1]) for row in table]), "answers": [row[5] for row in table],
    }  # fmt: skip


def hash_of(row: tuple[Any, ...]) -> int:
    return sum(ord(letter) * (place + 1) for place, letter in enumerate(f"{row[1]}{row[2]}{row[6]}"))


@torch.no_grad()
def slow_states(loaded: LoadedModel, sequence: list[int], wanted: slice) -> list[Tensor]:
    """After each block; the last one from a hook, since transformers norms it."""
    last: list[Tensor] = []
    handle = loaded.blocks[-1].register_forward_hook(
        lambda _m, _i, output: last.append(output[0] if isinstance(output, tuple) else output)
    )
    states = loaded.model(torch.tensor([sequence]), output_hidden_states=True).hidden_states
    handle.remove()
    return [state[0, wanted] for state in (*states[1:-1], last[0])]


@torch.no_grad()
def slow_log_p(loaded: LoadedModel, sequence: list[int], wanted: slice, answer: list[int], layer: int = 0,
               states: Tensor | None = None) -> float:  # fmt: skip
    def put(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        value = (output[0] if isinstance(output, tuple) else output).clone()
        value[0, wanted] = states
        return (value, *output[1:]) if isinstance(output, tuple) else value

    handle = loaded.blocks[layer].register_forward_hook(put) if states is not None else None
    log_p = loaded.model(torch.tensor([sequence])).logits[0, wanted].log_softmax(-1)
    if handle is not None:
        handle.remove()
    return float(log_p[torch.arange(len(answer)), torch.tensor(answer)].mean())


@torch.no_grad()
def slow_lens(base: LoadedModel, state: Tensor, answer: list[int]) -> float:
    logits = base.model.lm_head(base.model.model.norm(state))
    cap = getattr(base.config, "final_logit_softcapping", None)
    logits = logits if cap is None else cap * torch.tanh(logits / cap)
    return float(logits.log_softmax(-1)[torch.arange(len(answer)), torch.tensor(answer)].mean())


@pytest.mark.parametrize("family", ["gemma2", "llama"])
def test_traces_equal_the_slow_reference(build: Build, family: str) -> None:
    base, model, questions = build(family, 0), build(family, 1), asked()
    rows = rows_to_trace(questions)
    nulls = unknown_rows(questions, rows)
    found = trace(base, model, questions, rows, nulls)
    expected: dict[tuple[int, str, int, str], float] = {}
    for row in rows:
        (mine,) = encode_world(base, questions, [row])
        prompt, answer = list(mine.prompt), list(mine.answers[0])
        sequence = prompt + answer
        wanted = slice(len(prompt) - 1, len(sequence) - 1)
        number, entity = int(questions["question"][row]), questions["entity"][row]
        plain = slow_log_p(base, sequence, wanted, answer)
        for layer, state in enumerate(slow_states(model, sequence, wanted)):
            expected[number, entity, layer, "lens"] = slow_lens(base, state, answer)
            expected[number, entity, layer, "patched"] = plain - slow_log_p(
                base, sequence, wanted, answer, layer, state
            )
        for other in nulls.get(row, []):
            (its,) = encode_world(base, questions, [other])
            stranger = list(its.prompt) + answer
            there = slice(len(its.prompt) - 1, len(stranger) - 1)
            for layer, state in enumerate(slow_states(base, stranger, there)):
                name = questions["entity"][other]
                expected[number, name, layer, "null_lens"] = slow_lens(base, state, answer)
                expected[number, name, layer, "null"] = plain - slow_log_p(base, sequence, wanted, answer, layer, state)
    columns = [found[name] for name in ("question", "entity", "layer", "kind")]
    keys = [(int(q), str(e), int(layer), str(kind)) for q, e, layer, kind in zip(*columns, strict=True)]
    assert sorted(keys) == sorted(expected)
    np.testing.assert_allclose(found["value"], [expected[key] for key in keys], atol=1e-5)
    assert set(found["split"]) == {"forget", "neighbours"}
    assert set(found["target"][found["kind"] == "null"]) == {"Ada"}


def test_the_base_model_traced_itself_loses_nothing(build: Build) -> None:
    base, questions = build("gemma2", 0), asked()
    found = trace(base, base, questions, rows_to_trace(questions))
    assert set(found["kind"]) == {"lens", "patched"}
    np.testing.assert_allclose(found["value"][found["kind"] == "patched"], 0, atol=1e-5)


def test_after_the_last_block_patching_and_lens_are_one(build: Build) -> None:
    base, model, questions = build("llama", 0), build("llama", 1), asked()
    rows = rows_to_trace(questions)
    own, other = trace(base, base, questions, rows), trace(base, model, questions, rows)
    top = own["layer"] == LAYERS - 1
    plain = own["value"][top & (own["kind"] == "lens")]
    drop = other["value"][top & (other["kind"] == "patched")]
    np.testing.assert_allclose(drop, plain - other["value"][top & (other["kind"] == "lens")], atol=1e-5)


@settings(max_examples=5, deadline=None)
@given(order=st.integers(0, 10**6))
def test_order_of_questions_and_size_of_groups_are_irrelevant(build: Build, order: int) -> None:
    base, model = build("gemma2", 0), build("gemma2", 2)
    tables = []
    for questions, room in ((asked(), 2**27), (asked(order), 1)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tracing, "HELD_NUMBERS", room)
            rows = rows_to_trace(questions)
            nulls = unknown_rows(questions, rows)
            tables.append(trace(base, model, questions, rows, nulls, budget=16 if room == 1 else None))
    first, second = tables
    for name in ("question", "layer", "kind", "target"):
        assert list(first[name]) == list(second[name])
    np.testing.assert_allclose(first["value"], second["value"], atol=1e-5)


def test_unknown_entities_stand_in_the_same_sentence() -> None:
    questions = asked()
    rows = rows_to_trace(questions)
    nulls = unknown_rows(questions, rows, count=2)
    assert [questions["entity"][row] for row in nulls] == ["Ada", "Ada"]
    for row, others in nulls.items():
        assert [questions["split"][other] for other in others] == ["unknown_held_out"] * 2
        assert {questions["template"][other] for other in others} == {questions["template"][row]}
        assert not {"Flo", "Ada", "Bo"} & {questions["entity"][other] for other in others}
    everyone = unknown_rows(questions, rows, count=8)
    assert [questions["entity"][other] for other in everyone[rows[0]]][-1] == "Ed"  # reference entities come last
    again = unknown_rows(asked(5), rows_to_trace(asked(5)), count=2)
    assert {asked(5)["entity"][i] for each in again.values() for i in each} == {"Cy", "Di"}


def test_rows_are_the_targets_and_whole_neighbours() -> None:
    questions = asked()
    rows = rows_to_trace(questions)
    assert [questions["entity"][row] for row in rows] == ["Ada", "Ada", "Bo", "Bo"]
    assert {questions["set"][row] for row in rows} == {"paraphrase"}
    assert [questions["entity"][row] for row in rows_to_trace(questions, neighbours=0)] == ["Ada", "Ada"]


def test_models_of_two_shapes_are_refused(build: Build) -> None:
    base = build("llama", 0)
    config = AutoConfig.for_model(**{**base.config.to_dict(), "num_hidden_layers": 2})
    short = LoadedModel(AutoModelForCausalLM.from_config(config), base.tokenizer, base.family, base.device)
    with pytest.raises(UsageError, match="2 layers"):
        trace(base, short, asked(), [0])
