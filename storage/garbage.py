"""What may go: leavings of killed runs, results whose artifact is gone, artifacts no recent run used."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from storage import artifacts, records, runs
from storage.settings import home


@dataclass(frozen=True)
class Waste:
    """One thing on disk that nothing needs."""

    kind: str
    """`scratch`, `result` or `artifact`."""
    path: Path
    size: int
    """Bytes."""


def find(keep_runs: int) -> list[Waste]:
    """All that `remove` may take; `keep_runs` is how many of the newest runs keep their artifacts."""
    unused = _unused_artifacts(keep_runs)
    going = {waste.path for waste in unused}
    return [*_scratch(), *unused, *_results(going)]


def remove(waste: list[Waste]) -> int:
    """Delete, the records of results first, so that no record outlives its artifact. Returns bytes freed."""
    freed = 0
    with artifacts.disk_errors():
        for item in sorted(waste, key=lambda item: item.kind != "result"):
            if item.path.is_dir():
                shutil.rmtree(item.path, ignore_errors=True)
            else:
                item.path.unlink(missing_ok=True)
            freed += 0 if item.path.exists() else item.size
    return freed


def _scratch() -> list[Waste]:
    """Folders under construction whose process is no more, and half-done work that no run goes on with."""
    folders = sorted((artifacts.artifacts_root() / ".scratch").glob("*"))
    busy = any(runs.is_running(note) for note in runs.notes())
    return [
        Waste("scratch", path, _size(path)) for path in folders if not (_in_hands(path) or (busy and _resumable(path)))
    ]


def _resumable(path: Path) -> bool:
    return path.name.split("-")[-1].startswith("resumable")


def _in_hands(path: Path) -> bool:
    """Names are `<stage>-<key>-<process>-<random>`."""
    process = path.name.split("-")[-2]
    return process.isdigit() and not _resumable(path) and runs.process_lives(int(process))


def _unused_artifacts(keep_runs: int) -> list[Waste]:
    """Nothing, while a run is under way: what it uses is noted only when it ends."""
    noted = runs.notes()
    if any(runs.is_running(note) for note in noted):
        return []
    done = [index for index, note in enumerate(noted) if note.outcome == "done"][:keep_runs]
    # Runs that were broken off do not count, but what they made since the last of those that count is kept.
    kept = noted[: done[-1] + 1] if done else noted[:keep_runs]
    used = {(entry.stage, entry.key) for note in kept for entry in note.stages}
    folders = sorted(path for path in artifacts.artifacts_root().glob("[!.]*/*") if path.is_dir())
    return [Waste("artifact", path, _size(path)) for path in folders if (path.parent.name, path.name) not in used]


def _results(going: set[Path]) -> list[Waste]:
    broken = []
    for path in sorted((home() / "results").glob("*")):
        if path.is_file() and not _stands(path, going):
            broken.append(Waste("result", path, _size(path)))
    return broken


def _stands(path: Path, going: set[Path]) -> bool:
    try:
        record = records.from_document(json.loads(json.loads(path.read_text())["result"]))
        promised = records.artifacts_in(record)
        folders = [artifacts.folder_of(artifact) for artifact in promised]
    except (OSError, ValueError, KeyError, TypeError, artifacts.ArtifactMissing):
        return False
    return bool(folders) and not going.intersection(folders)


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [inner for inner in path.rglob("*") if inner.is_file()]
    return sum(file.stat().st_size for file in files)
