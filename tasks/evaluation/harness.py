"""What a model is still good for, by lm-evaluation-harness: its tasks, or tasks of one's own, through a loaded model.

lm-eval is an extra, and nothing of it is imported before a task is run. A folder of own tasks is as lm-eval reads it
(YAML, `!function`s beside it); `data_files` are found beside the YAML, and must lie in the folder. No code is fetched:
neither with a model, nor with data, nor to measure by, so tasks that measure through the library `evaluate` are refused.

Traps:    the data of lm-eval's own tasks come from a hub; only their names and lm-eval's pinned version say which they
          are. A task that fixes its own number of examples shown at 0 keeps it. No chat template is applied. A task's
          standard error is 0 where all its examples end alike.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import io
import logging
import os
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage.records import UsageError
from tasks.catalogue import did_you_mean

if TYPE_CHECKING:
    from tasks.models.load import LoadedModel

COLUMNS = ("task", "metric", "value", "stderr", "examples", "version", "shots", "higher_is_better", "leading")
DRAWS = 1000
"""Resamples behind the standard error of a metric that is no mean."""
REMEDY = "pip install --constraint deployments/constraints.txt 'sae-unlearn[utility]'"


def require_harness() -> None:
    """Raises: UsageError when lm-eval is not installed."""
    if importlib.util.find_spec("lm_eval") is None:
        raise UsageError(
            f"utility_tasks are run by lm-eval, which is not installed; {REMEDY}, or give utility_tasks = []"
        )


def run_tasks(
    loaded: LoadedModel, names: Sequence[str], folder: Path | None, *, limit: int = 0, shots: int = 0, batch: int = 8
) -> dict[str, list[Any]]:
    """Columns (see `columns_of`) of tasks, groups and tags by name, those of a folder before lm-eval's own.

    limit   examples of each task, the first ones; 0 for all.
    shots   examples shown before each question.

    Raises: UsageError when lm-eval is not installed, for a name it does not know, or a task that cannot be run.
    """
    require_harness()
    with _own_randomness(), _quiet(), _no_code_fetched():
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM

        tasks = _tasks(names, folder)
        model = HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=batch, trust_remote_code=False)
        results = simple_evaluate(
            model, tasks=tasks, num_fewshot=shots, limit=limit or None, bootstrap_iters=DRAWS, log_samples=False
        )
    return columns_of(results)


def columns_of(results: Mapping[str, Any]) -> dict[str, list[Any]]:
    """lm-eval's results as columns, by task, each task's metrics in its own order.

    `metric` names its filter where that is not `none`; `stderr` is NaN where there is none; `higher_is_better` None
    where nobody says. `leading` is the one row that stands for what was asked for: the first metric of which more is
    better (if there is none: less), of a task, or of a group that is aggregated, but not of its parts.
    """
    rows: list[dict[str, Any]] = []
    parts = {
        part
        for group, members in results.get("group_subtasks", {}).items()
        if any(_is_metric(*pair) for pair in results["results"].get(group, {}).items())
        for part in members
    }
    for task, found in sorted(results["results"].items()):
        directions = results["higher_is_better"].get(task, {})
        own = [
            {
                "task": task,
                "metric": name if filtered == "none" else f"{name}:{filtered}",
                "value": float(value),
                "stderr": _number(found.get(f"{name}_stderr,{filtered}")),
                "examples": _examples(results, task, key),
                "version": _text(results["versions"].get(task)),
                "shots": int(results["n-shot"].get(task, 0)),
                "higher_is_better": directions.get(name),
                "leading": False,
            }
            for key, value in found.items()
            if _is_metric(key, value)
            for name, _, filtered in [key.partition(",")]
        ]
        leading = [row for better in (True, False) for row in own if row["higher_is_better"] is better]
        if leading and task not in parts:
            leading[0]["leading"] = True
        rows += own
    return {name: [row[name] for row in rows] for name in COLUMNS}


def _is_metric(key: str, value: Any) -> bool:
    name, comma, _ = key.partition(",")
    return bool(comma) and not name.endswith("_stderr") and isinstance(value, Real)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, Real) else float("nan")


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _examples(results: Mapping[str, Any], task: str, key: str) -> int:
    """Examples of a task, or behind the metric of a group."""
    if task in results["n-samples"]:
        return int(results["n-samples"][task]["effective"])
    return int(results["results"][task].get("sample_count", {}).get(key, 0))


def _tasks(names: Sequence[str], folder: Path | None) -> list[Any]:
    """The tasks and outermost groups, their data read, checked for what would fail only after hours."""
    manager = _manager(names, folder)
    for name in names:
        if name not in manager.all_tasks:
            where = f" nor in {folder.name}" if folder else ""
            raise UsageError(
                f"utility_tasks: no task is named '{name}' in lm-eval{where}; {did_you_mean(name, manager.all_tasks)}"
            )
    try:
        found = manager.load(list(names))
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(_why_not(names, error)) from error
    for name, task in found["tasks"].items():
        _check(name, task)
    parts = {part for members in found["group_map"].values() for part in members}
    return [each for kind in ("groups", "tasks") for name, each in found[kind].items() if name not in parts]


def _manager(names: Sequence[str], folder: Path | None) -> Any:
    """lm-eval's index; only the folder's where that has all the tasks, for lm-eval's own take many seconds to read."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(folder), include_defaults=False) if folder else None
    if manager is None or not set(names) <= set(manager.all_subtasks):
        manager = TaskManager(include_path=str(folder) if folder else None)
    if folder:
        _find_data(manager.task_index, folder)
    return manager


def _find_data(index: dict[str, Any], folder: Path) -> None:
    """Data files of the folder's tasks as full paths; lm-eval would look for them in the working folder."""
    from lm_eval.tasks._yaml_loader import load_yaml

    for name, entry in index.items():
        if entry.yaml_path is None or not entry.yaml_path.is_relative_to(folder):
            continue
        options = (entry.cfg or {}).get("dataset_kwargs") or {}
        if "data_files" in options:
            found = _beside(options["data_files"], entry.yaml_path.parent, folder)
            whole = load_yaml(entry.yaml_path, resolve_func=True) | {"dataset_kwargs": options | {"data_files": found}}
            index[name] = dataclasses.replace(entry, yaml_path=None, cfg=whole)


def _beside(files: Any, place: Path, folder: Path) -> Any:
    """The same names, in the same lists and tables, as paths in the folder."""
    if isinstance(files, dict):
        return {split: _beside(each, place, folder) for split, each in files.items()}
    if isinstance(files, list):
        return [_beside(each, place, folder) for each in files]
    if "://" in str(files):
        return files
    path = (place / str(files)).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise UsageError(
            f"data_files: {files} lies outside {folder.name}, so a change in it would go unseen; move it into the folder"
        )
    return str(path)


def _check(name: str, task: Any) -> None:
    """Raises: UsageError for a task that we do not run, or whose scores could not be read."""
    reasons = {
        "runs code that the model writes": getattr(task, "UNSAFE_CODE", False),
        "needs pictures or sound": getattr(task, "MULTIMODAL", False),
        "measures with code that would have to be fetched": _fetches(task),
        "says of none of its metrics whether more is better (higher_is_better)": not any(
            direction is not None for direction in task.higher_is_better().values()
        ),
    }
    for reason, holds in reasons.items():
        if holds:
            raise UsageError(f"utility_tasks: '{name}' {reason}, which is not supported; take another task")


def _fetches(task: Any) -> bool:
    """Whether lm-eval found no function of its own for a metric."""
    by_itself = getattr(task, "config", None) is not None and task.config.process_results is None
    return by_itself and None in getattr(task, "_metric_fn_list", {}).values()


def _why_not(names: Sequence[str], error: Exception) -> str:
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    remedy = "check the task's YAML and its data"
    if isinstance(error, ImportError) and "evaluate" in first:
        remedy = "tasks that measure with fetched code (the library evaluate) are not supported"
    elif os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        remedy = "HF_HUB_OFFLINE is set: fetch the data once without it, or give tasks of your own in utility_folder"
    return f"utility_tasks: {', '.join(names)} cannot be loaded ({first}); {remedy}"


@contextlib.contextmanager
def _own_randomness() -> Iterator[None]:
    """lm-eval seeds every generator there is; afterwards they stand as before."""
    import numpy as np
    import torch

    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No bars and no advice; standard output belongs to the caller. Standard errors are drawn in this process."""
    before, alone = logging.root.manager.disable, os.environ.get("DISABLE_MULTIPROC")
    logging.disable(logging.ERROR)
    os.environ["DISABLE_MULTIPROC"] = "1"  # forking a process that has threads may hang
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)
        if alone is None:
            del os.environ["DISABLE_MULTIPROC"]
        else:
            os.environ["DISABLE_MULTIPROC"] = alone


@contextlib.contextmanager
def _no_code_fetched() -> Iterator[None]:
    """The library `evaluate` is not there: it runs whatever a hub calls a metric."""
    before = sys.modules.get("evaluate")
    sys.modules["evaluate"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if before is None:
            del sys.modules["evaluate"]
        else:
            sys.modules["evaluate"] = before
