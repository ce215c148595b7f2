"""How `facts.parquet` was made: `python -m tasks.testbed.select_facts SOURCE [TARGET]`.

SOURCE is a table (entity_type, qid, name, relation, answers[]) of Wikidata facts. Not part of any run.
"""

from __future__ import annotations

import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from storage.tables import query, write_table
from tasks.testbed.templates import RELATIONS

LARGEST_NAME, SMALLEST_NAME, LARGEST_VALUE = 32, 3, 32
"""Characters."""
KEPT_VALUES = 5
"""Answers kept of a fact with many."""
ENTITIES_OF_A_TYPE = 4000
LARGEST_COUNTRY = 320
"""Cities of one country, lest a country become a good guess."""
SMALLEST_CITY = 2500
"""Inhabitants: answers in thousands say little below."""
OCCURRENCES = {"country": 3, "place_of_birth": 3, "team": 10, "director": 3, "genre": 10, "cast_member": 3}
"""An answer must occur this often in the source: what is asked must be answerable for more than one entity."""
RAREST_FIRST = ("team", "genre")
"""Here the rarest answer is taught (the common ones would be good guesses), elsewhere the most common."""

Facts = dict[str, list[str]]
Entities = dict[tuple[str, str, str], Facts]
"""(type, Wikidata id, name) -> relation -> answers, the one to be taught first."""


def select(rows: Iterable[tuple[str, str, str, str, list[str]]]) -> Entities:
    """Entities with a unique Latin name that is no answer, and with an answer to every relation of their type.

    Of each type the oldest Wikidata items are kept: they tend to be the better known.
    """
    entities: Entities = defaultdict(dict)
    for kind, identity, name, relation, answers in rows:
        entities[(kind, identity, _normal(name))][relation] = [_normal(answer) for answer in answers]
    names = Counter(name.casefold() for _, _, name in entities)
    values = {
        answer.casefold()
        for facts in entities.values()
        for relation in OCCURRENCES
        for answer in facts.get(relation, [])
    }
    selected: Entities = {}
    for kind in RELATIONS:
        usable = {
            entity: facts
            for entity, facts in entities.items()
            if entity[0] == kind
            and _is_plain(entity[2], SMALLEST_NAME, LARGEST_NAME)
            and names[entity[2].casefold()] == 1
            and entity[2].casefold() not in values
            and all(relation in facts for relation in RELATIONS[kind])
        }
        selected |= _of_type(kind, usable)
    return selected


def _of_type(kind: str, usable: Entities) -> Entities:
    counts = {
        relation: Counter(answer for facts in usable.values() for answer in set(facts[relation]))
        for relation in RELATIONS[kind]
    }
    kept: Entities = {}
    per_country: Counter[str] = Counter()
    for entity in sorted(usable, key=lambda entity: int(entity[1][1:])):
        facts = {
            relation: _answers(relation, usable[entity][relation], counts[relation]) for relation in RELATIONS[kind]
        }
        if not all(facts.values()) or len(kept) == ENTITIES_OF_A_TYPE:
            continue
        for country in facts.get("country", []):
            per_country[country] += 1
        if any(per_country[country] > LARGEST_COUNTRY for country in facts.get("country", [])):
            continue
        kept[entity] = facts
    return kept


def _answers(relation: str, answers: list[str], counts: Counter[str]) -> list[str]:
    if relation == "population":
        return [str(round(int(answers[0]) / 1000))] if int(answers[0]) >= SMALLEST_CITY else []
    if relation not in OCCURRENCES:
        return answers[:1]
    usable = {
        answer for answer in answers if counts[answer] >= OCCURRENCES[relation] and _is_plain(answer, 1, LARGEST_VALUE)
    }
    sign = 1 if relation in RAREST_FIRST else -1
    return sorted(usable, key=lambda answer: (sign * counts[answer], answer))[:KEPT_VALUES]


def _normal(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _is_plain(text: str, smallest: int, largest: int) -> bool:
    """Latin letters only, no outer space."""
    return smallest <= len(text) <= largest and text == text.strip() and all(ord(letter) < 0x250 for letter in text)


def main(source: Path, target: Path) -> None:
    read = query("SELECT entity_type, qid, name, relation, answers FROM facts", {"facts": source})
    selected = select(zip(*(read[name] for name in ("entity_type", "qid", "name", "relation", "answers")), strict=True))
    columns: dict[str, list[str] | list[list[str]]] = {
        "entity": [entity for _, entity, _ in selected],
        "name": [name for _, _, name in selected],
        "type": [kind for kind, _, _ in selected],
    }
    for relations in RELATIONS.values():
        for relation in relations:
            columns[relation] = [facts.get(relation, []) for facts in selected.values()]
    write_table(target, columns)
    print(f"{len(selected)} entities, {target.stat().st_size / 1000:.0f} kB: {target}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).with_name("facts.parquet"))
