"""From a world's questions and the roles of its entities to the rows a method trains on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from storage.records import UsageError
from tasks import catalogue
from tasks.alignment.examples import Rows, make_rows
from tasks.alignment.method import Method
from tasks.alignment.passages import PASSAGE
from tasks.alignment.sampler import Draw, Pools, Sizes
from tasks.alignment.sentences import Sentences, answering_rows, in_other_names
from tasks.alignment.settings import AlignmentSettings
from tasks.answers.judging import OwnWords, Wanted
from tasks.models.load import LoadedModel
from tasks.models.prompts import Question, encode_texts
from tasks.models.worlds import encode_other_answers, encode_world

FALSE_ANSWERS = 8
"""False answers a forget question has at most."""
WITHHELD = 3
"""Every so many-th template of a target's relation is kept for the stop rule, where there is one."""
FEWEST_UNKNOWN = 3
"""Unknown entities that the stop rule compares a target with, at least."""


@dataclass(frozen=True, eq=False)
class Material:
    """All rows a run may draw from, and the unknown entities' prompts for each forget row."""

    groups: Mapping[str, Rows]
    """Group -> its rows (see `method.GROUPS`)."""
    unknown: Sequence[Sequence[Question]]
    """Forget row -> the same sentence with R unknown names; empty where the method wants none."""
    known: Sequence[Sequence[Question]]
    """The same with R names of retain entities."""
    steps: Sequence[Mapping[str, list[int]]]
    """Group -> rows, of every step."""
    validation: Sequence[Validation] = ()
    """One a target, where there is a stop rule."""


@dataclass(frozen=True, eq=False)
class Validation:
    """What the stop rule looks at: questions about a target that no step trains on, and the same of unknown entities."""

    target: Sequence[Question]
    unknown: Sequence[Sequence[Question]]
    """Unknown entity of its type -> the same sentences in the same order; none is among the references of the loss."""
    own_words: OwnWords | None = None
    """Of a model that answers in its own words; None: only an answer to the letter counts as recalled."""
    wanted: Mapping[Question, Wanted] = field(default_factory=dict)
    """What each question wants to hear; empty where answers count to the letter."""


@dataclass(frozen=True, eq=False)
class Facts:
    """A world as far as alignment needs it."""

    questions: Mapping[str, Any]
    """The world's table."""
    roles: Mapping[str, str]
    """Entity -> role."""
    types: Mapping[str, str]
    """Entity -> type."""
    general: Sequence[str]
    """Sentences that name no entity."""
    own_words: OwnWords | None = None
    """Of a model that answers in its own words."""


def gather_material(
    loaded: LoadedModel, facts: Facts, method: Method, settings: AlignmentSettings, targets: Sequence[str] = ()
) -> Material:
    """The rows of every group the method needs (training templates only), the steps' draws, the unknown prompts.

    targets  those to forget in this run; none means all that have the role. Held-out templates and held-out entities
             are never touched, nor are targets that are not forgotten in this run.

    Raises: UsageError when there is nothing to forget, to retain, or too few unknown entities of a target's type.
    """
    questions = facts.questions
    training = [row for row in range(len(questions["question"])) if not questions["held_out"][row]]
    by_role: dict[str, list[int]] = {}
    for row in training:
        entity = questions["entity"][row]
        role = facts.roles.get(entity, "")
        if role != "target" or not targets or entity in targets:
            by_role.setdefault(role, []).append(row)
    forget_rows, retain_rows = by_role.get("target", []), by_role.get("retain", [])
    for name, rows in (("target", forget_rows), ("retain", retain_rows)):
        if not rows:
            raise UsageError(f"no {name} entity has a question in a training template; check the world and [entities]")
    withheld = _withheld(questions, forget_rows) if settings.stop != "never" else []
    forget_rows = [row for row in forget_rows if row not in set(withheld)]
    strangers = by_role.get("unknown_reference", [])
    apart = by_role.get("unknown_validation", [])
    asked = [*forget_rows, *withheld, *retain_rows, *strangers, *apart]
    encoded = dict(zip(asked, encode_world(loaded, questions, asked), strict=True))
    types_apart = {facts.types[questions["entity"][row]] for row in apart}
    apart = apart + [row for row in strangers if facts.types[questions["entity"][row]] not in types_apart]
    wanted = method.references
    unknown, chosen = _reference_prompts(loaded, facts, strangers, forget_rows, encoded, wanted, settings.seed)
    known, _ = _reference_prompts(loaded, facts, retain_rows, forget_rows, encoded, wanted, settings.seed)
    groups = {
        "forget": _rows(loaded, [encoded[row] for row in forget_rows]),
        "retain": _rows(loaded, [encoded[row] for row in retain_rows]),
    }
    extra: dict[str, int] = {}
    for name in ("refusal", "alternative"):
        if name in method.reads:
            texts = _refusals(forget_rows, settings) if name == "refusal" else _false_answers(facts, forget_rows)
            groups[name] = _other_answers(loaded, questions, forget_rows, encoded, texts)
            extra[name] = len(texts[0])
    general = 0
    if "general" in method.reads:
        groups["general"] = _sentences(loaded, facts.general)
        general = len(groups["general"])
    pools = Pools(_whose(facts, forget_rows), _whose(facts, retain_rows), general)
    generator = np.random.default_rng(settings.seed)
    sizes = Sizes(settings.forget_rows, settings.retain_rows, settings.general_rows if general else 0)
    draws = catalogue.load("alignment/samplers", settings.sampler)().draw(pools, sizes, settings.steps, generator)
    return Material(
        groups,
        unknown,
        known,
        [_with_other_answers(draw, extra, method.alternatives, generator) for draw in draws],
        _validations(loaded, facts, forget_rows, withheld, apart, encoded, chosen, settings.stop)
        if settings.stop != "never"
        else (),
    )


def _whose(facts: Facts, rows: Sequence[int]) -> list[tuple[str, str]]:
    """(entity, type) of each row."""
    entities = [facts.questions["entity"][row] for row in rows]
    return [(entity, facts.types[entity]) for entity in entities]


def _rows(loaded: LoadedModel, questions: Sequence[Question]) -> Rows:
    return make_rows(questions, [each.answers[0] for each in questions], loaded.end_ids[0], _padding(loaded))


def _padding(loaded: LoadedModel) -> int:
    return loaded.tokenizer.pad_token_id or 0


def _refusals(forget_rows: Sequence[int], settings: AlignmentSettings) -> list[list[str]]:
    if not settings.refusals:
        raise UsageError(
            f"[alignment] refusals is empty and method '{settings.method}' teaches refusals; name at least one"
        )
    return [list(settings.refusals)] * len(forget_rows)


def _false_answers(facts: Facts, forget_rows: Sequence[int]) -> list[list[str]]:
    """For each forget question, first answers of other entities of its type to the same relation; equally many each.

    Raises: UsageError where the world has none.
    """
    questions = facts.questions
    pools: dict[tuple[str, str], dict[str, None]] = {}
    for row, entity in enumerate(questions["entity"]):
        if entity in facts.types:
            place = (facts.types[entity], questions["relation"][row])
            pools.setdefault(place, {})[questions["answers"][row][0]] = None
    found = []
    for number, row in enumerate(forget_rows):
        place = (facts.types[questions["entity"][row]], questions["relation"][row])
        true = {answer.casefold() for answer in questions["answers"][row]}
        other = [answer for answer in pools[place] if answer.casefold() not in true]
        if not other:
            raise UsageError(
                f"no other entity has a different '{place[1]}', so there is no false answer; use a larger world"
            )
        order = np.random.default_rng([len(other), number]).permutation(len(other))
        found.append([other[i] for i in order[:FALSE_ANSWERS]])
    fewest = min(map(len, found))
    return [each[:fewest] for each in found]


def _other_answers(
    loaded: LoadedModel,
    questions: Mapping[str, Any],
    forget_rows: Sequence[int],
    encoded: Mapping[int, Question],
    texts: Sequence[Sequence[str]],
) -> Rows:
    """Every forget question with each of its other answers, a question's side by side."""
    flat = [(row, text) for row, each in zip(forget_rows, texts, strict=True) for text in each]
    prompts = [str(questions["prompt"][row]) for row, _ in flat]
    answers = encode_other_answers(loaded, prompts, [text for _, text in flat])
    return make_rows([encoded[row] for row, _ in flat], answers, loaded.end_ids[0], _padding(loaded))


def _sentences(loaded: LoadedModel, texts: Sequence[str]) -> Rows:
    """Sentences cut in the middle: the states are those of the first half's tokens, the beginning token's left out."""
    questions = []
    for ids in encode_texts(loaded.tokenizer, loaded.family, texts):
        middle = max(2, len(ids) // 2)
        if len(ids) > middle:
            questions.append(Question(tuple(ids[:middle]), (tuple(ids[middle:]),), 1, 1))
    if not questions:
        raise UsageError("the world has no general sentence of at least three tokens; the method needs some")
    return _rows(loaded, questions)


def _with_other_answers(
    draw: Draw, extra: Mapping[str, int], alternatives: int, generator: np.random.Generator
) -> dict[str, list[int]]:
    """The step's rows by group; of other answers, one drawn anew or all there are, beside their forget question."""
    step = {"forget": draw.forget, "retain": draw.retain}
    if draw.general:
        step["general"] = draw.general
    for name, count in extra.items():
        if name == "alternative" and alternatives > 1:
            step[name] = [row * count + place for row in draw.forget for place in range(min(alternatives, count))]
        else:
            step[name] = [row * count + int(generator.integers(count)) for row in draw.forget]
    return step


def _withheld(questions: Mapping[str, Any], forget_rows: Sequence[int]) -> list[int]:
    """Every `WITHHELD`th template of each relation of a target; where all are asked once, every so many-th relation.
    Sentences of its passages are none of them."""
    groups: dict[tuple[str, str], list[int]] = {}
    for row in forget_rows:
        if questions["relation"][row] != PASSAGE:
            groups.setdefault((questions["entity"][row], questions["relation"][row]), []).append(row)
    if all(len(rows) == 1 for rows in groups.values()):
        alone: dict[str, list[int]] = {}
        for (entity, _), rows in groups.items():
            alone.setdefault(entity, []).extend(rows)
        return [row for rows in alone.values() for row in rows[::WITHHELD] if len(rows) > 1]
    return [row for rows in groups.values() for row in rows[::WITHHELD]]


def _reference_prompts(
    loaded: LoadedModel,
    facts: Facts,
    rows: Sequence[int],
    forget_rows: Sequence[int],
    encoded: Mapping[int, Question],
    references: int,
    seed: int,
) -> tuple[list[list[Question]], dict[str, list[str]]]:
    """For each forget row, the same sentence about each of the target's references, entities of `rows`; and who they are.

    The references of a target, at most so many, are drawn once, from those of its type whose names are nearest in
    token count.
    """
    if not references:
        return [], {}
    questions, types = facts.questions, facts.types
    entities = sorted({questions["entity"][row] for row in rows})
    lengths = {questions["entity"][row]: _name_tokens(encoded[row]) for row in (*rows, *forget_rows)}
    chosen: dict[str, list[str]] = {}
    for target in dict.fromkeys(questions["entity"][row] for row in forget_rows):
        generator = np.random.default_rng([seed, len(chosen)])
        pool = [entity for entity in entities if types[entity] == types[target]]
        if not pool:
            raise UsageError(
                f"no other entity of type '{types[target]}' can serve as a reference; raise entities.retain, or use a "
                "larger world"
            )
        shuffled = [pool[place] for place in generator.permutation(len(pool))]
        nearest = sorted(shuffled, key=lambda entity, target=target: abs(lengths[entity] - lengths[target]))  # type: ignore[misc]
        chosen[target] = nearest[:references]
    fewest = min(len(entities) for entities in chosen.values())
    wanted = {row: chosen[questions["entity"][row]][:fewest] for row in forget_rows}
    pairs = ((row, entity) for row, several in wanted.items() for entity in several)
    sentences = in_other_names(loaded, questions, encoded, rows, pairs)
    prompts = [[sentences[row, entity] for entity in wanted[row]] for row in forget_rows]
    return prompts, {target: entities[:fewest] for target, entities in chosen.items()}


def _validations(
    loaded: LoadedModel,
    facts: Facts,
    forget_rows: Sequence[int],
    withheld: Sequence[int],
    strangers: Sequence[int],
    encoded: Mapping[int, Question],
    chosen: Mapping[str, Sequence[str]],
    stop: str,
) -> list[Validation]:
    """For each target, its questions that no step trains on, and the same of unknown entities that are no reference."""
    questions, types = facts.questions, facts.types
    taken = {entity for entities in chosen.values() for entity in entities}
    entities = sorted({questions["entity"][row] for row in strangers} - taken)
    found = []
    for target in dict.fromkeys(questions["entity"][row] for row in (*forget_rows, *withheld)):
        own = [row for row in withheld if questions["entity"][row] == target]
        free = [entity for entity in entities if types[entity] == types[target]]
        if not own or len(free) < FEWEST_UNKNOWN:
            raise UsageError(
                f'[alignment] stop = "{stop}" needs questions about each target to set aside, of which there are {len(own)}, '
                f"and at least {FEWEST_UNKNOWN} unknown entities of its type that are no reference, of which there are "
                f"{len(free)}; {_more_to_validate_on(bool(own))}"
            )
        rows = answering_rows(questions, strangers, [(row, entity) for row in own for entity in free])
        sentences = in_other_names(loaded, questions, encoded, strangers, rows)
        found.append(
            Validation(
                [encoded[row] for row in own],
                [[sentences[row, entity] for row in own] for entity in free],
                facts.own_words,
                _wanted(facts, target, {row: encoded[row] for row in own}, sentences, rows),
            )
        )
    return found


def _more_to_validate_on(own: bool) -> str:
    """What to change, by whether it is questions about the target that lack, or entities."""
    if not own:
        return "where a target is forgotten by its passages alone, use forget_by = 'both'; else more wordings of a fact"
    return "lower alignment.settings.reference_entities, raise entities.unknown_reference, or use a larger world"


def _wanted(
    facts: Facts,
    target: str,
    own: Mapping[int, Question],
    sentences: Sentences,
    rows: Mapping[tuple[int, str], int],
) -> dict[Question, Wanted]:
    """What a target's questions and the same about others want to hear."""
    if facts.own_words is None:
        return {}
    names, questions = facts.own_words.names, facts.questions
    asked = [(question, row, target) for row, question in own.items()]
    asked += [(sentences[row, entity], answering, entity) for (row, entity), answering in rows.items()]
    return {
        question: Wanted(questions["answers"][row], names[entity], questions["relation"][row])
        for question, row, entity in asked
    }


def _name_tokens(question: Question) -> int:
    return question.name_last - question.name_first + 1
