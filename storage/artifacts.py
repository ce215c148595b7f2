"""Sealed folders, one per result: written aside, renamed into place, named by the key of what made them.

A folder is trusted only when its manifest is there and its files are what the manifest says. The
manifest is written last, inside the temporary folder, and one rename publishes both.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from storage.records import Artifact
from storage.settings import home
from storage.usage import Usage

MANIFEST = "manifest.json"
FORMAT = 1
"""Raised when the layout of an artifact changes: older ones are refused and made again."""
PARTIAL = ".partial"
RECORDED_VERSIONS = ("torch", "transformers", "sae-lens", "prefect", "mlflow", "duckdb", "pyarrow", "numpy")


class ArtifactMissing(RuntimeError):
    """A result that a record promises is not on disk, or not as it was sealed."""


class StorageError(RuntimeError):
    """The disk refused: full, read-only or not ours."""


def artifacts_root() -> Path:
    return home() / "artifacts"


def folder_of(artifact: Artifact) -> Path:
    """The artifact's folder; raises ArtifactMissing when it is gone or broken."""
    folder = artifacts_root() / artifact.stage / artifact.key
    manifest = read_manifest(folder)
    if manifest["content"] != artifact.content:
        raise _missing(folder, "was made again with other content")
    return folder


def read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except FileNotFoundError:
        raise _missing(folder, "is not there") from None
    except (OSError, ValueError) as error:
        raise _missing(folder, f"cannot be read ({error})") from None
    if manifest.get("format") != FORMAT:
        raise _missing(folder, f"has format {manifest.get('format')}, this version reads format {FORMAT}")
    return manifest


def verify(artifact: Artifact, *, deep: bool = False) -> None:
    """Check the files against the manifest; a file whose size and time stand as sealed is trusted unless `deep`.

    Raises: ArtifactMissing, naming the file and the remedy.
    """
    folder = folder_of(artifact)
    for entry in read_manifest(folder)["files"]:
        path = folder / entry["name"]
        try:
            status = path.stat()
        except OSError:
            raise _missing(folder, f"lacks {entry['name']}") from None
        if status.st_size != entry["size"]:
            raise _missing(folder, f"has {entry['name']} with {status.st_size} bytes instead of {entry['size']}")
        touched = status.st_mtime_ns != entry["mtime_ns"]
        if (deep or touched) and file_digest(path) != entry["sha256"]:
            raise _missing(folder, f"has {entry['name']} with changed content")


def _missing(folder: Path, what: str) -> ArtifactMissing:
    stage, key = folder.parent.name, folder.name
    return ArtifactMissing(
        f"the result of stage '{stage}' ({key}) {what}; "
        f"run the experiment again, or `sae-unlearn run --refresh {stage}`, to make it anew"
    )


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_digest(folder: Path) -> str:
    """Digest of the files below a folder and their names, what is hidden or compiled left out."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and not any(part.startswith(".") or part == "__pycache__" for part in parts):
            digest.update(f"{'/'.join(parts)} {file_digest(path)}\n".encode())
    return digest.hexdigest()[:32]


class Build:
    """A folder under construction; `artifact` is there once it is sealed."""

    def __init__(self, stage: str, key: str, folder: Path, usage: Usage) -> None:
        self.stage, self.key, self.folder, self.usage = stage, key, folder, usage
        self._artifact: Artifact | None = None

    @property
    def artifact(self) -> Artifact:
        if self._artifact is None:
            raise RuntimeError(f"stage '{self.stage}' used its artifact before it was sealed")
        return self._artifact

    def seal(self, explanation: dict[str, Any]) -> None:
        files = [
            {
                "name": path.relative_to(self.folder).as_posix(),
                "size": path.stat().st_size,
                "sha256": file_digest(path),
                "mtime_ns": path.stat().st_mtime_ns,
            }
            for path in sorted(self.folder.rglob("*"))
            if path.is_file()
        ]
        identity = [[entry["name"], entry["size"], entry["sha256"]] for entry in files]
        content = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]
        manifest = {
            "format": FORMAT,
            "stage": self.stage,
            "key": self.key,
            "content": content,
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            **self.usage.so_far(),
            "versions": {name: _version(name) for name in RECORDED_VERSIONS},
            "explanation": explanation,
            "files": files,
        }
        (self.folder / MANIFEST).write_text(json.dumps(manifest, indent=1))
        final = artifacts_root() / self.stage / self.key
        final.parent.mkdir(parents=True, exist_ok=True)
        if final.exists():
            old = self.folder.with_name(self.folder.name + ".old")
            os.replace(final, old)
            os.replace(self.folder, final)
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(self.folder, final)
        self._artifact = Artifact(stage=self.stage, key=self.key, content=content)


@contextmanager
def building(
    stage: str,
    key: str,
    explanation: dict[str, Any] | None = None,
    *,
    resumable: bool = False,
    usage: Usage | None = None,
) -> Iterator[Build]:
    """Build an artifact: yields a folder to fill, seals it at the end, removes it on any failure.

    resumable: the folder is kept when the work is cut off, and handed out again, with what it holds, to the next
    try at the same key. Its files must then be written by `whole_file`.
    usage: since when the work is counted; from now on where it is None.

    Raises: StorageError when the disk is full, read-only or not writable.
    """
    with disk_errors():
        suffix = "resumable" if resumable else f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        scratch = artifacts_root() / ".scratch" / f"{stage}-{key}-{suffix}"
        scratch.mkdir(parents=True, exist_ok=resumable)
        for leftover in scratch.glob(f"*{PARTIAL}"):
            leftover.unlink()
        build = Build(stage, key, scratch, usage or Usage())
        try:
            yield build
            build.seal(explanation or {})
        except BaseException:
            if not resumable:
                shutil.rmtree(scratch, ignore_errors=True)
            raise


def share_folder(source: Path, target: Path) -> None:
    """The files below a folder in another one too, without a second copy on the disk where it can give a file two names."""

    def shared(path: str, other: str) -> None:
        try:
            os.link(path, other)
        except OSError:  # a disk that cannot
            shutil.copy2(path, other)

    shutil.copytree(source, target, copy_function=shared)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to, this process's own, that becomes `path` only when it is whole."""
    partial = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL}")
    yield partial
    os.replace(partial, path)


@contextmanager
def disk_errors() -> Iterator[None]:
    """Turn the operating system's refusals into one line that says what to do."""
    try:
        yield
    except OSError as error:
        reasons = {
            errno.ENOSPC: "no space is left on the disk",
            errno.EDQUOT: "the disk quota is used up",
            errno.EROFS: "the file system is read-only",
            errno.EACCES: "permission was denied",
            errno.EPERM: "permission was denied",
            errno.ENOTDIR: "a part of its path is a file",
        }
        if error.errno not in reasons:
            raise
        raise StorageError(
            f"cannot write under {home()}: {reasons[error.errno]}; free space there (`sae-unlearn gc`) "
            "or point SAE_UNLEARN_HOME to a folder that can be written"
        ) from error


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
