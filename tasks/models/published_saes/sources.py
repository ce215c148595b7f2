"""Where a published autoencoder is to be had, as one string that a user writes; nothing heavy is imported.

    gemma-scope-2b-pt-res-canonical:layer_12/width_16k/canonical    a release that sae-lens lists, and an id in it
    OWNER/NAME:FOLDER                                               a hub repository in sae-lens' own format
    hub:google/gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82/params.npz    one file of Gemma Scope
    npz:PATH/params.npz                                             the same, on disk
    folder:PATH                                                     a folder with cfg.json and sae_weights.safetensors

The first three take `@REVISION` (a branch, tag or commit); all take `#HOOK` behind it, such as
`#blocks.12.hook_resid_post`, which stands above what the autoencoder says of itself.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from importlib import util
from pathlib import Path, PurePosixPath
from typing import Any

from storage.records import UsageError
from tasks.catalogue import did_you_mean

PARAMETERS = "params.npz"
"""What Gemma Scope calls a file of weights."""
FORMS = "expected RELEASE:ID, OWNER/NAME:FOLDER, hub:OWNER/NAME/PATH/params.npz, npz:PATH or folder:PATH"
_HOOK = re.compile(r"#([A-Za-z_][\w.]*)$")


@dataclass(frozen=True)
class SaeSource:
    """One published autoencoder; two that are equal and pinned are the same bytes."""

    kind: str
    """`release`, `folder` or `gemma_scope`."""
    location: str
    """Release or hub repository; absolute path for what is on disk."""
    name: str = ""
    """Id in the release, or path in the repository; empty for what is on disk."""
    hook: str = ""
    """Where its input comes from, if the user had to say so."""
    revision: str = ""
    """Commit of the repository, SHA-256 of what is on disk; empty until pinned."""

    @property
    def on_disk(self) -> bool:
        """Whether it is a path rather than something on a hub."""
        return self.kind == "folder" or not self.name

    @property
    def written(self) -> str:
        """What a user writes for it."""
        hook = f"#{self.hook}" if self.hook else ""
        if self.on_disk:
            return f"{'folder' if self.kind == 'folder' else 'npz'}:{self.location}{hook}"
        start = f"{self.location}:" if self.kind == "release" else f"hub:{self.location}/"
        return f"{start}{self.name}{f'@{self.revision}' if self.revision else ''}{hook}"


@dataclass(frozen=True)
class Release:
    """What sae-lens lists of a release."""

    repository: str
    model: str
    paths: dict[str, str]
    """Id -> path in the repository."""
    active: dict[str, float]
    """Id -> active latents a token, where it is listed."""


def parse_source(text: str) -> SaeSource:
    """The source that a user wrote; what is on disk must be there, a release must be one that sae-lens lists.

    Raises: UsageError for another form, a release or id that is not listed, or a path that is not there.
    """
    given = text.strip()
    found = _HOOK.search(given)
    hook, rest = (found[1], given[: found.start()]) if found else ("", given)
    start, colon, after = rest.partition(":")
    if start in ("folder", "npz"):
        return _local("folder" if start == "folder" else "gemma_scope", after, hook, given)
    if not colon or not start or not after:
        if start in releases():
            raise UsageError(f"release {start!r} holds many autoencoders: write {start}:ID, such as {_example(start)}")
        near = f"; {did_you_mean(start, releases())}" if start and "/" not in start else ""
        raise UsageError(f"autoencoder {given!r} is not understood; {FORMS}{near}")
    name, _, revision = after.partition("@")
    if start == "hub":
        parts = PurePosixPath(name).parts
        if len(parts) < 3 or parts[-1] != PARAMETERS or ".." in parts or name.startswith("/"):
            raise UsageError(
                f"{given!r} names no {PARAMETERS} in a hub repository; "
                f"expected hub:OWNER/NAME/PATH/{PARAMETERS}, such as hub:google/gemma-scope-2b-pt-res/"
                f"layer_12/width_16k/average_l0_82/{PARAMETERS}"
            )
        return SaeSource("gemma_scope", "/".join(parts[:2]), "/".join(parts[2:]), hook, revision)
    if "/" not in start:
        listed = release(start).paths
        if name not in listed:
            raise UsageError(f"release {start!r} has no autoencoder {name!r}; {did_you_mean(name, list(listed))}")
    return SaeSource("release", start, name, hook, revision)


def releases() -> list[str]:
    """The releases that sae-lens lists, by its own directory."""
    return re.findall(r"^([^\s#:]+):", _directory(), re.MULTILINE)


@functools.cache
def release(name: str) -> Release:
    """What sae-lens lists of a release.

    Raises: UsageError for one that it does not list.
    """
    import yaml

    if name not in releases():
        raise UsageError(
            f"sae-lens lists no release {name!r}; {did_you_mean(name, releases())} "
            "(a hub repository is written OWNER/NAME:FOLDER)"
        )
    section = re.search(rf"^{re.escape(name)}:.*?(?=^[^\s#]|\Z)", _directory(), re.MULTILINE | re.DOTALL)
    assert section is not None  # `releases` reads the same text
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    content = yaml.load(section[0], Loader=loader)[name]
    return Release(
        repository=content["repo_id"],
        model=content["model"],
        paths={str(each["id"]): str(each["path"]) for each in content["saes"]},
        active={str(each["id"]): float(each["l0"]) for each in content["saes"] if each.get("l0")},
    )


def repository_of(source: SaeSource) -> str:
    """The hub repository that holds it."""
    return (
        source.location if source.kind != "release" or "/" in source.location else release(source.location).repository
    )


def path_of(source: SaeSource) -> str:
    """Its path in the repository, or on disk."""
    if source.kind == "release" and "/" not in source.location:
        return release(source.location).paths[source.name]
    return source.name or source.location


def listed_model(source: SaeSource) -> str:
    """The model that sae-lens lists its release for; empty for what it does not list."""
    return release(source.location).model if source.kind == "release" and "/" not in source.location else ""


def listed_active(source: SaeSource) -> float | None:
    """Active latents a token by its publisher: as sae-lens lists it, or by `average_l0_82` in its path."""
    if source.kind == "release" and "/" not in source.location:
        listed = release(source.location).active
        if source.name in listed:
            return listed[source.name]
    found = re.search(r"(?:^|[/_])average_l0_(\d+)", path_of(source))
    return float(found[1]) if found else None


def _local(kind: str, written: str, hook: str, given: str) -> SaeSource:
    if not written:
        raise UsageError(f"{given!r} names no path; {FORMS}")
    path = Path(written).expanduser().absolute()
    if kind == "folder" and not path.is_dir():
        raise UsageError(f"{path} is no folder; give one that holds cfg.json and sae_weights.safetensors")
    if kind == "gemma_scope" and not path.is_file():
        raise UsageError(f"{path} is no file; give Gemma Scope's {PARAMETERS}")
    return SaeSource(kind, str(path), hook=hook)


def _example(name: str) -> str:
    return f"{name}:{next(iter(release(name).paths))}"


@functools.cache
def _directory() -> str:
    """The text of sae-lens' directory of releases; importing the library to read it would take seconds."""
    found = util.find_spec("sae_lens")
    if found is None or not found.submodule_search_locations:
        raise UsageError("sae-lens is not installed; install this project with its dependencies")
    return (Path(found.submodule_search_locations[0]) / "pretrained_saes.yaml").read_text()
