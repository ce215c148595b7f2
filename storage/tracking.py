"""Runs in MLflow: found by their key, filled, and their model registered. The only home of that library.

It is written to and never read from by the science. The library takes seconds to import, so every function that
needs it imports it for itself.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from storage.artifacts import StorageError, disk_errors
from storage.records import UsageError
from storage.settings import home, tracking_uri
from storage.tracking_names import latest_of, safe_name
from storage.tracking_store import artifacts_of, database_of, public_address, store_identity

KEY, CONTENT = "key", "content"
"""Tags by which a run is found again: key and content of the alignment that made its model."""
MODEL_FOLDER = "model"
CHAMPION = "champion"
"""Alias of a registered model's newest version that is judged forgotten."""
FORGOTTEN = "forgotten"
PATIENCE = 10.0
"""Seconds a server may take to say that it is there."""
BATCH = 900
"""Metrics sent at once; MLflow takes at most 1000."""
PARAMETERS = 90
"""Parameters sent at once; MLflow takes at most 100."""


class TrackingError(StorageError):
    """MLflow cannot be reached or refused; the results of the run are kept and can be tracked later."""


@dataclass(frozen=True)
class Metric:
    """One value at a step."""

    name: str
    value: float
    step: int = 0


@dataclass(frozen=True)
class Dataset:
    """A data set a run has read: named and identified, not copied."""

    name: str
    digest: str
    path: Path
    context: str


@dataclass(frozen=True)
class RunContent:
    """All that is written of one run."""

    experiment: str
    name: str
    summary: str
    """A sentence, kept with the model's version."""
    description: str
    """Markdown, shown above the run."""
    key: str
    content: str
    tags: Mapping[str, str]
    parameters: Mapping[str, str]
    scores: Sequence[Metric]
    """What an evaluation says; another evaluation of the same model replaces it."""
    curves: Sequence[Metric]
    """What training left behind: belongs to the model and never changes."""
    datasets: Sequence[Dataset]
    files: Sequence[tuple[Path, str]]
    """(file or folder, folder among the run's artifacts)."""
    model: Path
    registered_model: str
    """Whose versions forgot the same of the same model."""
    method: str
    verdict: str


@dataclass(frozen=True)
class FlatRun:
    """A run without files and without a model: a line of a table, found again by its key."""

    key: str
    name: str
    tags: Mapping[str, str]
    parameters: Mapping[str, str]
    metrics: Mapping[str, float]
    failed: bool = False


@dataclass(frozen=True)
class Written:
    """Where a run stands."""

    run_id: str
    experiment: str
    version: str
    """`models:/<name>/<version>`."""


def write_run(content: RunContent) -> Written:
    """Write a run, or complete and update the one with the same key; the model becomes a version in the registry.

    Raises: TrackingError when the store cannot be reached or refuses.
    """
    with _open() as (client, uri):
        experiment = _experiment(client, content.experiment, uri)
        run_id = _run(client, experiment, content)
        try:
            _write_values(client, run_id, content)
            _write_datasets(client, run_id, content.datasets)
            for path, folder in content.files:
                log = client.log_artifacts if path.is_dir() else client.log_artifact
                log(run_id, str(path), folder or None)
            _write_model(client, run_id, content.model)
            version = _register(client, run_id, content)
        except Exception:
            client.set_terminated(run_id, "FAILED")
            raise
        client.set_terminated(run_id, "FINISHED")
    return Written(run_id, content.experiment, f"models:/{content.registered_model}/{version}")


def write_flat_runs(experiment: str, runs: Sequence[FlatRun]) -> int:
    """Write a table as an experiment, a run a line, bringing up to date what is there; how many had to be touched.

    Raises: TrackingError when the store cannot be reached or refuses.
    """
    with _open() as (client, uri):
        address = _experiment(client, experiment, uri)
        there = {run.data.tags.get(KEY): run for run in _runs(client, address)}
        return sum(_write_flat(client, address, run, there.get(run.key)) for run in runs)


def _await_server(uri: str) -> None:
    """Ask a server once whether it is there: MLflow itself would try for minutes."""
    if not uri.startswith(("http://", "https://")):
        return
    try:
        with urllib.request.urlopen(f"{public_address(uri).rstrip('/')}/health", timeout=PATIENCE):
            pass
    except urllib.error.HTTPError:
        pass
    except (OSError, ValueError) as error:
        raise _refused(uri, str(getattr(error, "reason", error))) from error


@contextlib.contextmanager
def _open() -> Iterator[tuple[Any, str]]:
    """A client of the store, and its address; no one else on this machine writes meanwhile."""
    uri = tracking_uri()
    _await_server(uri)
    with _explained(uri), disk_errors(), _alone():
        from mlflow import MlflowClient

        _quieten()
        store_identity()
        yield MlflowClient(tracking_uri=uri, registry_uri=uri), uri


@contextlib.contextmanager
def _explained(uri: str) -> Iterator[None]:
    """Turn the library's errors into one line that says what to do."""
    try:
        yield
    except (StorageError, UsageError, OSError):
        raise
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("mlflow", "sqlalchemy", "requests", "urllib3", "sqlite3"):
            raise
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise _refused(uri, first.replace(uri, public_address(uri))) from error


def _refused(uri: str, reason: str) -> TrackingError:
    return TrackingError(
        f"MLflow at {public_address(uri)} cannot be written: {reason}; all results are kept, "
        "so start it (or unset MLFLOW_TRACKING_URI) and run the experiment again: only the tracking is made up for"
    )


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """One writer at a time on this machine: two would make two runs of one key, or migrate one database twice."""
    folder = home() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "mlflow.lock"):
        yield


def _quieten() -> None:
    """A hundred lines of migrations are no news."""
    for name in ("alembic", "mlflow.store.db.utils", "mlflow.tracking", "mlflow.store.model_registry"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _experiment(client: Any, name: str, uri: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        database = database_of(uri)
        location = None
        if not uri.startswith(("http://", "https://")):
            folder = artifacts_of(database) if database else home() / "mlflow" / "artifacts"
            location = (folder / safe_name(name)).as_uri()
        # Else the pages open in a mode for chats and traces.
        return client.create_experiment(
            name, artifact_location=location, tags={"mlflow.experimentKind": "custom_model_development"}
        )
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return found.experiment_id


def _run(client: Any, experiment: str, content: RunContent) -> str:
    """The run of this model, whatever became of it, or a new one; its tags are those of now."""
    tags = {**content.tags, "mlflow.note.content": content.description, KEY: content.key, CONTENT: content.content}
    wanted = f"tags.{KEY} = '{content.key}' and tags.{CONTENT} = '{content.content}'"
    found = client.search_runs(
        [experiment], filter_string=wanted, max_results=1, order_by=["attributes.start_time ASC"]
    )
    if not found:
        return client.create_run(experiment, run_name=content.name, tags=tags).info.run_id
    run = found[0]
    client.update_run(run.info.run_id, status="RUNNING", name=content.name)
    stale = [tag for tag in run.data.tags if tag.startswith("state/") and tag not in tags]
    for tag in stale:
        client.delete_tag(run.info.run_id, tag)
    for tag, value in tags.items():
        if run.data.tags.get(tag) != value:
            client.set_tag(run.info.run_id, tag, value)
    return run.info.run_id


def _runs(client: Any, experiment: str) -> Iterator[Any]:
    """Every run of an experiment, however many."""
    token = None
    while True:
        page = client.search_runs([experiment], max_results=1000, page_token=token)
        yield from page
        if not (token := page.token):
            return


def _write_flat(client: Any, experiment: str, run: FlatRun, there: Any) -> bool:
    """Make the run, or write of it what is not `there`; whether there was anything to write."""
    from mlflow.entities import Metric as Entry
    from mlflow.entities import Param, RunTag

    tags, status = {**run.tags, KEY: run.key}, "FAILED" if run.failed else "FINISHED"
    # A store keeps no infinity.
    values = {name: value if math.isfinite(value) else math.nan for name, value in run.metrics.items()}
    if there is None:
        # All at once: a store on a slow disk counts its transactions.
        there = client.create_run(experiment, run_name=run.name, tags=tags)
    known = there.data.params
    # A parameter of MLflow never changes; what it has become is a tag.
    tags |= {
        f"now/{name}": value
        for name, value in run.parameters.items()
        if known.get(name, value) != value or f"now/{name}" in there.data.tags
    }
    metrics = [
        Entry(name, value, int(time.time() * 1000), 0)
        for name, value in values.items()
        if not _same(value, there.data.metrics.get(name))
    ]
    parameters = [Param(name, value) for name, value in run.parameters.items() if name not in known]
    new = [RunTag(name, value) for name, value in tags.items() if there.data.tags.get(name) != value]
    if metrics or parameters or new:
        client.log_batch(there.info.run_id, metrics, parameters, new)
    if there.info.status != status:
        client.set_terminated(there.info.run_id, status)
    return bool(metrics or parameters or new or there.info.status != status)


def _same(value: float, known: float | None) -> bool:
    return known is not None and (value == known or (math.isnan(value) and math.isnan(known)))


def _write_values(client: Any, run_id: str, content: RunContent) -> None:
    """Parameters and metrics; what stands there already is not written twice."""
    from mlflow.entities import Metric as Entry
    from mlflow.entities import Param

    run = client.get_run(run_id)
    known = run.data.params
    new = [Param(name, value) for name, value in content.parameters.items() if name not in known]
    for start in range(0, len(new), PARAMETERS):
        client.log_batch(run_id, params=new[start : start + PARAMETERS])
    for name, value in content.parameters.items():
        # A parameter of MLflow never changes; what another evaluation of the same model was set to is a tag.
        if name in known and known[name] != value:
            client.set_tag(run_id, f"now/{name}", value)
    now = int(time.time() * 1000)
    standing = run.data.metrics
    scores = [
        Entry(each.name, each.value, now, each.step) for each in content.scores if standing.get(each.name) != each.value
    ]
    # The same time each time, so that the store itself passes over points it has.
    began = run.info.start_time
    curves = [Entry(each.name, each.value, began + each.step, each.step) for each in content.curves]
    entries = scores + curves
    for start in range(0, len(entries), BATCH):
        client.log_batch(run_id, metrics=entries[start : start + BATCH])


def _write_datasets(client: Any, run_id: str, datasets: Sequence[Dataset]) -> None:
    from mlflow.entities import Dataset as Entry
    from mlflow.entities import DatasetInput, InputTag

    there = {(each.dataset.name, each.dataset.digest) for each in client.get_run(run_id).inputs.dataset_inputs}
    inputs = [
        DatasetInput(
            Entry(each.name, each.digest, source_type="local", source=json.dumps({"uri": str(each.path)})),
            [InputTag("mlflow.data.context", each.context)],
        )
        for each in datasets
        if (each.name, each.digest) not in there
    ]
    if inputs:
        client.log_inputs(run_id, inputs)


def _write_model(client: Any, run_id: str, folder: Path) -> None:
    """Copy the model's files, but those that lie there in full; a card of the same length may say another thing."""
    there = {entry.path: entry.file_size for entry in client.list_artifacts(run_id, MODEL_FOLDER)}
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            client.log_artifacts(run_id, str(path), f"{MODEL_FOLDER}/{path.name}")
        elif path.suffix == ".md" or there.get(f"{MODEL_FOLDER}/{path.name}") != path.stat().st_size:
            client.log_artifact(run_id, str(path), MODEL_FOLDER)


def _register(client: Any, run_id: str, content: RunContent) -> str:
    """The version of this run's model, made where there is none and told what it was judged to be; the aliases follow."""
    from mlflow.exceptions import MlflowException

    name = content.registered_model
    with contextlib.suppress(MlflowException):
        client.create_registered_model(name)
    versions = {int(each.version): each for each in client.search_model_versions(f"name = '{name}'")}
    mine = [number for number, each in versions.items() if each.run_id == run_id]
    told = {"method": content.method, "verdict": content.verdict}
    if mine:
        version = max(mine)
        if versions[version].description != content.summary:
            client.update_model_version(name, str(version), content.summary)
        for tag, value in told.items():
            if versions[version].tags.get(tag) != value:
                client.set_model_version_tag(name, str(version), tag, value)
    else:
        source = f"{client.get_run(run_id).info.artifact_uri.rstrip('/')}/{MODEL_FOLDER}"
        tags = {KEY: content.key, CONTENT: content.content, **told}
        made = client.create_model_version(name, source, run_id, tags=tags, description=content.summary)
        version = int(made.version)
    _place_aliases(client, name, {number: each.tags for number, each in versions.items()} | {version: told})
    return str(version)


def _place_aliases(client: Any, name: str, versions: Mapping[int, Mapping[str, str]]) -> None:
    """`latest-<method>` and `champion` where the versions' tags say; other aliases are the user's, and `latest` MLflow's own."""
    wanted = {}
    for number, tags in sorted(versions.items()):
        if method := tags.get("method"):
            wanted[latest_of(method)] = number
        if tags.get("verdict") == FORGOTTEN:
            wanted[CHAMPION] = number
    standing = {alias: int(number) for alias, number in client.get_registered_model(name).aliases.items()}
    for alias, number in wanted.items():
        if standing.get(alias) != number:
            client.set_registered_model_alias(name, alias, str(number))
    if CHAMPION in standing and CHAMPION not in wanted:
        client.delete_registered_model_alias(name, CHAMPION)
