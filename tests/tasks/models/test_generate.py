"""Greedy decoding gives, token for token, what transformers gives."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from storage.records import UsageError
from tasks.models.generate import greedy
from tasks.models.load import LoadedModel

LENGTH = 7


def reference(loaded: LoadedModel, prompt: list[int], end: int) -> tuple[int, ...]:
    tokens = torch.tensor([prompt])
    settings = {"do_sample": False, "max_new_tokens": LENGTH, "eos_token_id": end, "pad_token_id": 0}
    new = loaded.model.generate(tokens, attention_mask=torch.ones_like(tokens), **settings)[0, len(prompt) :].tolist()
    return tuple(new[:-1] if new[-1] == end else new)


def check(loaded: LoadedModel, sequences: list[list[int]]) -> None:
    """Take for the end a token that the model says early for some prompts, so that rows leave at different steps."""
    free = greedy(replace(loaded, tokenizer=SimpleNamespace(eos_token_id=0)), sequences, max_new_tokens=LENGTH)
    said = Counter(token for ids in free for token in ids[1:5])
    end = next(token for token, count in said.most_common() if count < len(sequences))
    loaded.model.generation_config.eos_token_id = end
    loaded = replace(loaded, tokenizer=SimpleNamespace(eos_token_id=end))
    expected = [reference(loaded, sequence, end) for sequence in sequences]
    assert len({len(each) for each in expected}) > 1
    assert greedy(loaded, sequences, max_new_tokens=LENGTH, rows=4, budget=40) == expected
    assert greedy(loaded, sequences, max_new_tokens=LENGTH) == expected
    padded = replace(loaded, family=replace(loaded.family, ancestor_mask=False))
    assert greedy(padded, sequences, max_new_tokens=LENGTH, rows=4, budget=40) == expected


@pytest.mark.parametrize("family", ["gemma2", "gemma3", "llama", "phi3", "olmo2", "gpt2", "gpt_neox"])
def test_equals_transformers(fresh: Callable[..., LoadedModel], family: str, sequences: list[list[int]]) -> None:
    check(fresh(family), sequences)


@pytest.mark.parametrize("window", [7, 10])
def test_equals_transformers_beyond_the_sliding_window(
    fresh: Callable[..., LoadedModel], sequences: list[list[int]], window: int
) -> None:
    assert max(map(len, sequences)) + LENGTH > 10  # 10: every prompt fits, not so with what follows
    check(fresh("gemma2", sliding_window=window), sequences)


def test_nothing_to_do_and_nothing_to_read(tiny: Callable[[str], LoadedModel]) -> None:
    assert greedy(tiny("llama"), []) == []
    with pytest.raises(UsageError, match="no token"):
        greedy(tiny("llama"), [[1], []])
    with pytest.raises(UsageError, match="at least 1"):
        greedy(tiny("llama"), [[1]], max_new_tokens=0)
