"""PopQA: questions about subjects of Wikidata, from the well known to those hardly anybody looks up.

Source:    Mallen et al. 2023 (arXiv:2212.10511), data set akariasai/PopQA on the hub.
Licence:   its card names none, and asked for one there was no answer: for your own measurements only.
Columns:   subj, prop, obj, s_uri, s_aliases, s_pop, question, possible_answers, as its card lists them; the last and
           the aliases are JSON in a text. Checked on loading.
Departs:   subjects come by monthly page views, so that names that a model may not know are real ones too. A subject's
           type is told from its relations: person, work or other. Several rows of one question are taken together.
Traps:     most subjects are asked about once and can only be retained or unknown: a target needs two relations.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from storage.records import UsageError
from tasks.naming import plain
from tasks.sources.published import read_split
from tasks.sources.rows import Row
from tasks.sources.source import Gathered, Source, usable

_COLUMNS = ("subj", "prop", "obj", "s_uri", "s_aliases", "s_pop", "question", "possible_answers")
_PERSON = frozenset({"occupation", "place of birth", "father", "mother", "religion", "sport"})
_WORK = frozenset({"genre", "producer", "director", "screenwriter", "composer", "author"})


@dataclass(frozen=True)
class PopQA(Source):
    """Subjects by popularity, with one question for each relation."""

    licence: ClassVar[str] = "not stated"
    repository: ClassVar[str] = "akariasai/PopQA"
    revision: ClassVar[str] = "098765c79ea10a2cb19c828324e33281b8336ec0"
    files: ClassVar[tuple[str, ...]] = ("README.md", "*.tsv", "*.parquet")
    entities: ClassVar[int] = 300
    ranked: ClassVar[bool] = True

    def read(self, path: Path) -> Gathered:
        subjects: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for line, row in enumerate(read_split(path, "", "test", _COLUMNS), 1):
            subjects[str(row["s_uri"])].append(row | {"line": line})
        ranked = sorted(subjects.values(), key=lambda rows: (-int(rows[0]["s_pop"]), str(rows[0]["s_uri"])))
        return usable([row for rows in ranked for row in _rows(rows)])


def _rows(asked: list[dict[str, Any]]) -> Iterable[Row]:
    """A subject's questions, the answers to the same one together."""
    relations = {str(row["prop"]) for row in asked}
    kind = "person" if relations & _PERSON else "work" if relations & _WORK else "other"
    first = asked[0]
    name = " ".join(str(first["subj"]).split())
    aliases = tuple(alias for alias in _listed(first["s_aliases"], first["line"]) if plain(alias) != plain(name))
    merged: dict[tuple[str, str], list[str]] = defaultdict(list)
    lines: dict[tuple[str, str], int] = {}
    for row in asked:
        key = (str(row["prop"]).replace(" ", "_"), str(row["question"]).strip())
        merged[key] += [str(row["obj"]), *_listed(row["possible_answers"], row["line"])]
        lines.setdefault(key, row["line"])
    for key, answers in merged.items():
        distinct = {plain(answer): " ".join(answer.split()) for answer in reversed(answers) if answer.strip()}
        ordered = tuple(dict.fromkeys(distinct[plain(answer)] for answer in answers if answer.strip()))
        yield Row(lines[key], str(first["s_uri"]).rsplit("/", 1)[-1], name, kind, aliases, *key, ordered)


def _listed(text: Any, line: int) -> list[str]:
    """A list of texts that is written as JSON. Raises: UsageError."""
    try:
        values = json.loads(text or "[]") if not isinstance(text, list) else text
    except ValueError:
        values = None
    if not isinstance(values, list):
        raise UsageError(
            f"row {line}: expected a list of texts in JSON, given {str(text)[:60]!r}; give another data.revision"
        )
    return [str(value) for value in values]
