"""Rows of a file in the form of `facts_file`: all of them or none; whatever is wrong is said at once, with the lines."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from storage.records import UsageError
from storage.tables import read_table
from tasks.catalogue import did_you_mean
from tasks.sources.checking import Complaint, complaints_about, refuse
from tasks.sources.rows import Row
from tasks.sources.source import Gathered

_REQUIRED = ("entity", "type", "relation", "question", "answers")
_COLUMNS = (*_REQUIRED, "aliases", "passages", "held_out")


def read_facts(path: Path) -> Gathered:
    """The rows of a file.

    Raises: UsageError with every row that cannot be used and why.
    """
    complaints: list[Complaint] = []
    raw = list(_json_lines(path, complaints) if path.suffix in (".jsonl", ".ndjson") else _parquet(path))
    if not raw and not complaints:
        raise UsageError(f"{path.name} has no row; give a question about an entity a line")
    rows, total = [], len(raw) + len(complaints)
    for line, document in raw:
        try:
            rows.append(_row(line, document))
        except _Fault as fault:
            complaints.append(Complaint(line, "the row is broken", str(fault)))
    rows = _with_all_aliases(rows)
    complaints += complaints_about(rows)
    refuse(path.name, sorted(complaints), total)
    return Gathered(tuple(rows), warnings=_unknown_columns(raw))


class _Fault(ValueError):
    """What is wrong with one row."""


class _Number(str):
    """A number as it was written."""


def _json_lines(path: Path, complaints: list[Complaint]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Each line's object; lines without are complained about."""
    for number, line in enumerate(path.read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
        if not line.strip():
            continue
        try:
            yield number, _json(line)
        except _Fault as fault:
            complaints.append(Complaint(number, "no JSON object", str(fault)))


def _json(line: bytes) -> Mapping[str, Any]:
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise _Fault(
            f"byte {error.start + 1} (0x{line[error.start]:02x}) is no UTF-8; save the file in that encoding"
        ) from None
    try:
        document = json.loads(
            text, object_pairs_hook=_once, parse_int=_Number, parse_float=_Number, parse_constant=_no_number
        )
    except json.JSONDecodeError as error:
        raise _Fault(f"no valid JSON at character {error.pos + 1}: {error.msg}; give one object a line") from None
    except RecursionError:
        raise _Fault("lists within lists too deep to be read; give one flat object a line") from None
    if not isinstance(document, dict):
        raise _Fault(f"expected an object, given {_shown(document)}; write {{...}} with the columns by name")
    return document


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise _Fault(f"'{name}' is given twice; keep one")
    return dict(pairs)


def _no_number(text: str) -> Any:
    raise _Fault(f"{text} is no number that could be an answer; give text or leave it out")


def _parquet(path: Path) -> list[tuple[int, Mapping[str, Any]]]:
    if path.suffix != ".parquet":
        raise UsageError(f"{path.name}: expected .jsonl (an object a line) or .parquet; convert the file, or rename it")
    try:
        columns = read_table(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path.name} is no Parquet file that can be read: {' '.join(str(error).split())}") from None
    missing = [name for name in _REQUIRED if name not in columns]
    if missing:
        raise UsageError(f"{path.name}: {_missing(missing[0], list(columns))}")
    values = {name: [_native(each) for each in column] for name, column in columns.items()}
    return [(line + 1, {name: each[line] for name, each in values.items()}) for line in range(len(values["entity"]))]


def _native(value: Any) -> Any:
    """A cell as JSON would hold it."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list):
        return [_native(each) for each in value]
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return _Number(int(value) if value.is_integer() else value)
    return _Number(value) if type(value) is int else value


def _row(line: int, document: Mapping[str, Any]) -> Row:
    """The row of an object. Raises: _Fault."""
    for name in _REQUIRED:
        if name not in document:
            raise _Fault(_missing(name, list(document)))
    name, kind, relation = (_text(document, column) for column in ("entity", "type", "relation"))
    question = unicodedata.normalize("NFC", _text(document, "question", lines=True))
    held_out = document.get("held_out")
    if held_out is not None and type(held_out) is not bool:
        raise _Fault(f"held_out must be true or false, given {_shown(held_out)}")
    return Row(
        line,
        name,
        name,
        kind,
        _texts(document, "aliases"),
        relation,
        question,
        _texts(document, "answers", numbers=True),
        held_out,
        _texts(document, "passages", lines=True),
    )


def _with_all_aliases(rows: Sequence[Row]) -> list[Row]:
    """Every row with the aliases that any row of its entity gives."""
    aliases: dict[str, dict[str, None]] = {}
    for row in rows:
        aliases.setdefault(row.entity, {}).update(dict.fromkeys(row.aliases))
    return [row._replace(aliases=tuple(aliases[row.entity])) for row in rows]


def _missing(name: str, found: Sequence[str]) -> str:
    others = [each for each in found if each not in _COLUMNS]
    return f"no '{name}'; {did_you_mean(name, others) if others else 'add it'}"


def _text(document: Mapping[str, Any], column: str, lines: bool = False) -> str:
    return _checked(document[column], column, lines=lines)


def _texts(document: Mapping[str, Any], column: str, numbers: bool = False, lines: bool = False) -> tuple[str, ...]:
    """A list of texts without repetition; a single one stands for a list of it."""
    value = document.get(column)
    if value is None and column not in _REQUIRED:
        return ()
    values = value if isinstance(value, list) else [value]
    if not values and column in _REQUIRED:
        raise _Fault(f"{column} is empty; give at least one")
    return tuple(dict.fromkeys(_checked(each, column, numbers=numbers, lines=lines) for each in values))


def _checked(value: Any, column: str, numbers: bool = False, lines: bool = False) -> str:
    """The text, trimmed, in NFC; a number as text where numbers may be given."""
    if not isinstance(value, str) or (isinstance(value, _Number) and not numbers):
        wanted = "text or a number" if numbers else "text"
        raise _Fault(
            f"{column} must be {wanted}, given {_shown(value)}{'; put it in quotes' if isinstance(value, _Number) else ''}"
        )
    text = unicodedata.normalize("NFC", value.strip() if lines else " ".join(value.split()))
    if not text:
        raise _Fault(f"{column} holds nothing but white space; write it out, or leave the row out")
    for letter in text:
        if unicodedata.category(letter) in ("Cc", "Cs") and not (lines and letter in "\n\t\r"):
            raise _Fault(f"{column} holds the control character U+{ord(letter):04X}; remove it")
    return text


def _shown(value: Any) -> str:
    """A value as the user wrote it, cut short."""
    text = str(value) if isinstance(value, _Number) else json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= 60 else text[:57] + "..."


def _unknown_columns(raw: Sequence[tuple[int, Mapping[str, Any]]]) -> tuple[str, ...]:
    found = dict.fromkeys(name for _, document in raw for name in document if name not in _COLUMNS)
    return tuple(f"column '{name}' is not read; {did_you_mean(name, list(_COLUMNS))}" for name in found)
