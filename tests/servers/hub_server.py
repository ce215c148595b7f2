"""A Hugging Face hub on this machine: folders served over HTTP as models and datasets with commits.

It speaks the part of the hub's interface that huggingface_hub, transformers, datasets and sae_lens read from:
repository information, trees, paths, references, and files with ranges; what is written to it, see `hub_uploads`.
Errors carry the hub's `X-Error-Code`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import hub_uploads
import pytest

Kind = Literal["model", "dataset"]

LARGE = (".safetensors", ".bin", ".npz", ".pt", ".parquet")
"""Suffixes of files that the real hub keeps apart from the small ones, under their SHA-256."""
DATE = "2026-01-01T00:00:00.000Z"
API = re.compile(r"/api/(model|dataset)s/([^/]+/[^/]+)(?:/(revision|tree|paths-info|refs)(?:/([^/]+)(?:/(.*))?)?)?")
FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class Request(NamedTuple):
    """What a client asked and what it got."""

    method: str
    path: str
    """Decoded, without the query."""
    status: int


class Refusal(Exception):
    """An answer that is an error, in the hub's terms."""

    def __init__(self, status: int, code: str, message: str, commit: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.body: dict[str, Any] = {"error": message}
        self.headers = {"X-Error-Message": message}
        if code:
            self.headers["X-Error-Code"] = code
        if commit:
            self.headers["X-Repo-Commit"] = commit


@dataclass
class Repository:
    """The commits of one repository, and what its branches and tags are called."""

    kind: Kind
    name: str
    gated: bool = False
    """Whether its files, but not what it is called and lists, need an account that accepted its terms."""
    private: bool = False
    """Whether none but those who may write to it see that it is there."""
    messages: list[str] = field(default_factory=list)
    """Of the commits that were sent to it."""
    references: dict[str, str] = field(default_factory=dict)
    """Branch or tag -> commit."""
    commits: dict[str, Path] = field(default_factory=dict)
    """Commit -> folder with the files as they were then."""

    def commit(self, revision: str) -> str:
        """The commit of a branch, a tag or a commit. Raises: Refusal where there is none."""
        found = self.references.get(revision, revision)
        if found not in self.commits:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found

    def information(self, commit: str) -> dict[str, Any]:
        """What `/api/models/NAME` answers."""
        return {
            "_id": _sha1(self.name.encode())[:24],
            "id": self.name,
            "author": self.name.split("/")[0],
            "sha": commit,
            "private": self.private,
            "disabled": False,
            "gated": "manual" if self.gated else False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "lastModified": DATE,
            "createdAt": DATE,
            "siblings": [{"rfilename": name} for name in _names(self.commits[commit])],
        } | ({"modelId": self.name} if self.kind == "model" else {})

    def entries(self, commit: str, below: str = "", recursive: bool = True) -> list[dict[str, Any]]:
        """Files and folders below a folder. Raises: Refusal where there is no such folder."""
        root = self.commits[commit]
        if not (root / below).is_dir():
            raise Refusal(404, "EntryNotFound", "Entry not found", commit)
        found = (root / below).rglob("*") if recursive else (root / below).iterdir()
        return [self.entry(commit, path.relative_to(root).as_posix()) for path in sorted(found)]

    def entry(self, commit: str, name: str) -> dict[str, Any]:
        """One file or folder, as `tree` and `paths-info` list it."""
        path = self.commits[commit] / name
        last = {"id": commit, "title": "Upload", "date": DATE}
        if path.is_dir():
            return {"type": "directory", "oid": _sha1(name.encode()), "size": 0, "path": name, "lastCommit": last}
        content = path.read_bytes()
        made = {"type": "file", "oid": _blob(content), "size": len(content), "path": name, "lastCommit": last}
        if path.suffix in LARGE:
            made["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        return made


class Hub:
    """The server, and what a test does to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.requests: list[Request] = []
        """Every request so far, oldest first."""
        self.accounts: dict[str, set[str]] = {}
        """Token -> names of the gated repositories whose terms its owner accepted."""
        self.writers: dict[str, tuple[str, ...]] = {}
        """Token -> the name of its account, and of the organisations whose members may write."""
        self.stored: dict[str, bytes] = {}
        """Large files that were sent, by their SHA-256."""
        self.repositories: dict[tuple[str, str], Repository] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def publish(
        self, name: str, folder: Path, kind: Kind = "model", *, revision: str = "main", gated: bool = False
    ) -> str:
        """Commit a copy of the folder and point a branch or tag at it; returns the commit, a digest of the content."""
        digest = hashlib.sha1(name.encode())
        for each in _names(folder):
            digest.update(f"\0{each}\0".encode() + (folder / each).read_bytes())
        commit = digest.hexdigest()
        repository = self.repositories.setdefault((kind, name), Repository(kind, name))
        repository.gated = gated
        if commit not in repository.commits:
            copy = self.folder / kind / name / commit
            shutil.copytree(folder, copy)
            repository.commits[commit] = copy
        repository.references[revision] = commit
        return commit

    def stop(self) -> None:
        """No request is answered from here on; a second call does nothing."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()

    def environment(self, home: Path) -> dict[str, str]:
        """The variables with which another process asks this hub, and none but it; `home` is for its caches."""
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING", "TRANSFOR"))
        }
        settings = {"HF_ENDPOINT": self.address, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
        return kept | settings | {"NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_TELEMETRY": "1"}

    def find(self, kind: str, name: str, token: str | None) -> Repository:
        """A repository. Raises: Refusal for a wrong token, and where there is none."""
        if token is not None and token not in self.accounts and token not in self.writers:
            raise Refusal(401, "", "Invalid credentials in Authorization header")
        repository = self.repositories.get((kind, name))
        hidden = (
            repository is not None
            and repository.private
            and name.split("/")[0] not in self.writers.get(token or "", ())
        )
        if repository is None or hidden:  # whoever is not signed in cannot tell which of the two
            raise Refusal(401 if token is None else 404, "RepoNotFound", "Repository not found")
        return repository

    def check_access(self, repository: Repository, token: str | None) -> None:
        """That the files may be read. Raises: Refusal where the terms have to be accepted first."""
        restricted = f"Access to {repository.kind} {repository.name} is restricted"
        if repository.gated and token is None:
            message = f"{restricted}. You must have access to it and be authenticated to access it. Please log in."
            raise Refusal(401, "GatedRepo", message)
        if repository.gated and repository.name not in self.accounts.get(str(token), ()):
            raise Refusal(403, "GatedRepo", f"{restricted} and you are not in the authorized list.")


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    """What answers a request to this hub. HTTP/1.0: no connection outlives its answer, nor thus the server."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer()

        do_HEAD = do_POST = do_PUT = do_GET

        def log_message(self, *_: object) -> None:
            """Nothing is written: `Hub.requests` has it all."""

        def _answer(self) -> None:
            split = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(split.query).items()}
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            authorization = self.headers.get("Authorization") or ""
            token = authorization.removeprefix("Bearer ") or None
            try:
                if (answered := hub_uploads.answer(hub, self.command, split.path, body, token)) is not None:
                    self._send(200, *answered)
                elif call := API.fullmatch(split.path):
                    kind, name, what, *rest = (unquote(part or "") for part in call.groups())
                    found = self._information(hub.find(kind, name, token), what, rest, query, parse_qs(body.decode()))
                    self._send(200, json.dumps(found).encode(), {"Content-Type": "application/json"})
                elif call := FILE.fullmatch(split.path):
                    prefix, name, revision, path = (unquote(part or "") for part in call.groups())
                    repository = hub.find("dataset" if prefix else "model", name, token)
                    hub.check_access(repository, token)
                    self._file(repository, repository.commit(revision), path)
                else:
                    raise Refusal(404, "", "Not found")
            except Refusal as refusal:
                self._send(refusal.status, json.dumps(refusal.body).encode(), refusal.headers)

        def _information(
            self, repository: Repository, what: str, rest: list[str], query: dict[str, str], sent: dict[str, list[str]]
        ) -> Any:
            revision, below = rest
            if what == "refs":
                named = repository.references.items()
                branches = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": commit} for n, commit in named]
                return {"branches": branches, "tags": [], "converts": []}
            commit = repository.commit(revision or "main")
            if what == "tree":
                return repository.entries(commit, below, query.get("recursive", "").lower() in ("1", "true"))
            if what == "paths-info":
                asked = [path for path in sent["paths"] if (repository.commits[commit] / path).exists()]
                return [repository.entry(commit, path) for path in asked]
            return repository.information(commit)

        def _file(self, repository: Repository, commit: str, name: str) -> None:
            root = repository.commits[commit]
            if name not in _names(root):
                raise Refusal(404, "EntryNotFound", "Entry not found", commit)
            content = (root / name).read_bytes()
            size = len(content)
            large = PurePosixPath(name).suffix in LARGE
            tag = hashlib.sha256(content).hexdigest() if large else _blob(content)
            headers = {"ETag": f'"{tag}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
            headers["Content-Type"] = "application/octet-stream"
            wanted = RANGE.fullmatch(self.headers.get("Range") or "")
            if wanted is None:
                return self._send(200, content, headers)
            first, last = wanted.groups()
            start = int(first) if first else max(size - int(last), 0)
            end = min(int(last), size - 1) if first and last else size - 1
            if start > end:
                return self._send(416, b"", headers | {"Content-Range": f"bytes */{size}"})
            return self._send(206, content[start : end + 1], headers | {"Content-Range": f"bytes {start}-{end}/{size}"})

        def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            hub.requests.append(Request(self.command, unquote(urlsplit(self.path).path), status))
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    return Handler


def _names(folder: Path) -> list[str]:
    """Files below a folder, sorted, with `/` between the parts."""
    found: Iterable[Path] = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path.relative_to(folder).as_posix() for path in found)


def _sha1(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


def _blob(content: bytes) -> str:
    """Git's name for a file's content."""
    return _sha1(b"blob %d\0" % len(content) + content)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that the libraries in this process ask instead of the real one, their caches empty and their tokens gone.

    The libraries read the environment once, when they are first imported: what they read is replaced.
    """
    import datasets.config
    import huggingface_hub.hf_api
    import transformers.dynamic_module_utils
    import transformers.utils.hub
    from huggingface_hub import HfFileSystem, constants
    from huggingface_hub.utils import close_session

    home = tmp_path / "huggingface"
    served = Hub(tmp_path / "hub")
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    replaced: dict[Any, dict[str, Any]] = {
        constants: {
            "ENDPOINT": served.address,
            "HUGGINGFACE_CO_URL_TEMPLATE": served.address + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "HF_TOKEN_PATH": str(home / "token"),
            "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
        },
        huggingface_hub.hf_api.api: {"endpoint": served.address},
        transformers.utils.hub: {"_hf_api": None, "HF_MODULES_CACHE": str(home / "modules")},
        transformers.dynamic_module_utils: {"HF_MODULES_CACHE": str(home / "modules")},
        datasets.config: {
            "HF_ENDPOINT": served.address,
            "HUB_DATASETS_URL": served.address + "/datasets/{repo_id}/resolve/{revision}/{path}",
            "HF_DATASETS_CACHE": home / "datasets",
            "HF_MODULES_CACHE": home / "modules",
            "DOWNLOADED_DATASETS_PATH": home / "datasets" / "downloads",
            "HF_HUB_OFFLINE": False,
            "HF_DATASETS_OFFLINE": False,
        },
    }
    for owner, values in replaced.items():
        for name, value in values.items():
            monkeypatch.setattr(owner, name, value)
    close_session()  # an open one has read the proxies already
    HfFileSystem.clear_instance_cache()
    yield served
    served.stop()
    close_session()
    HfFileSystem.clear_instance_cache()
