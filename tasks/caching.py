"""The one cache policy: a stage runs again exactly when its inputs' content or its code changed.

    @stage("latents")
    def measure_latents(activations: ActivationRef, sae: SaeRef) -> LatentStats:
        with new_artifact() as build:
            ...  # write files into build.folder
        return LatentStats(build.artifact)

The key is the digest of the stage's name, its inputs (class names kept, artifacts by content) and the
code its function reaches in `tasks`, with every plugin that the inputs name. The same key names the
artifact's folder. A hit counts only when the files of every artifact in the record stand as sealed.
"""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import functools
import hashlib
import inspect
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import prefect
from filelock import FileLock, Timeout
from prefect.cache_policies import CachePolicy
from prefect.context import TaskRunContext
from prefect.locking.protocol import LockManager
from prefect.serializers import JSONSerializer
from prefect.transactions import IsolationLevel
from pydantic import Field

from storage import artifacts, keys, records
from storage.settings import home
from storage.usage import Usage
from tasks import catalogue

logger = logging.getLogger("sae_unlearn")

COMPARED = 200
"""Newest results of a stage that a key is compared with: reading each of thousands would take longer than many a stage."""


@dataclass
class StageRun:
    """What became of one stage: `computed`, `cached`, `failed`, `interrupted` or, in a plan, `to compute`."""

    stage: str
    key: str
    state: str
    seconds: float
    reasons: tuple[str, ...] = ()


@dataclass
class Journal:
    """What the stages of one run did; with `planning`, what they would do, nothing being computed."""

    planning: bool = False
    refresh: frozenset[str] = frozenset()
    runs: list[StageRun] = field(default_factory=list)


class Pending:
    """Stands, in a plan, for a record whose stage has yet to run; so does everything read from it."""

    def __init__(self, stage: str) -> None:
        self.stage = stage

    def __getattr__(self, name: str) -> Pending:
        if name.startswith("__"):
            raise AttributeError(name)
        return self


def _pending(value: Any) -> Iterator[str]:
    """The stages that a value, a tuple or a record of such, waits for."""
    if isinstance(value, Pending):
        yield value.stage
    elif isinstance(value, tuple):
        for item in value:
            yield from _pending(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for entry in dataclasses.fields(value):
            yield from _pending(getattr(value, entry.name))


_journal: contextvars.ContextVar[Journal | None] = contextvars.ContextVar("journal", default=None)
_running: contextvars.ContextVar[tuple[str, str, dict[str, Any], Usage]] = contextvars.ContextVar("running")


@contextmanager
def journal(*, planning: bool = False, refresh: frozenset[str] = frozenset()) -> Iterator[Journal]:
    """Collect what the stages called inside do."""
    collected = Journal(planning, refresh)
    token = _journal.set(collected)
    try:
        yield collected
    finally:
        _journal.reset(token)


def new_artifact(*, resumable: bool = False) -> AbstractContextManager[artifacts.Build]:
    """The folder of the running stage's result: fill `build.folder`; `build.artifact` is there afterwards."""
    name, key, explanation, usage = _running.get()
    return artifacts.building(name, key, explanation, resumable=resumable, usage=usage)


def count_from_here() -> None:
    """What the running stage costs counts from now on: libraries and models were loaded, which differs by what ran before."""
    _running.get()[3].restart()


class Stage:
    """A door: a function with a content key, run as a Prefect task."""

    def __init__(self, name: str, function: Callable[..., Any], tags: tuple[str, ...]) -> None:
        self.name, self.function, self.tags = name, function, tags
        self.signature = inspect.signature(function)
        functools.update_wrapper(self, function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        inputs = dict(bound.arguments)
        log = _journal.get() or Journal()
        waiting = sorted(set(_pending(tuple(inputs.values()))))
        if waiting:
            log.runs.append(StageRun(self.name, "", "to compute", 0.0, (f"follows {', '.join(waiting)}",)))
            return Pending(self.name)
        explanation = self.explanation(inputs)
        key = keys.digest(explanation)
        if log.planning:
            record = None if self.name in log.refresh else cached_record(self.name, key)
            if record is None:
                log.runs.append(StageRun(self.name, key, "to compute", 0.0, differences(self.name, explanation)))
                return Pending(self.name)
            log.runs.append(StageRun(self.name, key, "cached", 0.0))
            return record
        # Read before the work: afterwards the result stands among those that the key is compared with.
        reasons = differences(self.name, explanation) if cached_record(self.name, key) is None else ()
        started = time.monotonic()
        task = self._task()
        if self.name in log.refresh:
            task = task.with_options(refresh_cache=True)
            reasons = ("asked to refresh",)
        try:
            with artifacts.disk_errors():
                state = task(*bound.args, **bound.kwargs, return_state=True)
                record = state.result()
        except BaseException as error:  # an interruption too
            outcome = "failed" if isinstance(error, Exception) else "interrupted"
            log.runs.append(StageRun(self.name, key, outcome, time.monotonic() - started, reasons))
            raise
        outcome = "cached" if state.name == "Cached" else "computed"
        run = StageRun(self.name, key, outcome, time.monotonic() - started, reasons if outcome == "computed" else ())
        log.runs.append(run)
        logger.info("%-13s %-8s %6.1f s", self.name, outcome, run.seconds)
        return record

    def explanation(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """All that the key covers, readable."""
        roots = [f"{self.function.__module__}:{self.function.__name__}"]
        for folder, name in keys.plugins_in(tuple(inputs.values())):
            named = catalogue.names(folder) if name == "*" else [name]
            roots += [catalogue.module_of(folder, each) for each in named]
        return {
            "stage": self.name,
            "inputs": {name: keys.canonical(value) for name, value in sorted(inputs.items())},
            "code": keys.code_digests(roots),
        }

    def directly(self, key: str, explained: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The function itself, without Prefect, its artifact under this key and with this explanation in its manifest."""
        token = _running.set((self.name, key, dict(explained), Usage()))
        try:
            return self.function(*args, **kwargs)
        finally:
            _running.reset(token)

    def _task(self) -> prefect.Task[..., Any]:
        @functools.wraps(self.function)
        def run(*args: Any, **kwargs: Any) -> Any:
            bound = self.signature.bind(*args, **kwargs)
            bound.apply_defaults()
            explanation = self.explanation(dict(bound.arguments))
            logger.info("%-13s computing", self.name)
            return self.directly(keys.digest(explanation), explanation, *args, **kwargs)

        policy = ContentKey(
            door=self, isolation_level=IsolationLevel.SERIALIZABLE, lock_manager=OperatingSystemLocks(home() / "locks")
        )
        return prefect.task(
            name=self.name,
            tags=list(self.tags),
            cache_policy=policy,
            persist_result=True,
            result_storage=results_folder(),
            result_serializer=RecordSerializer(),
        )(run)


def stage(name: str, *, tags: tuple[str, ...] = ()) -> Callable[[Callable[..., Any]], Stage]:
    """Make a function the door of a stage. `gpu` among the tags asks for the one slot of the device."""
    return lambda function: Stage(name, function, tags)


@dataclass
class ContentKey(CachePolicy):
    """Prefect's cache key of a stage: its name and the digest of its explanation."""

    door: Stage | None = None

    def compute_key(
        self, task_ctx: TaskRunContext, inputs: dict[str, Any], flow_parameters: dict[str, Any], **kwargs: Any
    ) -> str:
        assert self.door is not None
        return result_name(self.door.name, keys.digest(self.door.explanation(inputs)))

    def __deepcopy__(self, memo: dict[int, Any]) -> ContentKey:
        return dataclasses.replace(self)


def results_folder() -> Path:
    """Prefect's result records: a reference each, no data."""
    return home() / "results"


def result_name(stage_name: str, key: str) -> str:
    return f"{stage_name}-{key}"


def cached_record(stage_name: str, key: str) -> Any | None:
    """The record a stage would return from the cache, or None when it would run."""
    try:
        document = json.loads((results_folder() / result_name(stage_name, key)).read_text())
        return RecordSerializer().loads(document["result"].encode())
    except (OSError, ValueError, KeyError, TypeError, artifacts.ArtifactMissing):
        return None


class RecordSerializer(JSONSerializer):
    """Records as JSON; loading checks the files of every artifact inside, so a broken one is a cache miss."""

    type: Literal["record"] = Field(default="record", frozen=True)

    def dumps(self, obj: Any) -> bytes:
        if isinstance(obj, BaseException):
            return super().dumps(obj)
        return json.dumps(records.to_document(obj)).encode()

    def loads(self, blob: bytes) -> Any:
        document = json.loads(blob)
        if not (isinstance(document, dict) and "record" in document):
            return super().loads(blob)
        record = records.from_document(document)
        for artifact in records.artifacts_in(record):
            artifacts.verify(artifact)
        return record


class OperatingSystemLocks(LockManager):
    """One file lock a key, which the kernel frees when its holder dies, however it dies."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._held: dict[str, tuple[FileLock, str]] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> OperatingSystemLocks:
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["folder"])  # type: ignore[misc]

    def _lock(self, key: str) -> FileLock:
        self.folder.mkdir(parents=True, exist_ok=True)
        name = hashlib.sha256(key.encode()).hexdigest()[:32]
        return FileLock(self.folder / f"{name}.lock", thread_local=False)

    def acquire_lock(
        self, key: str, holder: str, acquire_timeout: float | None = None, hold_timeout: float | None = None
    ) -> bool:
        if self.is_lock_holder(key, holder):
            return True
        lock = self._lock(key)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            logger.info("another run is computing %s; waiting for it", key)
            try:
                lock.acquire(timeout=-1 if acquire_timeout is None else acquire_timeout, poll_interval=0.2)
            except Timeout:
                return False
        self._held[key] = (lock, holder)
        return True

    async def aacquire_lock(
        self, key: str, holder: str, acquire_timeout: float | None = None, hold_timeout: float | None = None
    ) -> bool:
        return await asyncio.to_thread(self.acquire_lock, key, holder, acquire_timeout, hold_timeout)

    def release_lock(self, key: str, holder: str) -> None:
        if not self.is_lock_holder(key, holder):
            raise ValueError(f"{holder} does not hold the lock of {key}")
        self._held.pop(key)[0].release()

    def is_locked(self, key: str) -> bool:
        if key in self._held:
            return True
        lock = self._lock(key)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return True
        lock.release()
        return False

    def is_lock_holder(self, key: str, holder: str) -> bool:
        return key in self._held and self._held[key][1] == holder

    def wait_for_lock(self, key: str, timeout: float | None = None) -> bool:
        give_up = None if timeout is None else time.monotonic() + timeout
        while self.is_locked(key):
            if give_up is not None and time.monotonic() > give_up:
                return False
            time.sleep(0.2)
        return True

    async def await_for_lock(self, key: str, timeout: float | None = None) -> bool:
        return await asyncio.to_thread(self.wait_for_lock, key, timeout)


def differences(stage_name: str, explanation: dict[str, Any]) -> tuple[str, ...]:
    """In what the key differs from the nearest of the newest results of this stage; one line where one is the same."""
    nearest: list[str] | None = None
    wanted = _flat(explanation)
    folders = sorted((artifacts.artifacts_root() / stage_name).glob("*"), key=lambda path: -path.stat().st_mtime)
    for folder in folders[:COMPARED]:
        try:
            kept = _flat(artifacts.read_manifest(folder)["explanation"])
        except artifacts.ArtifactMissing:
            continue
        changed = [name for name in sorted(wanted.keys() | kept.keys()) if wanted.get(name) != kept.get(name)]
        lines = [_change(name, kept.get(name), wanted.get(name)) for name in changed]
        if nearest is None or len(lines) < len(nearest):
            nearest = lines
    if nearest is None:
        return ("never computed here",)
    return tuple(nearest) or ("its result is missing or broken",)


def _change(name: str, before: Any, after: Any) -> str:
    kind, _, rest = name.partition(".")
    if kind == "code":
        return f"code {rest} {'added' if before is None else 'removed' if after is None else 'edited'}"
    if name.endswith(".artifact"):
        return f"input {rest.replace('.artifact', '')} has other content"
    return f"{rest}: {before!r} -> {after!r}"


def _flat(document: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(document, dict):
        entries = ((f"{prefix}.{name}" if prefix else name, item) for name, item in document.items())
    elif isinstance(document, list):
        entries = ((f"{prefix}[{index}]", item) for index, item in enumerate(document))
    else:
        return {prefix: document}
    return {name: leaf for path, item in entries for name, leaf in _flat(item, path).items()}
