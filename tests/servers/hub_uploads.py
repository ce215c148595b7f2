"""What the hub on this machine answers to those who write to it: who they are, new repositories, files and commits."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import tempfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from huggingface_hub import ModelCard

if TYPE_CHECKING:
    from hub_server import Hub, Refusal

WRITE = re.compile(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/([^/]+)")
BATCH = re.compile(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch")
STORE = re.compile(r"/store/([0-9a-f]{64})")
JSON = {"Content-Type": "application/json"}


def answer(hub: Hub, method: str, path: str, body: bytes, token: str | None) -> tuple[bytes, dict[str, str]] | None:
    """Body and headers of the answer; None for a request that writes nothing. Raises: Refusal."""
    if method == "PUT" and (call := STORE.fullmatch(path)):
        if hashlib.sha256(body).hexdigest() != call[1]:
            raise _refusal(400, "the content is not what its name says")
        hub.stored[call[1]] = body
        return b"", {}
    found: Any = None
    if path == "/api/whoami-v2":
        name, *organisations = _owners(hub, token)
        found = {"type": "user", "name": name, "orgs": [{"name": each} for each in organisations]}
    elif path == "/api/validate-yaml":
        card = ModelCard(json.loads(body)["content"])
        found = {"errors": [], "warnings": [] if card.data.to_dict() else [{"message": "empty or missing yaml"}]}
    elif path == "/api/repos/create":
        found = _create(hub, json.loads(body), token)
    elif call := BATCH.fullmatch(path):
        _may_write(hub, call[1], token)
        found = {"transfer": "basic", "objects": [_place(hub, each) for each in json.loads(body)["objects"]]}
    elif call := WRITE.fullmatch(path):
        name = unquote(call[1])
        _may_write(hub, name, token)
        found = _modes(hub, name, json.loads(body)) if call[2] == "preupload" else _commit(hub, name, body)
    return None if found is None else (json.dumps(found).encode(), JSON)


def _refusal(status: int, message: str) -> Refusal:
    from hub_server import Refusal

    return Refusal(status, "", message)


def _owners(hub: Hub, token: str | None) -> tuple[str, ...]:
    if token not in hub.writers:
        raise _refusal(401, "Invalid username or password.")
    return hub.writers[str(token)]


def _may_write(hub: Hub, name: str, token: str | None) -> None:
    repository = hub.find("model", name, token)
    if name.split("/")[0] not in _owners(hub, token):
        raise _refusal(403, f"You don't have the rights to write to {repository.name}")


def _create(hub: Hub, sent: dict[str, Any], token: str | None) -> dict[str, str]:
    from hub_server import Repository

    name = f"{sent['organization'] or _owners(hub, token)[0]}/{sent['name']}"
    if name.split("/")[0] not in _owners(hub, token):
        raise _refusal(403, f"You don't have the rights to create a model under the namespace {name.split('/')[0]}")
    if ("model", name) in hub.repositories:
        error = _refusal(409, "You already created this model repo")
        error.body = {"url": f"{hub.address}/{name}"}
        raise error
    repository = hub.repositories[("model", name)] = Repository("model", name)
    repository.private = sent.get("visibility") == "private"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / ".gitattributes").write_text("*.safetensors filter=lfs\n")
        hub.publish(name, Path(folder))
    return {"url": f"{hub.address}/{name}", "name": name}


def _place(hub: Hub, asked: dict[str, Any]) -> dict[str, Any]:
    """Where a large file goes; nowhere when it is here."""
    there = (
        {} if asked["oid"] in hub.stored else {"actions": {"upload": {"href": f"{hub.address}/store/{asked['oid']}"}}}
    )
    return {"oid": asked["oid"], "size": asked["size"]} | there


def _modes(hub: Hub, name: str, sent: dict[str, Any]) -> dict[str, Any]:
    from hub_server import LARGE

    repository = hub.repositories[("model", name)]
    commit = repository.commit("main")
    there = {
        each["path"]: each.get("lfs", each)["oid"] for each in repository.entries(commit) if each["type"] == "file"
    }
    return {
        "files": [
            {
                "path": each["path"],
                "uploadMode": "lfs" if PurePosixPath(each["path"]).suffix in LARGE else "regular",
                "shouldIgnore": False,
                "oid": there.get(each["path"]),
            }
            for each in sent["files"]
        ]
    }


def _commit(hub: Hub, name: str, body: bytes) -> dict[str, str]:
    repository = hub.repositories[("model", name)]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "files"
        shutil.copytree(repository.commits[repository.commit("main")], root)
        for line in body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "header":
                repository.messages.append(value["summary"])
                continue
            path = root / value["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            if operation["key"] == "file":
                path.write_bytes(base64.b64decode(value["content"]))
            elif operation["key"] == "lfsFile":
                path.write_bytes(hub.stored[value["oid"]])
            else:
                path.unlink()
        commit = hub.publish(name, root)
    return {"commitUrl": f"{hub.address}/{name}/commit/{commit}", "commitOid": commit}
