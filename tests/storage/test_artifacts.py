"""A folder is trusted only as it was sealed, and a refused disk is one line."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from storage import artifacts
from storage.records import Artifact

pytestmark = pytest.mark.usefixtures("own_home")


def _sealed(text: str = "content") -> Artifact:
    with artifacts.building("stage", "key", {"inputs": {}}) as build:
        (build.folder / "sub").mkdir()
        (build.folder / "sub" / "file.txt").write_text(text)
    return build.artifact


def test_sealed_folder_is_found_and_verified() -> None:
    artifact = _sealed()
    folder = artifacts.folder_of(artifact)
    assert (folder / "sub" / "file.txt").read_text() == "content"
    artifacts.verify(artifact, deep=True)
    assert not list((artifacts.artifacts_root() / ".scratch").iterdir())


def test_same_files_have_the_same_content_and_others_do_not() -> None:
    assert _sealed("one") == _sealed("one")
    assert _sealed("two").content != _sealed("one").content


def test_failure_leaves_nothing_behind() -> None:
    with pytest.raises(RuntimeError, match="midway"), artifacts.building("stage", "key") as build:
        (build.folder / "half.txt").write_text("half")
        raise RuntimeError("midway")
    assert not (artifacts.artifacts_root() / "stage" / "key").exists()
    assert not list((artifacts.artifacts_root() / ".scratch").iterdir())


def test_artifact_is_not_there_before_it_is_sealed() -> None:
    with artifacts.building("stage", "key") as build, pytest.raises(RuntimeError, match="before it was sealed"):
        _ = build.artifact


def test_resumable_work_is_handed_out_again() -> None:
    with pytest.raises(KeyboardInterrupt), artifacts.building("stage", "key", resumable=True) as build:
        (build.folder / "first.txt").write_text("whole")
        raise KeyboardInterrupt
    with artifacts.building("stage", "key", resumable=True) as build:
        assert (build.folder / "first.txt").read_text() == "whole"
        (build.folder / "second.txt").write_text("whole too")
    names = [entry["name"] for entry in artifacts.read_manifest(artifacts.folder_of(build.artifact))["files"]]
    assert names == ["first.txt", "second.txt"]


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda folder: (folder / "sub" / "file.txt").unlink(), "lacks sub/file.txt"),
        (lambda folder: (folder / "sub" / "file.txt").write_text("cont"), "with 4 bytes instead of 7"),
        (lambda folder: (folder / "sub" / "file.txt").write_text("CONTENT"), "changed content"),
        (lambda folder: (folder / artifacts.MANIFEST).unlink(), "is not there"),
        (lambda folder: (folder / artifacts.MANIFEST).write_text("{"), "cannot be read"),
        (lambda folder: _rewrite(folder, format=0), "has format 0"),
        (lambda folder: _rewrite(folder, content="other"), "made again with other content"),
    ],
    ids=["lost", "truncated", "corrupted", "unsealed", "garbled", "other format", "other content"],
)
def test_broken_folder_is_refused_with_the_remedy(harm, says) -> None:
    artifact = _sealed()
    harm(artifacts.folder_of(artifact))
    with pytest.raises(artifacts.ArtifactMissing, match=says) as caught:
        artifacts.verify(artifact)
    assert "sae-unlearn run --refresh stage" in str(caught.value)
    assert "\n" not in str(caught.value)


def _rewrite(folder: Path, **changes: object) -> None:
    manifest = json.loads((folder / artifacts.MANIFEST).read_text())
    (folder / artifacts.MANIFEST).write_text(json.dumps(manifest | changes))


def test_rot_that_leaves_size_and_time_needs_the_deep_check() -> None:
    artifact = _sealed()
    path = artifacts.folder_of(artifact) / "sub" / "file.txt"
    status = path.stat()
    path.write_text("CONTENT")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    artifacts.verify(artifact)
    with pytest.raises(artifacts.ArtifactMissing, match="changed content"):
        artifacts.verify(artifact, deep=True)


def test_touched_file_with_the_same_content_stands() -> None:
    artifact = _sealed()
    os.utime(artifacts.folder_of(artifact) / "sub" / "file.txt")
    artifacts.verify(artifact)


def test_made_again_replaces_what_was_there() -> None:
    first, second = _sealed("old"), _sealed("new")
    assert (artifacts.folder_of(second) / "sub" / "file.txt").read_text() == "new"
    with pytest.raises(artifacts.ArtifactMissing, match="other content"):
        artifacts.folder_of(first)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_disk_that_refuses_is_one_line_that_says_what_to_do(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with pytest.raises(artifacts.StorageError) as caught, artifacts.building("stage", "key") as build:
        (build.folder / "file.txt").write_text("content")
        monkeypatch.setattr(artifacts.os, "replace", refuse)
    assert "SAE_UNLEARN_HOME" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (artifacts.artifacts_root() / "stage" / "key").exists()


def test_home_below_a_file_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SAE_UNLEARN_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(artifacts.StorageError, match="SAE_UNLEARN_HOME"):
        _sealed()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_home_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o500)
    monkeypatch.setenv("SAE_UNLEARN_HOME", str(tmp_path / "home"))
    with pytest.raises(artifacts.StorageError, match="permission was denied"):
        _sealed()
