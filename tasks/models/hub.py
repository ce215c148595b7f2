"""Which commit of a hub model is meant: what a branch is called today may be another model tomorrow."""

from __future__ import annotations

import re
from pathlib import Path

import huggingface_hub

from storage.records import UsageError

COMMIT = re.compile(r"[0-9a-f]{40}")


def commit_of(repository: str, revision: str = "") -> str:
    """The commit that a branch or tag of a hub model stands for now; offline, the one in the local cache.

    Raises: UsageError where it can be had from neither.
    """
    if COMMIT.fullmatch(revision):
        return revision
    name = revision or "main"
    try:
        found = huggingface_hub.HfApi().model_info(repository, revision=name, timeout=10).sha
        if found:
            return str(found)
    except Exception as error:  # noqa: BLE001, its own errors and those of whichever HTTP library it has
        reason = " ".join(str(error).split())[:200]
    else:
        reason = "the hub names no commit"
    cached = Path(huggingface_hub.constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}" / "refs" / name
    if cached.is_file():
        return cached.read_text().strip()
    raise UsageError(
        f"'{repository}' (revision {name}) is neither a folder here nor can it be had from the hub or its cache: {reason}; "
        "give a folder as transformers saves it, or a hub id OWNER/NAME that can be reached"
    )
