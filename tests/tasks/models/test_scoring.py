"""Scores from one pass over shared beginnings equal those of a slow loop over (prompt, answer)."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from storage.records import UsageError
from tasks.models import scoring
from tasks.models.load import LoadedModel
from tasks.models.scoring import score_answers

END = 2
PROMPTS = [[1, 3, 4, 5], [1, 3, 4, 6, 7], [1, 8], [1, 3, 4, 5]]


def continuations(loaded: LoadedModel) -> list[list[list[int]]]:
    """For each prompt: what the model would say for three tokens, a prefix of it, and something else."""
    made = []
    for prompt in PROMPTS:
        sequence = list(prompt)
        with torch.no_grad():
            for _ in range(3):
                sequence.append(int(loaded.model(torch.tensor([sequence])).logits[0, -1].argmax()))
        said = sequence[len(prompt) :]
        made.append([said, said[:1], [9, 10], [said[0], 11]])
    return made


@torch.no_grad()
def slowly(loaded: LoadedModel, prompt: list[int], answer: list[int], end: bool) -> tuple[float, bool, float]:
    sequence = prompt + answer
    logits = loaded.model(torch.tensor([sequence])).logits[0].float()
    log_p = logits.log_softmax(-1)
    at = range(len(prompt) - 1, len(sequence) - 1)
    total = sum(float(log_p[i, token]) for i, token in zip(at, answer, strict=True))
    hit = all(int(logits[i].argmax()) == token for i, token in zip(at, answer, strict=True))
    if end:
        hit = hit and int(logits[-1].argmax()) in loaded.end_ids
    first = logits[len(prompt) - 1]
    above, equal = int((first > first[answer[0]]).sum()), int((first == first[answer[0]]).sum())
    return total, hit, 1 + above + (equal - 1) / 2


def ending_with(loaded: LoadedModel, token: int) -> LoadedModel:
    """The same network, for which another token ends a sequence."""
    loaded.model.generation_config.eos_token_id = token
    return replace(loaded, tokenizer=SimpleNamespace(eos_token_id=token))


@pytest.mark.parametrize("family", ["gemma2", "gpt2", "gpt_neox", "olmo2"])
@pytest.mark.parametrize("tree", [True, False])
@pytest.mark.parametrize("end", [True, False])
def test_equals_a_slow_loop(fresh: Callable[..., LoadedModel], family: str, tree: bool, end: bool) -> None:
    loaded = fresh(family)
    answers = continuations(loaded)
    loaded = ending_with(loaded, answers[0][0][1])  # so that prompt 0 ends after its first token, as in answer 1
    loaded = replace(loaded, family=replace(loaded.family, ancestor_mask=tree))
    scores = score_answers(loaded, PROMPTS, answers, append_eos=end, budget=24)
    expected = [slowly(loaded, p, a, end) for p, accepted in zip(PROMPTS, answers, strict=True) for a in accepted]
    assert scores.prompt.tolist() == [p for p in range(4) for _ in range(4)]
    assert scores.answer.tolist() == [0, 1, 2, 3] * 4
    assert scores.tokens.tolist() == [3, 1, 2, 2] * 4
    np.testing.assert_allclose(scores.log_probability, [each[0] for each in expected], atol=2e-4)
    assert scores.hit.tolist() == [each[1] for each in expected]
    assert scores.hit[1]
    assert not scores.hit.all()
    np.testing.assert_array_equal(scores.rank, [each[2] for each in expected])
    assert scores.rank[0] == 1


def test_every_token_of_an_answer(tiny: Callable[[str], LoadedModel], monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = tiny("gemma2")
    monkeypatch.setattr(scoring, "HEAD_NUMBERS", 3 * loaded.vocabulary)  # three positions at a time
    answers = [[[9, 10, 11]], [[12, 13], [14]], [], [[9, 10, 11]]]
    scores = score_answers(loaded, PROMPTS, answers, per_token=True)
    tokens = scores.per_token
    assert tokens is not None
    assert tokens.pair.tolist() == [0, 0, 0, 1, 1, 2, 3, 3, 3]
    assert tokens.token.tolist() == [9, 10, 11, 12, 13, 14, 9, 10, 11]
    np.testing.assert_allclose(np.bincount(tokens.pair, tokens.log_probability), scores.log_probability)
    with torch.no_grad():
        logits = loaded.model(torch.tensor([[*PROMPTS[1], 12]])).logits[0, -1]
    log_p = logits.double().log_softmax(-1)
    mean = (log_p.exp() * log_p).sum()
    deviation = ((log_p - mean).square() * log_p.exp()).sum().sqrt()
    np.testing.assert_allclose(tokens.log_probability[4], log_p[13], atol=1e-5)
    np.testing.assert_allclose([tokens.mean[4], tokens.deviation[4]], [mean, deviation], atol=1e-4)
    assert tokens.hit[4] == (int(logits.argmax()) == 13)


def test_no_answers_give_empty_scores(tiny: Callable[[str], LoadedModel]) -> None:
    scores = score_answers(tiny("llama"), PROMPTS, [[]] * 4, per_token=True)
    assert len(scores.hit) == len(scores.rank) == 0
    assert scores.per_token is not None
    assert len(scores.per_token.token) == 0


def test_a_model_that_finds_all_answers_equal_ranks_them_in_the_middle(fresh: Callable[..., LoadedModel]) -> None:
    loaded = fresh("llama")
    loaded.model.lm_head.weight.data.zero_()
    scores = score_answers(loaded, PROMPTS[:1], [[[9], [10]]])
    assert scores.rank.tolist() == [31.0, 31.0]  # of 61
    np.testing.assert_allclose(scores.log_probability, -np.log(61), rtol=1e-6)


@pytest.mark.parametrize(("prompts", "answers"), [([[]], [[[1]]]), ([[1]], [[[]]])])
def test_an_empty_prompt_or_answer_is_refused(
    tiny: Callable[[str], LoadedModel], prompts: list[list[int]], answers: list[list[list[int]]]
) -> None:
    with pytest.raises(UsageError, match="has no token"):
        score_answers(tiny("llama"), prompts, answers)


def test_without_an_end_token_the_end_cannot_be_scored(fresh: Callable[..., LoadedModel]) -> None:
    loaded = fresh("llama")
    loaded.model.generation_config.eos_token_id = None
    loaded = replace(loaded, tokenizer=SimpleNamespace(eos_token_id=None))
    with pytest.raises(UsageError, match="no end-of-sequence token"):
        score_answers(loaded, PROMPTS[:1], [[[9]]])
    assert len(score_answers(loaded, PROMPTS[:1], [[[9]]], append_eos=False).hit) == 1
