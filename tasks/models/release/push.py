"""A model's folder and its card to a hub. The token comes from the environment alone and is told to nobody else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

import huggingface_hub
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id

from storage.records import UsageError

TOKEN = "HF_TOKEN"
CARD = "README.md"
REPLACED = ("*.safetensors", "*.safetensors.index.json", "intervention.json", "adapter/*")
"""Patterns of files that an earlier push may have left and that would be read along: removed where this one has none."""


def check_destination(name: str) -> None:
    """That a model can be pushed to OWNER/NAME by the token in use: asked before hours of work.

    Raises: UsageError for a name that is none, no token, one that the hub refuses or that is not OWNER's, and no network.
    """
    if name.count("/") != 1:
        raise UsageError(f"--push-to-hub {name}: expected OWNER/NAME; e.g. --push-to-hub you/model-without-it")
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UsageError(f"--push-to-hub {name}: no hub takes such a name: {error}; give OWNER/NAME") from None
    token = _token(name)
    with _explained(name):
        account = huggingface_hub.HfApi(token=token).whoami()
    owners = [account["name"], *(each["name"] for each in account.get("orgs", []))]
    if name.split("/")[0] not in owners:
        raise UsageError(
            f"--push-to-hub {name}: the account of the token in {TOKEN} may write to {', '.join(owners)}; give one of "
            f"these as OWNER, or set {TOKEN} to a token that may write there"
        )


def push_model(folder: Path, card: Path, name: str, *, public: bool = False, message: str) -> str:
    """Commit the folder, with `card` as its README.md, to OWNER/NAME, made where it is not there; the commit's address.

    public  whether a repository that is made may be seen by everyone, and one that everyone sees may be pushed to.
    What is there already is not sent again; where nothing changed there is no commit.

    Raises: UsageError where the hub refuses or cannot be reached, or everyone would see it unasked.
    """
    api = huggingface_hub.HfApi(token=_token(name))
    with _explained(name):
        api.create_repo(name, private=not public, exist_ok=True)
        known = api.model_info(name)
        if not known.private and not public:
            raise UsageError(
                f"--push-to-hub {name}: everyone can see that repository; add --public if that is meant, or give another name"
            )
        files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        files[CARD] = card
        stale = [
            each.rfilename
            for each in known.siblings or ()
            if each.rfilename not in files and any(fnmatch(each.rfilename, pattern) for pattern in REPLACED)
        ]
        additions = [CommitOperationAdd(path_in_repo=path, path_or_fileobj=source) for path, source in files.items()]
        deletions = [CommitOperationDelete(path_in_repo=path) for path in stale]
        commit = api.create_commit(name, [*additions, *deletions], commit_message=message)
    return str(commit.commit_url)


def _token(name: str) -> str:
    token = os.environ.get(TOKEN, "").strip()
    if not token:
        raise UsageError(
            f"--push-to-hub {name}: no token was given; make one that may write at {constants.ENDPOINT}/settings/tokens and "
            f"set {TOKEN} to it"
        )
    return token


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn what huggingface_hub raises into one line; the run stands whatever it is."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"--push-to-hub {name}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, so no hub is asked; unset it"
    if status == 401:
        return f"the hub refuses the token in {TOKEN}; make one that may write at {constants.ENDPOINT}/settings/tokens"
    if status in (403, 404):
        return (
            f"the token in {TOKEN} may not write there; give it write access at {constants.ENDPOINT}/settings/tokens, or "
            "give a name of your own as OWNER"
        )
    said = " ".join(str(error).split())[:200] or type(error).__name__
    if token := os.environ.get(TOKEN, "").strip():
        said = said.replace(token, "(token)")
    if status:
        return f"the hub refused ({status}): {said}; try again, nothing is computed anew"
    return f"the hub at {constants.ENDPOINT} was not reached: {said}; check the network and try again, nothing is computed anew"
