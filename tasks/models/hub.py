"""Models and data sets on a hub: which commit is meant, and its files here.

What a branch is called today may be another model tomorrow, so a commit is what is stored and read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from yaml import YAMLError

from storage.records import UsageError

Kind = Literal["model", "dataset"]

COMMIT = re.compile(r"[0-9a-f]{40}")
NOUNS = {"model": "model", "dataset": "data set"}
DESCRIPTION = (
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.jinja",
    "README.md",
)
"""Patterns of what says how a model is built, what it reads and under which licence; a file of code matches none."""
WEIGHTS = ("model*.safetensors", "model*.safetensors.index.json", "intervention.*")
"""Patterns of the weights, and of an edit that goes with them."""


def commit_of(repository: str, revision: str = "", kind: Kind = "model") -> str:
    """The commit that a branch or tag stands for now; where no hub can be reached, as was last heard.

    Raises: UsageError where the hub knows no such repository or revision, or nothing was heard before.
    """
    if COMMIT.fullmatch(revision):
        return revision
    name = revision or "main"
    noted = Path(constants.HF_HUB_CACHE) / f"{kind}s--{repository.replace('/', '--')}" / "refs" / name
    try:
        found = huggingface_hub.HfApi().repo_info(repository, repo_type=kind, revision=name, timeout=10).sha
    except Exception as error:
        if not _answered(error) and noted.is_file():
            return noted.read_text().strip()
        raise explained(error, repository, revision, kind) from error
    if not found:
        raise UsageError(f"the hub names no commit of {repository!r} (revision {name}); give a commit, or a folder")
    with suppress(OSError):  # a cache that cannot be written to is as good as none
        noted.parent.mkdir(parents=True, exist_ok=True)
        noted.write_text(str(found))
    return str(found)


def fetch(repository: str, revision: str = "", *, weights: bool = True) -> Path:
    """The folder of a commit in the hub's cache, with what a model is read from; what is there is not asked for again.

    weights  False for the configuration and the tokenizer alone.
    No code that comes with a model is fetched, nor any pickle.

    Raises: UsageError for a model that can be had neither from the hub nor from its cache.
    """
    return fetch_files(repository, revision, [*DESCRIPTION, *(WEIGHTS if weights else ())])


def fetch_files(repository: str, revision: str, patterns: Sequence[str], kind: Kind = "model") -> Path:
    """The folder of a commit in the hub's cache, with the files that a pattern matches.

    Raises: UsageError where they can be had neither from the hub nor from its cache.
    """
    commit = commit_of(repository, revision, kind)
    try:
        folder = huggingface_hub.snapshot_download(
            repository, repo_type=kind, revision=commit, allow_patterns=list(patterns)
        )
    except Exception as error:
        raise explained(error, repository, revision, kind) from error
    return Path(folder)


def licence_of(folder: Path) -> tuple[str, str]:
    """The licence that a model's card states and, where no hub lists it, its name; empty where there is no such card."""
    try:
        data = huggingface_hub.ModelCard.load(folder / "README.md").data
    except (OSError, ValueError, YAMLError):
        return "", ""
    name = data.license_name if data.license == "other" else ""
    return (data.license if isinstance(data.license, str) else ""), str(name or "")


def _answered(error: BaseException) -> bool:
    """Whether the hub was reached and refused, rather than being out of reach or order."""
    if isinstance(error, HFValidationError):
        return True
    return isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403, 404)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def explained(error: BaseException, repository: str, revision: str = "", kind: Kind = "model") -> UsageError:
    """One line for what huggingface_hub raised, which may be what caused it: what to accept or mend, and where."""
    refusal = next((each for each in _causes(error) if _answered(each)), error)
    status = refusal.response.status_code if isinstance(refusal, HfHubHTTPError) else 0
    page = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{repository}"
    if isinstance(refusal, GatedRepoError) and status == 403:
        return UsageError(
            f"{repository!r} is gated and the account whose token is in use may not read it; accept its licence at "
            f"{page} with that account, or set HF_TOKEN to a token of one that did"
        )
    if isinstance(refusal, GatedRepoError):
        return UsageError(
            f"{repository!r} is gated and no token was given; accept its licence at {page} and set HF_TOKEN to a token "
            "of the account that did"
        )
    if isinstance(refusal, RevisionNotFoundError):
        return UsageError(
            f"{repository!r} has no revision {revision or 'main'!r} on the hub; give a branch, a tag or a commit that "
            f"{page}/commits lists"
        )
    if isinstance(refusal, RepositoryNotFoundError):
        return UsageError(
            f"{repository!r} is neither a folder nor a {NOUNS[kind]} that the hub shows; check the name, set HF_TOKEN "
            f"if the {NOUNS[kind]} is private, or give a folder"
        )
    if status == 401:
        return UsageError(
            f"the hub refuses the token in use for {repository!r}; set HF_TOKEN to a valid one, or unset it"
        )
    reason = " ".join(str(refusal).split())[:200] or type(refusal).__name__
    return UsageError(
        f"{repository!r} (revision {revision or 'main'}) is neither a folder nor to be had from the hub or its cache: "
        f"{reason}; check the name and the network, or give a folder"
        + (" as transformers saves it" if kind == "model" else " with its files")
    )
