"""From a source's rows to the tables of a world: who is asked about, in which words, and what no loss may see.

What differs from the testbed's world, where we know what the model was taught:

- `exposure` is `given` (in the source) or `invented`. Whether a model knows somebody is found by asking.
- `candidate`: every given entity with two relations or more, a question that a loss may see and one that none may. No
  gold twin goes without it: it may be retained when another is forgotten.
- `template` numbers the wordings (the question without the name) of a relation, over all entities of a type, the
  commonest as 0: equal numbers are equal sentences.
- `taught` and `taught_gold` are "": nobody was taught by us.

An invented entity is asked the questions of a given one of its type, its donor, with the name exchanged. There is no
true answer, so the donor's stand in: as likely as any to whoever does not know. A model that gives one does so by
chance, and the entity is then dropped, as is a real unknown one whose answer is guessed.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from storage.records import UsageError
from tasks.catalogue import did_you_mean
from tasks.naming import find_name, plain, replace_name
from tasks.sources.invented import invent_names
from tasks.sources.rows import Row
from tasks.sources.settings import SourceSettings

Columns = dict[str, Any]

GIVEN, INVENTED = "given", "invented"
FEWEST_ENTITIES = 4
"""One to forget, and others to retain: some in a loss, some only scored."""
FEWEST_INVENTED, MOST_INVENTED = 8, 200
"""Invented entities of a type, unless another number is asked for."""
FEWEST_SENTENCES = 8
RARE = 4
"""One in so many entities is taken from the end of a ranked source: real names that a model may not know."""
PLACE = "{question}"


@dataclass(frozen=True)
class Asked:
    """A row with its number among the wordings, and whether a loss may see it."""

    row: Row
    template: int
    held_out: bool


def build_world(
    rows: Sequence[Row], settings: SourceSettings, *, limit: int = 0, ranked: bool = False
) -> tuple[Columns, Columns, list[str]]:
    """Tables `entities` and `questions`, in the columns of the testbed's world, and warnings.

    limit   entities of a type, at most; 0 for all.
    ranked  whether the rows come best known first; then a part is taken from the end.

    Raises: UsageError for a name that is asked for and not there, too few entities, or none that could be forgotten.
    """
    if settings.frame.count(PLACE) != 1:
        raise UsageError(f'[data] frame: expected text with one {PLACE}, given "{settings.frame}"; e.g. "{PLACE}"')
    groups = _chosen(_by_entity(rows), limit, ranked, settings.include)
    if len(groups) < FEWEST_ENTITIES:
        raise UsageError(
            f"{len(groups)} entities are too few: expected {FEWEST_ENTITIES} or more, to forget one and retain others; "
            "add questions about others"
        )
    asked = _asked(groups, settings)
    candidates = {entity for entity, each in asked.items() if _can_be_forgotten(each)}
    if not candidates:
        raise UsageError(
            "no entity has questions of two relations, so none could be forgotten and tested; add relations to some"
        )
    invented, warnings = _invented(asked, candidates, settings)
    kept = candidates - {entity for entity in candidates if groups[entity][0].type not in invented}
    if not kept:
        raise UsageError(f"{warnings[0]}; add entities of that type")
    strangers = [each for made in invented.values() for each in made]
    return _entities(groups, kept, strangers), _questions(asked, strangers, settings.frame), warnings


def _by_entity(rows: Sequence[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.entity, []).append(row)
    return groups


def _chosen(groups: Mapping[str, list[Row]], limit: int, ranked: bool, include: Sequence[str]) -> dict[str, list[Row]]:
    """The entities that the world has, in the source's order."""
    by_type: dict[str, list[str]] = defaultdict(list)
    for entity, rows in groups.items():
        by_type[rows[0].type].append(entity)
    kept = set()
    for entities in by_type.values():
        rare = limit // RARE if ranked and len(entities) > limit else 0
        kept |= {*entities[: limit - rare], *entities[len(entities) - rare :]} if limit else set(entities)
    for name in include:
        wanted = [entity for entity, rows in groups.items() if name in (entity, rows[0].name, *rows[0].aliases)]
        if not wanted:
            known = sorted({rows[0].name for rows in groups.values()})
            raise UsageError(f"[data] include: the source has no '{name}'; {did_you_mean(name, known)}")
        kept |= set(wanted)
    return {entity: rows for entity, rows in groups.items() if entity in kept}


def _asked(groups: Mapping[str, list[Row]], settings: SourceSettings) -> dict[str, list[Asked]]:
    """Entity -> its questions with their numbers, those that no loss may see drawn."""
    wording = {
        (entity, place): _wording(row) for entity, rows in groups.items() for place, row in enumerate(rows)
    }  # fmt: skip
    numbers = _numbers(groups, wording)
    asked = {}
    for entity, rows in groups.items():
        own = [wording[entity, place] for place in range(len(rows))]
        held_out = _held_out(rows, own, settings.held_out, settings.seed)
        asked[entity] = [
            Asked(row, numbers[entity, place], kept)
            for place, (row, kept) in enumerate(zip(rows, held_out, strict=True))
        ]
    return asked


def _wording(row: Row) -> str:
    return plain(replace_name(row.question, _forms(row), "{}"))


def _forms(row: Row) -> tuple[str, ...]:
    return (row.name, *row.aliases)


def _numbers(groups: Mapping[str, Sequence[Row]], wording: Mapping[tuple[str, int], str]) -> dict[tuple[str, int], int]:
    """(entity, place of a row) -> number of its wording within type and relation, the commonest as 0.

    A wording that an entity has more than once, by several of its names, counts as several.
    """
    users: dict[tuple[str, str], Counter[tuple[str, int]]] = defaultdict(Counter)
    sentence: dict[tuple[str, int], tuple[str, int]] = {}
    for entity, rows in groups.items():
        times: Counter[tuple[str, str]] = Counter()
        for place, row in enumerate(rows):
            text = wording[entity, place]
            sentence[entity, place] = text, times[row.relation, text]
            times[row.relation, text] += 1
            users[row.type, row.relation][sentence[entity, place]] += 1
    number = {
        kind: {each: count for count, each in enumerate(sorted(found, key=lambda each: (-found[each], each)))}
        for kind, found in users.items()
    }
    return {
        (entity, place): number[row.type, row.relation][sentence[entity, place]]
        for entity, rows in groups.items()
        for place, row in enumerate(rows)
    }


def _held_out(rows: Sequence[Row], wordings: Sequence[str], share: float, seed: int) -> list[bool]:
    """Which rows of an entity no loss may see, where the source does not say.

    Of a relation that is asked in several wordings, so many of them that some are left on either side; relations that
    are asked once are on one side whole. The draw follows from relation and wording: equal questions about different
    entities are on the same side.
    """
    if any(row.held_out is not None for row in rows):
        return [bool(row.held_out) for row in rows]
    relations: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        relations[row.relation].append(place)
    several = [places for places in relations.values() if len(places) > 1]
    single = [places[0] for places in relations.values() if len(places) == 1]
    chosen = set()
    for places in several:
        ordered = sorted(places, key=lambda place: _draw(seed, rows[place].type, rows[place].relation, wordings[place]))
        chosen |= set(ordered[: _part(share, len(places), 1, len(places) - 1)])
    ordered = sorted(single, key=lambda place: _draw(seed, rows[place].type, rows[place].relation))
    lowest, highest = (0, len(single)) if several else (1, max(1, len(single) - 1))
    chosen |= set(ordered[: _part(share, len(single), lowest, highest)])
    return [place in chosen for place in range(len(rows))]


def _part(share: float, count: int, lowest: int, highest: int) -> int:
    return min(max(round(share * count), lowest), highest)


def _draw(seed: int, *purpose: str) -> str:
    return hashlib.sha256(json.dumps([seed, *purpose]).encode()).hexdigest()


def _can_be_forgotten(asked: Sequence[Asked]) -> bool:
    relations = {each.row.relation for each in asked}
    return len(relations) > 1 and {each.held_out for each in asked} == {True, False}


@dataclass(frozen=True)
class Stranger:
    """An invented entity and the given one whose questions it is asked."""

    entity: str
    name: str
    type: str
    donor: tuple[Asked, ...]


def _invented(
    asked: Mapping[str, Sequence[Asked]], candidates: Iterable[str], settings: SourceSettings
) -> tuple[dict[str, list[Stranger]], list[str]]:
    """Type of a candidate -> invented entities of it, and warnings about types of which too few can be made."""
    names: dict[str, list[str]] = defaultdict(list)
    donors: dict[str, list[str]] = defaultdict(list)
    taken = set()
    for each in asked.values():
        names[each[0].row.type].append(each[0].row.name)
        taken |= {form for one in each for form in (*_forms(one.row), *one.row.answers)}
    for entity in sorted(candidates):
        donors[asked[entity][0].row.type].append(entity)
    made, warnings = {}, []
    for kind, able in sorted(donors.items()):
        wanted = settings.invented or min(max(len(names[kind]), FEWEST_INVENTED), MOST_INVENTED)
        found = invent_names(sorted(names[kind]), wanted, taken, settings.seed)
        if len(found) < FEWEST_INVENTED:
            warnings.append(
                f"of the {len(names[kind])} names of type '{kind}' only {len(found)} others can be made and "
                f"{FEWEST_INVENTED} unknown ones are needed, so none of that type can be a target"
            )
            continue
        order = np.random.default_rng([settings.seed, 7]).permutation(len(able))
        made[kind] = [
            Stranger(f"invented {kind} {number + 1:04d}", name, kind, tuple(asked[able[order[number % len(able)]]]))
            for number, name in enumerate(found)
        ]
    return made, warnings


def _entities(groups: Mapping[str, Sequence[Row]], candidates: set[str], strangers: Sequence[Stranger]) -> Columns:
    lines = [
        (entity, rows[0].name, rows[0].type, GIVEN, entity in candidates, _aliases(rows))
        for entity, rows in groups.items()
    ]
    lines += [(each.entity, each.name, each.type, INVENTED, False, []) for each in strangers]
    columns: Columns = dict(
        zip(
            ("entity", "name", "type", "exposure", "candidate", "aliases"),
            map(list, zip(*sorted(lines), strict=True)),
            strict=True,
        )
    )
    columns["candidate"] = np.array(columns["candidate"])
    return columns


def _aliases(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(alias for row in rows for alias in row.aliases))


def _questions(asked: Mapping[str, Sequence[Asked]], strangers: Sequence[Stranger], frame: str) -> Columns:
    lines = []
    for entity, questions in asked.items():
        for each in questions:
            lines.append((entity, each, each.row.question, _forms(each.row)))
    for stranger in strangers:
        for each in stranger.donor:
            text = replace_name(each.row.question, _forms(each.row), stranger.name)
            lines.append((stranger.entity, each, text, (stranger.name,)))
    lines.sort(key=lambda line: (line[0], line[1].row.relation, line[1].template))
    prompts = [_prompt(question, forms, frame) for _, _, question, forms in lines]
    return {
        "question": np.arange(len(lines), dtype=np.int64),
        "entity": [entity for entity, *_ in lines],
        "relation": [each.row.relation for _, each, *_ in lines],
        "template": np.array([each.template for _, each, *_ in lines], dtype=np.int64),
        "held_out": np.array([each.held_out for _, each, *_ in lines]),
        "prompt": [prompt for prompt, _, _ in prompts],
        "name_start": np.array([start for _, start, _ in prompts], dtype=np.int64),
        "name_end": np.array([end for _, _, end in prompts], dtype=np.int64),
        "answers": [list(each.row.answers) for _, each, *_ in lines],
        "taught": [""] * len(lines),
        "taught_gold": [""] * len(lines),
    }


def _prompt(question: str, forms: Sequence[str], frame: str) -> tuple[str, int, int]:
    """The text that the answer follows, and the characters of the name in it."""
    before, after = frame.split(PLACE) if question.endswith("?") else ("", "")
    span = find_name(question, forms)
    if span is None:
        raise ArithmeticError(f"{question!r} was checked to name {forms[0]!r} and does not")
    return (before + question + after).rstrip(), len(before) + span[0], len(before) + span[1]


def neutral_sentences(text: str, entities: Columns) -> list[str]:
    """The lines of a text that name none of these entities, sorted. Raises: UsageError for fewer than eight."""
    forms = {
        form for name, aliases in zip(entities["name"], entities["aliases"], strict=True) for form in (name, *aliases)
    }
    lines = sorted({line.strip() for line in text.splitlines() if line.strip()})
    kept = [line for line in lines if not _mentions(line, forms)]
    if len(kept) < FEWEST_SENTENCES:
        raise UsageError(
            f"[data] general: expected {FEWEST_SENTENCES} lines or more that name no entity, found {len(kept)} of "
            f"{len(lines)}; add some"
        )
    return kept


def _mentions(line: str, forms: set[str]) -> bool:
    """Whether a run of the line's words is a name, as it is written."""
    words = "".join(letter if letter.isalnum() or letter in "-'’" else " " for letter in line).split()
    longest = max((len(form.split()) for form in forms), default=0)
    runs = {" ".join(words[start : start + size]) for size in range(1, longest + 1) for start in range(len(words))}
    return bool(forms & runs)
