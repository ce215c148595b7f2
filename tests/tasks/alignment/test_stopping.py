"""The stop rule: no while the target is another than the unknown, yes once it is like them, and on questions set aside."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from storage.records import Site, UsageError
from tasks.alignment import stopping
from tasks.alignment.material import Facts, Material, Validation, gather_material
from tasks.alignment.methods.latent.sae_guided import SaeGuided
from tasks.alignment.methods.likelihood.grad_diff import GradDiff
from tasks.alignment.stopping import distances, lies_among_unknown, recalled_no_more, stop_rule
from tasks.alignment.training import align_model
from tasks.answers.judging import OwnWords, Wanted
from tasks.models.load import LoadedModel

SITES = (Site(1), Site(2))
STRANGERS = ("Zol", "Vex", "Yrr", "Qua Bin")


def rule(small: Any, **changes: Any) -> Any:
    return small.settings(stop="unknown", stop_interval=1, **changes)


def gathered(small: Any, method: Any, settings: Any, targets: Sequence[str] = ("Lund",)) -> Material:
    return gather_material(small.model(), small.facts, method, settings, targets)


def embedding(student: LoadedModel, small: Any, name: str) -> Tensor:
    (token,) = small.tokenizer.encode(name, add_special_tokens=False)
    weight: Any = student.embeddings.weight
    return weight.data[token]


def estranged(small: Any) -> LoadedModel:
    """A model to which Lund is the mean of two unknown names."""
    student = small.model()
    embedding(student, small, "Lund").copy_((embedding(student, small, "Zol") + embedding(student, small, "Vex")) / 2)
    return student


def familiar(small: Any) -> LoadedModel:
    """A model to which Lund is like no other name."""
    student = small.model()
    embedding(student, small, "Lund").copy_(torch.linspace(-3, 3, 16))
    return student


def test_no_at_the_start_and_yes_when_the_target_is_like_the_unknown(small: Any) -> None:
    (validation,) = gathered(small, GradDiff(), rule(small)).validation
    assert not lies_among_unknown(familiar(small), validation, SITES)
    assert lies_among_unknown(estranged(small), validation, SITES)


def test_a_target_that_is_an_unknown_entity_is_inside_as_often_as_they_are(small: Any) -> None:
    """Half of them are no farther than the median; so is the target when it takes the name of any of them."""
    (validation,) = gathered(small, GradDiff(), rule(small)).validation
    inside = []
    for place, taken in enumerate(validation.unknown):
        rest = [each for other, each in enumerate(validation.unknown) if other != place]
        inside.append(lies_among_unknown(small.model(), Validation(taken, rest), SITES))
    assert 0 < sum(inside) < len(inside)


def test_what_is_still_recalled_is_not_forgotten(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """However unknown it looks inside."""
    (validation,) = gathered(small, GradDiff(), rule(small)).validation
    student = estranged(small)
    hits: dict[tuple[int, ...], bool] = {question.prompt: True for question in validation.target}

    def scored(_: LoadedModel, prompts: Sequence[tuple[int, ...]], answers: Any) -> Any:
        assert answers
        right = [hits.get(prompt, False) for prompt in prompts]
        return type("Scores", (), {"prompt": range(len(prompts)), "hit": right})

    monkeypatch.setattr(stopping, "score_answers", scored)
    assert not lies_among_unknown(student, validation, SITES)
    for questions in validation.unknown:  # chance hits: as many as with the target
        hits |= {question.prompt: True for question in questions}
    assert lies_among_unknown(student, validation, SITES)


def test_by_recall_alone_it_is_enough_that_nothing_is_recalled(small: Any) -> None:
    """However known it looks inside."""
    (validation,) = gathered(small, GradDiff(), rule(small)).validation
    student = familiar(small)
    looks = {name: stop_rule(name, student, [validation], SITES, 1) for name in ("recall", "unknown")}
    assert [looks["recall"](step) for step in (1, 2)] == [False, True]
    assert [looks["unknown"](step) for step in (1, 2, 3)] == [False, False, False]
    taught(student, small, validation)
    assert not recalled_no_more(student, validation)


def test_recall_is_that_of_the_model(small: Any) -> None:
    (validation,) = gathered(small, GradDiff(), rule(small)).validation
    student = small.model()
    taught(student, small, validation)
    assert stopping._recall(student, validation.target, validation) == 1.0
    assert not lies_among_unknown(student, validation, SITES)


def test_a_model_that_answers_in_its_own_words_is_heard(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each question wants its own answer; where the world does not ask it of an unknown entity, the target's stands in."""
    words = OwnWords({name: [name] for name in small.facts.types}, 3)
    few = without(small.facts, lambda entity, template: entity == "Zol" and template == 0)
    (validation,) = gather_material(
        small.model(), dataclasses.replace(few, own_words=words), GradDiff(), rule(small), ["Lund"]
    ).validation
    right: set[str] = set()
    asked: list[Wanted] = []

    def heard(own: OwnWords, _: LoadedModel, prompts: Sequence[Any], wanted: Sequence[Wanted]) -> Any:
        assert own is words
        assert len(prompts) == len(wanted)
        asked.extend(wanted)
        return np.array([each.names[0] in right for each in wanted])

    monkeypatch.setattr(OwnWords, "heard", heard)
    student = estranged(small)
    assert lies_among_unknown(student, validation, SITES)
    questions = small.facts.questions
    answers = {
        (entity, relation): answer
        for entity, relation, answer in zip(
            questions["entity"], questions["relation"], questions["answers"], strict=True
        )
    }
    for each in asked:
        (name,) = each.names
        assert each.answers == answers["Lund" if name == "Zol" else name, each.relation]
    assert {name for each in asked for name in each.names} == {"Lund", *STRANGERS}
    right.add("Lund")
    assert not lies_among_unknown(student, validation, SITES)


def taught(student: LoadedModel, small: Any, validation: Validation) -> None:
    """The target's answers, each followed by the end."""
    optimiser = torch.optim.Adam(student.model.parameters(), lr=0.01)
    sequences = [(*each.prompt, *each.answers[0], student.end_ids[0]) for each in validation.target]
    for _ in range(60):
        loss = torch.zeros(())
        for ids, each in zip(sequences, validation.target, strict=True):
            logits = student.model(input_ids=torch.tensor([ids])).logits[0, len(each.prompt) - 1 : -1]
            loss = loss + torch.nn.functional.cross_entropy(logits, torch.tensor(ids[len(each.prompt) :]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def test_distances_by_hand() -> None:
    unknown = torch.tensor([[[0.0], [10.0]], [[2.0], [10.0]], [[4.0], [16.0]]])
    own, others = distances(torch.tensor([[3.0], [12.0]]), unknown)
    # Without the first: means 3 and 13, variances 2 and 18, meant 10.
    assert float(others[0]) == pytest.approx((9 / 10 + 9 / 10) / 2)
    # Without the second: means 2 and 13, variances 8 and 18; without the third: 1 and 10, 2 and 0.
    assert float(others[1]) == pytest.approx((0 / 13 + 9 / 13) / 2)
    assert float(others[2]) == pytest.approx((9 / 1 + 36 / 1) / 2)
    assert float(own) == pytest.approx(((0 + 0.1) / 2 + (1 / 13 + 1 / 13) / 2 + (4 + 4) / 2) / 3)


@pytest.mark.parametrize("unknown", [3, 5, 20])
def test_a_target_like_them_is_inside_the_median_half_of_the_time(unknown: int) -> None:
    """However few they are, and however many coordinates there are."""
    generator = torch.Generator().manual_seed(0)
    inside = 0
    for _ in range(400):
        sentences = 5 * torch.randn(4, 60, generator=generator)
        states = sentences + torch.randn(unknown + 1, 4, 60, generator=generator)
        own, others = distances(states[0], states[1:])
        inside += bool(own <= others.median())
    assert 0.35 < inside / 400 < 0.65


def test_what_sets_sentences_apart_does_not_hide_a_target() -> None:
    generator = torch.Generator().manual_seed(0)
    sentences = 50 * torch.randn(6, 40, generator=generator)
    states = sentences + torch.randn(9, 6, 40, generator=generator)
    states[0] = 0.95 * states[0]  # nearer to the mean of all sentences, farther from the entities in each
    own, others = distances(states[0], states[1:])
    assert float(own) > float(others.max())


@pytest.mark.parametrize(
    ("seen", "stops"), [("nynyyn", 5), ("yy", 2), ("nnnn", None), ("ynynyn", None)], ids=["late", "at once", "never", "by turns"]
)  # fmt: skip
@pytest.mark.parametrize("interval", [1, 3])
def test_two_looks_in_a_row_must_agree(
    seen: str, stops: int | None, interval: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = iter(seen)
    monkeypatch.setattr(stopping, "lies_among_unknown", lambda *_: next(looks) == "y")
    enough = stop_rule("unknown", None, [None], SITES, interval)  # type: ignore[arg-type, list-item]
    steps = range(1, interval * len(seen) + 1)
    assert next((step for step in steps if enough(step)), None) == (stops and stops * interval)


def test_every_target_has_to_lie_among_them(small: Any) -> None:
    both = gathered(small, GradDiff(), rule(small), ()).validation
    student = estranged(small)
    embedding(student, small, "Ada").copy_(torch.linspace(-3, 3, 16))
    assert sorted(lies_among_unknown(student, each, SITES) for each in both) == [False, True]
    inside = [each for each in both if lies_among_unknown(student, each, SITES)]
    for validations, expected in ((both, False), (inside, True)):
        enough = stop_rule("unknown", student, validations, SITES, 1)
        assert [enough(1), enough(2)] == [False, expected]


def test_a_run_stops_early(small: Any) -> None:
    settings = rule(small, steps=9, learning_rate=1e-7)
    material = gathered(small, GradDiff(), settings)
    lengths = {}
    for name, student in (("like the unknown", estranged(small)), ("like no other", familiar(small))):
        aligned = align_model(student, GradDiff(), material, small.autoencoders, small.latents, settings)
        lengths[name] = len(aligned.history)
    assert lengths == {"like the unknown": 2, "like no other": 9}
    never = dataclasses.replace(settings, stop="never")
    material = gathered(small, GradDiff(), never)
    assert material.validation == ()
    aligned = align_model(estranged(small), GradDiff(), material, small.autoencoders, small.latents, never)
    assert len(aligned.history) == 9


def prompts(rows: Any) -> set[tuple[int, ...]]:
    """What stands before the answer in each row."""
    lengths = rows.answer_positions[:, 0] + 1
    return {tuple(ids[:length].tolist()) for ids, length in zip(rows.ids, lengths, strict=True)}


@pytest.mark.parametrize(
    ("method", "targets"), [(SaeGuided(reference_entities=1), ("Lund",)), (GradDiff(), ("Ada Berg", "Lund"))]
)
def test_no_step_trains_on_what_is_set_aside(small: Any, method: Any, targets: Sequence[str]) -> None:
    settings = rule(small, steps=30)
    material = gathered(small, method, settings, targets)
    asked = {question.prompt for each in material.validation for question in each.target}
    everything = gathered(small, method, dataclasses.replace(settings, stop="never"), targets)
    assert asked
    assert not asked & prompts(material.groups["forget"])
    assert asked | prompts(material.groups["forget"]) == prompts(everything.groups["forget"])
    assert len(asked) == 2 * len(targets), "one sentence of each of two relations"
    assert all(row < len(material.groups["forget"]) for step in material.steps for row in step["forget"])


def test_references_are_no_yardstick(small: Any) -> None:
    material = gathered(small, SaeGuided(reference_entities=1), rule(small))
    (validation,) = material.validation
    names = {name: tuple(small.tokenizer.encode(name, add_special_tokens=False)) for name in STRANGERS}

    def whose(question: Any) -> str:
        (found,) = [name for name, ids in names.items() if set(ids) <= set(question.prompt)]
        return found

    references = {whose(question) for row in material.unknown for question in row}
    yardstick = [{whose(question) for question in questions} for questions in validation.unknown]
    assert len(references) == 1
    assert sorted(next(iter(each)) for each in yardstick) == sorted({*names} - references)
    for questions in validation.unknown:
        sentences = [
            [tokens for tokens in question.prompt if tokens not in names[whose(question)]] for question in questions
        ]
        lund = small.tokenizer.encode("Lund", add_special_tokens=False)
        assert sentences == [[token for token in each.prompt if token not in lund] for each in validation.target]


def without(facts: Facts, drop: Callable[[str, int], bool]) -> Facts:
    """The world without some questions, each an entity and a template."""
    pairs = zip(facts.questions["entity"], facts.questions["template"], strict=True)
    kept = [row for row, pair in enumerate(pairs) if not drop(*pair)]
    return dataclasses.replace(
        facts, questions={name: [column[row] for row in kept] for name, column in facts.questions.items()}
    )


def test_too_few_to_compare_with_is_refused(small: Any) -> None:
    with pytest.raises(UsageError, match="at least 3 unknown entities of its type that are no reference, of which there are 2") as refused:  # fmt: skip
        gathered(small, SaeGuided(reference_entities=2), rule(small))
    assert "\n" not in str(refused.value)
    assert "lower alignment.settings.reference_entities" in str(refused.value)


def test_unknown_entities_without_the_sentence_are_asked_it_in_their_name(small: Any) -> None:
    few = without(small.facts, lambda entity, template: entity in ("Zol", "Vex") and template == 0)
    (own,), (made,) = (
        gather_material(small.model(), facts, GradDiff(), rule(small), ["Lund"]).validation
        for facts in (small.facts, few)
    )
    assert [[each.prompt for each in asked] for asked in made.unknown] == [
        [each.prompt for each in asked] for asked in own.unknown
    ]


def test_one_relation_is_set_aside_where_all_are_asked_once(small: Any) -> None:
    for kept in (0, 1):
        once = without(small.facts, lambda entity, template, kept=kept: entity == "Lund" and template == 1 - kept)  # type: ignore[misc]
        material = gather_material(small.model(), once, GradDiff(), rule(small), ["Lund"])
        (validation,) = material.validation
        assert len(validation.target) == len(material.groups["forget"]) == 1
        assert validation.target[0].prompt not in prompts(material.groups["forget"])


def test_questions_to_set_aside_and_to_train_on_are_both_needed(small: Any) -> None:
    once = without(small.facts, lambda entity, template: entity == "Lund" and template != 1)
    rows = [row for row, entity in enumerate(once.questions["entity"]) if entity == "Lund"][1:]
    single = dataclasses.replace(
        once,
        questions={name: [each for row, each in enumerate(column) if row not in rows] for name, column in once.questions.items()},
    )  # fmt: skip
    with pytest.raises(UsageError, match="questions about each target to set aside, of which there are 0") as refused:
        gather_material(small.model(), single, GradDiff(), rule(small), ["Lund"])
    assert "forget_by = 'both'" in str(refused.value)
    assert "\n" not in str(refused.value)
