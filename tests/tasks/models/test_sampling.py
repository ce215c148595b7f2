"""Samples follow the model's distribution, end where decoding ends, and depend on seed, prompt and number alone."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from storage.records import UsageError
from tasks.models import generate
from tasks.models.generate import greedy, sample
from tasks.models.load import LoadedModel

NO_END = SimpleNamespace(eos_token_id=10_000)
MANY = 4000


def endless(loaded: LoadedModel) -> LoadedModel:
    """The model without a token that ends anything."""
    loaded.model.generation_config.eos_token_id = None
    return replace(loaded, tokenizer=NO_END)


def exact(loaded: LoadedModel, prompt: list[int], temperature: float) -> np.ndarray:
    with torch.no_grad():
        logits = loaded.model(torch.tensor([prompt])).logits[0, -1].double()
    return (logits / temperature).softmax(-1).numpy()


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.5])
def test_follows_the_softmax(fresh: Callable[..., LoadedModel], family: str, temperature: float) -> None:
    """Pearson's statistic of the first two tokens against the exact distribution, cells of fewer than 5 put together."""
    loaded, prompt = endless(fresh(family)), [1, 7, 4]
    (found,) = sample(loaded, [prompt], MANY, temperature=temperature, max_new_tokens=2, seed=1)
    first = Counter(ids[0] for ids in found)
    likely = first.most_common(1)[0][0]
    after = [ids[1] for ids in found if ids[0] == likely]
    given = exact(loaded, [*prompt, likely], temperature)
    for counts, probability in ((first, exact(loaded, prompt, temperature)), (Counter(after), given)):
        expected = probability * counts.total()
        seen = np.array([counts[token] for token in range(loaded.vocabulary)])
        rare = expected < 5
        cells = [*zip(seen[~rare], expected[~rare], strict=True), (seen[rare].sum(), expected[rare].sum())]
        statistic = sum((n - e) ** 2 / e for n, e in cells if e > 0)
        degrees = len(cells) - 1
        assert statistic < degrees + 5 * np.sqrt(2 * degrees + 1)


@pytest.mark.parametrize("family", ["gemma2", "gpt2"])
def test_cold_samples_are_greedy(fresh: Callable[..., LoadedModel], family: str, sequences: list[list[int]]) -> None:
    loaded = endless(fresh(family))
    wanted = [[ids] * 3 for ids in greedy(loaded, sequences, max_new_tokens=5)]
    assert sample(loaded, sequences, 3, temperature=0.0, max_new_tokens=5) == wanted
    assert sample(loaded, sequences, 3, temperature=1e-4, max_new_tokens=5) == wanted


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "gpt_neox"])
def test_batches_change_nothing(
    fresh: Callable[..., LoadedModel], family: str, sequences: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = endless(fresh(family))
    together = sample(loaded, sequences, 4, max_new_tokens=6, seed=5)
    assert together == sample(loaded, sequences, 4, max_new_tokens=6, seed=5)
    assert sample(loaded, sequences, 4, max_new_tokens=6, seed=5, rows=3, budget=40) == together
    padded = replace(loaded, family=replace(loaded.family, ancestor_mask=False))
    assert sample(padded, sequences, 4, max_new_tokens=6, seed=5, rows=8, budget=40) == together
    assert [sample(loaded, [each], 4, max_new_tokens=6, seed=5)[0] for each in sequences[:4]] == together[:4]
    monkeypatch.setattr(generate, "DRAW_NUMBERS", 3 * loaded.vocabulary)
    fewer = sample(loaded, sequences, 2, max_new_tokens=3, seed=5)
    assert fewer == [[ids[:3] for ids in several[:2]] for several in together]
    assert sample(loaded, sequences, 4, max_new_tokens=6, seed=6) != together
    assert sequences[0] == sequences[12]
    assert together[0] == together[12]
    assert len({ids for several in together for ids in several}) > len(sequences)


def test_ends_as_greedy_does(fresh: Callable[..., LoadedModel], sequences: list[list[int]]) -> None:
    """With an end token, a sample is the endless one up to its first end."""
    loaded = fresh("llama")
    free = sample(endless(loaded), sequences, 6, max_new_tokens=7, seed=2)
    end = Counter(token for several in free for ids in several for token in ids).most_common(1)[0][0]
    cut = sample(replace(loaded, tokenizer=SimpleNamespace(eos_token_id=end)), sequences, 6, max_new_tokens=7, seed=2)
    wanted = [[ids[: ids.index(end)] if end in ids else ids for ids in several] for several in free]
    assert cut == wanted
    assert {len(ids) for several in cut for ids in several} >= {0, 3, 7}


def test_nothing_to_do_and_bad_requests(tiny: Callable[[str], LoadedModel]) -> None:
    assert sample(tiny("llama"), [], 3) == []
    for k, temperature in ((0, 1.0), (1, -0.5), (1, float("nan"))):
        with pytest.raises(UsageError, match="expected at least 1"):
            sample(tiny("llama"), [[1]], k, temperature=temperature)
    with pytest.raises(UsageError, match="no token"):
        sample(tiny("llama"), [[]], 1)
