"""What every run did, kept for `why` and `gc`: one JSON file a run, `<home>/runs/<UTC time>-<name>.json`."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from storage.artifacts import disk_errors
from storage.settings import home


@dataclass
class StageNote:
    """What became of one stage of a run, and why it was computed."""

    stage: str
    key: str
    state: str
    seconds: float
    reasons: Sequence[str] = ()


@dataclass
class RunNote:
    """One run: written when it starts, with its process, and again when it ends."""

    name: str
    started: str
    settings: dict[str, Any] = field(default_factory=dict)
    outcome: str = "running"
    """`running`, `done`, `interrupted` or `failed: …`."""
    process: int = 0
    seconds: float = 0.0
    stages: list[StageNote] = field(default_factory=list)


def runs_root() -> Path:
    return home() / "runs"


def start(name: str, settings: dict[str, Any]) -> RunNote:
    """A note of a run that begins now, on disk, so that `gc` leaves its results alone."""
    started = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    note = RunNote(re.sub(r"[^\w.-]+", "-", name), started, settings, process=os.getpid())
    save(note)
    return note


def save(note: RunNote) -> None:
    """Write the note in one step; a stage that several cells of a run share is noted once."""
    first: dict[tuple[str, str], StageNote] = {}
    for entry in note.stages:
        first.setdefault((entry.stage, entry.key), entry)
    document = asdict(note) | {"stages": [asdict(entry) for entry in first.values()]}
    with disk_errors():
        runs_root().mkdir(parents=True, exist_ok=True)
        path = runs_root() / f"{note.started}-{note.name}.json"
        aside = path.with_suffix(f".{os.getpid()}.aside")
        aside.write_text(json.dumps(document, indent=1))
        os.replace(aside, path)


def notes() -> list[RunNote]:
    """Every run that was noted, newest first; a file that cannot be read is passed over."""
    found = []
    for path in sorted(runs_root().glob("*.json"), reverse=True):
        try:
            document = json.loads(path.read_text())
            stages = [StageNote(**entry) for entry in document.pop("stages")]
            found.append(RunNote(**document, stages=stages))
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            continue
    return found


def is_running(note: RunNote) -> bool:
    return note.outcome == "running" and process_lives(note.process)


def process_lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return process > 0
