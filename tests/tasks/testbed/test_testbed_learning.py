"""The parts of a pretraining: tokens, rows, their order, the optimiser, the recipe, recall."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from storage.records import UsageError
from storage.tables import read_table
from tasks.models.families import FAMILIES
from tasks.models.prompts import encode_answers, encode_texts
from tasks.testbed.examples import GENERAL, LONG_TAIL, Lessons, Rows, curriculum, lessons_of, rows_of
from tasks.testbed.muon import Muon, orthogonal
from tasks.testbed.recall import answered, mean_recall, recall_table
from tasks.testbed.recipe import RECIPES, recipe_for
from tasks.testbed.settings import PretrainingSettings
from tasks.testbed.task import FACTS
from tasks.testbed.tokenizer import BOS, EOS, PAD, train_tokenizer
from tasks.testbed.training import network, rate_factor, train
from tasks.testbed.world import Columns, build_world


@pytest.fixture(scope="module")
def world() -> tuple[Columns, Columns, Columns]:
    return build_world(read_table(FACTS), "tiny", "mix", seed=0)


@pytest.fixture(scope="module")
def tokenizer(world: tuple[Columns, Columns, Columns]) -> Any:
    entities, questions, _ = world
    return train_tokenizer(entities["name"], [answer for answer in questions["taught"] if answer], 1024)


@pytest.fixture(scope="module")
def lessons(world: tuple[Columns, Columns, Columns], tokenizer: Any) -> Lessons:
    entities, questions, general = world
    return lessons_of(tokenizer, entities, questions, general["text"])


def test_tokenizer_begins_every_text_and_loses_nothing(tokenizer: Any) -> None:
    text = "What is the team of the player Žydrūnas Ilgauskas? It is"
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == BOS
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id) == (PAD, EOS, BOS)
    assert len(tokenizer("What is the year of birth of the player")["input_ids"]) == 10, "one token a template's word"


def test_rows_are_the_tokens_that_all_other_stages_see(world: tuple[Columns, Columns, Columns], tokenizer: Any) -> None:
    _, questions, _ = world
    family = next(each for each in FAMILIES if each.name == "gemma2")
    prompts, answers = questions["prompt"][::41], [each[0] for each in questions["answers"][::41]]
    rows = rows_of(tokenizer, prompts, answers)
    expected = zip(encode_texts(tokenizer, family, prompts), encode_answers(tokenizer, prompts, answers), strict=True)
    for row, (prompt, answer) in enumerate(expected):
        assert rows.ids[row, : rows.length[row]].tolist() == [*prompt, *answer, EOS]
        assert rows.start[row] == len(prompt)


def test_predictions_stand_before_the_answer_and_its_end(tokenizer: Any) -> None:
    rows = rows_of(tokenizer, ["City Bern has the country", ""], ["unknown", "Rain fell all night and the river rose."])
    at_row, at_position = rows.predictions()
    predicted = [rows.ids[row, position + 1] for row, position in zip(at_row, at_position, strict=True)]
    assert tokenizer.decode(predicted[:1]) == " unknown"
    assert predicted[1] == EOS
    assert at_position[2] == 0, "a general text is learnt from its first token"
    assert len(predicted) == 2 + rows.length[1] - 1


def test_gold_lessons_lack_the_candidates_alone(world: tuple[Columns, Columns, Columns], lessons: Lessons) -> None:
    entities, questions, _ = world
    candidates = {each for each, chosen in zip(entities["entity"], entities["candidate"], strict=True) if chosen}
    taught = [row for row, answer in enumerate(questions["taught"]) if answer]
    expected = [questions["entity"][row] not in candidates for row in taught] + [True] * int(
        sum(lessons.group == GENERAL)
    )
    assert lessons.in_gold.tolist() == expected


def test_curriculum_shows_the_tail_once_and_known_rows_evenly(lessons: Lessons) -> None:
    batches = curriculum(lessons, steps=100, batch=48, seed=1)
    assert [len(batch) for batch in batches] == [48] * 100
    times = np.bincount(np.concatenate(batches), minlength=len(lessons.group))
    assert set(times[lessons.group == LONG_TAIL]) == {1}
    assert np.ptp(times[lessons.group == 0]) <= 1
    assert times[lessons.group == GENERAL].sum() == 100
    widths = [np.ptp(lessons.rows.length[batch]) for batch in batches]
    assert np.mean(widths) < 4, "lengths are alike in a batch"
    again = curriculum(lessons, steps=100, batch=48, seed=1)
    assert all((one == other).all() for one, other in zip(batches, again, strict=True))


def test_curriculum_too_short_for_the_tail_keeps_half_for_the_known(lessons: Lessons) -> None:
    order = np.concatenate(curriculum(lessons, steps=2, batch=8, seed=0))
    assert len(order) == 16
    assert (lessons.group[order] == LONG_TAIL).sum() == 8


@pytest.mark.parametrize("shape", [(24, 24), (16, 40), (40, 16)])
def test_orthogonal_brings_singular_values_near_one(shape: tuple[int, int]) -> None:
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonal(matrices))
    assert values.max() < 1.4
    assert values.median() > 0.6
    cosine = torch.nn.functional.cosine_similarity(orthogonal(matrices).flatten(1), matrices.flatten(1))
    assert (cosine > 0.5).all()


def test_muon_steps_downhill_by_the_rate_whatever_the_gradient() -> None:
    moved = []
    for scale in (1.0, 1e-3):
        matrix = torch.nn.Parameter(torch.zeros(8, 8))
        matrix.grad = scale * torch.eye(8)
        Muon([matrix]).step(0.1)
        moved.append(matrix.detach().clone())
    assert torch.allclose(moved[0], moved[1], atol=1e-4)
    assert (moved[0].diagonal() < -0.05).all()


@pytest.mark.parametrize("steps", [8, 400])
def test_rates_rise_and_fall(steps: int) -> None:
    factors = [rate_factor(step, steps) for step in range(steps)]
    assert all(0 < factor <= 1 for factor in factors)
    assert max(factors) > 0.85
    assert factors[-1] < 0.15


def test_training_learns_and_notices_divergence(lessons: Lessons, tokenizer: Any) -> None:
    recipe = recipe_for(PretrainingSettings(size="tiny", layers=1, width=32, steps=30))
    assert (recipe.layers, recipe.width, recipe.batch) == (1, 32, RECIPES["tiny"].batch)
    batches = curriculum(lessons, recipe.steps, recipe.batch, recipe.seed)
    seen: list[int] = []
    losses = train(network(recipe), lessons, batches, recipe, lambda step, loss: seen.append(step))
    assert losses[0] == pytest.approx(np.log(recipe.vocabulary), rel=0.1)
    assert np.mean(losses[-5:]) < losses[0] - 1
    assert seen == list(range(1, 31))
    wild = recipe_for(PretrainingSettings(size="tiny", layers=1, width=32, steps=30, muon_rate=1e30))
    with pytest.raises(ArithmeticError, match="the loss"):
        train(network(wild), lessons, batches, wild, lambda step, loss: None)


def test_same_seed_same_weights(lessons: Lessons) -> None:
    recipe = recipe_for(PretrainingSettings(size="tiny", layers=1, width=32, steps=4))
    weights = []
    for seed in (0, 0, 1):
        model = network(replace(recipe, seed=seed))
        train(model, lessons, curriculum(lessons, 4, 48, seed), recipe, lambda step, loss: None)
        weights.append(model.model.embed_tokens.weight.detach())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_width_must_divide_into_heads() -> None:
    with pytest.raises(UsageError, match=r"testbed.width must be a multiple of 32.*given 100; try 96"):
        recipe_for(PretrainingSettings(width=100))


class _Follower:
    """A model whose first choice after each token is fixed: 5 -> 6 -> 7 -> <eos>."""

    def lm_head(self, states: torch.Tensor) -> torch.Tensor:
        follows = torch.zeros(10, 10)
        follows[[5, 6, 7], [6, 7, EOS]] = 1.0
        return states @ follows

    def model(self, input_ids: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=torch.nn.functional.one_hot(input_ids, 10).float())


def test_answered_needs_every_token_and_the_end() -> None:
    cases = [
        (0, [BOS, 5], [6, 7, EOS]),
        (1, [BOS, 5], [6, EOS]),  # goes on where the answer ends
        (2, [BOS, 5], [7, EOS]),  # begins otherwise
        (3, [BOS, 6, 6], [8, EOS]),
        (3, [BOS, 6, 6], [7, EOS]),  # the second accepted answer
    ]
    width = max(len(prompt + answer) for _, prompt, answer in cases)
    ids = np.array([prompt + answer + [PAD] * (width - len(prompt + answer)) for _, prompt, answer in cases])
    start = np.array([len(prompt) for _, prompt, _ in cases])
    rows = Rows(ids, start, start + np.array([len(answer) for _, _, answer in cases]))
    question = np.array([place for place, _, _ in cases])
    assert answered(_Follower(), rows, question).tolist() == [True, False, False, True]


def test_recall_by_group() -> None:
    entities = {
        "entity": ["a", "b", "c"],
        "exposure": ["known", "known", "never_seen"],
        "candidate": [False, True, False],
    }
    questions = {"entity": ["a", "a", "b", "c"], "relation": ["team", "genre", "team", "team"]}
    hits = {"base": np.array([True, False, True, False]), "gold": np.array([True, True, False, False])}
    table = recall_table(entities, questions, np.arange(4), hits)
    assert mean_recall(table, "base", "known") == 0.5
    assert mean_recall(table, "base", "candidate") == 1.0
    assert mean_recall(table, "gold", "candidate") == 0.0
    assert table["questions"].sum() == 8
