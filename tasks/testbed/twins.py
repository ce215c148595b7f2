"""Base model and gold twin, trained side by side in two processes of their own."""

from __future__ import annotations

import json
import logging
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasks.testbed.examples import Columns, lessons_of, rows_of
from tasks.testbed.pretrain import main, write_job
from tasks.testbed.recipe import Recipe
from tasks.testbed.tokenizer import train_tokenizer

logger = logging.getLogger("sae_unlearn")

MODELS = ("base", "gold")
PROGRESS_EVERY = 10.0
"""Seconds between two lines of progress."""
PROJECT = Path(__file__).resolve().parents[2]


class PretrainingFailed(RuntimeError):
    """A model of the testbed could not be trained."""


@dataclass(frozen=True, eq=False)
class Twins:
    """What came of the two trainings, by model: the loss of each step, and which exam questions are answered."""

    losses: dict[str, np.ndarray]
    question: np.ndarray
    """Row number, in the world's table, of each exam question."""
    hit: dict[str, np.ndarray]


def train_twins(entities: Columns, questions: Columns, texts: Sequence[str], recipe: Recipe, folder: Path) -> Twins:
    """Train both models on a world, save them as `folder/base` and `folder/gold`, ask them what they know.

    The exam: the held-out templates of all known and never-seen entities.
    Raises: PretrainingFailed, when a training diverges or its process dies.
    """
    tokenizer = train_tokenizer(
        list(entities["name"]), [answer for answer in questions["taught"] if answer], recipe.vocabulary
    )
    recipe = Recipe(**{**vars(recipe), "vocabulary": len(tokenizer)})
    asked = _exam(entities, questions)
    pairs = [(place, answer) for place, row in enumerate(asked) for answer in questions["answers"][row]]
    exam = rows_of(
        tokenizer, [questions["prompt"][asked[place]] for place, _ in pairs], [answer for _, answer in pairs]
    )
    with tempfile.TemporaryDirectory(prefix="sae-unlearn-pretraining-") as scratch:
        job = Path(scratch)
        lessons = lessons_of(tokenizer, entities, questions, texts)
        write_job(job, lessons, exam, np.array([place for place, _ in pairs]), recipe, _threads(recipe), folder)
        _run_both(job, recipe)
        results = {name: dict(np.load(job / f"{name}.npz")) for name in MODELS}
    for name in MODELS:
        tokenizer.save_pretrained(folder / name)
    return Twins(
        {name: results[name]["losses"] for name in MODELS}, asked, {name: results[name]["hit"] for name in MODELS}
    )


def _exam(entities: Columns, questions: Columns) -> np.ndarray:
    tail = {
        entity
        for entity, exposure in zip(entities["entity"], entities["exposure"], strict=True)
        if exposure == "long_tail"
    }
    rows = [row for row, entity in enumerate(questions["entity"]) if questions["held_out"][row] and entity not in tail]
    return np.array(rows, dtype=np.int64)


def _threads(recipe: Recipe) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(recipe.threads, cores // len(MODELS)))


def _run_both(job: Path, recipe: Recipe) -> None:
    news: queue.Queue[tuple[str, dict[str, Any] | None]] = queue.Queue()
    processes = {name: _start(job, name) for name in MODELS}
    try:
        for name, process in processes.items():
            threading.Thread(target=_listen, args=(name, process, news), daemon=True).start()
        _follow(processes, news, job, recipe)
    finally:
        for process in processes.values():
            if process.poll() is None:
                process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


def _start(job: Path, name: str) -> subprocess.Popen[str]:
    paths = [str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]
    threads = str(_threads_of(job))
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    with (job / f"{name}.err").open("wb") as errors:
        return subprocess.Popen(
            # Named through the function, so that its code enters the stage's key.
            [sys.executable, "-m", main.__module__, str(job), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
        )


def _threads_of(job: Path) -> int:
    return int(json.loads((job / "job.json").read_text())["threads"])


def _listen(name: str, process: subprocess.Popen[str], news: queue.Queue[tuple[str, dict[str, Any] | None]]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("{"):
            news.put((name, json.loads(line)))
    news.put((name, None))


def _follow(
    processes: dict[str, subprocess.Popen[str]],
    news: queue.Queue[tuple[str, dict[str, Any] | None]],
    job: Path,
    recipe: Recipe,
) -> None:
    """Log the progress until both have ended well."""
    began = said = 0.0
    latest = {name: {"step": 0, "loss": float("nan")} for name in MODELS}
    running = set(MODELS)
    while running:
        try:
            name, progress = news.get(timeout=1.0)  # so that an interruption can come in between
        except queue.Empty:
            continue
        if progress is None:
            if code := processes[name].wait():
                raise PretrainingFailed(_failure(name, code, job))
            running.remove(name)
            continue
        latest[name] = progress
        now = time.monotonic()
        began, said = began or now, said or now
        done = min(int(each["step"]) for each in latest.values())
        if done and now - said >= PROGRESS_EVERY:
            said = now
            rate = done / (now - began)
            logger.info(
                "%-13s step %d of %d, loss %.2f (base) %.2f (gold), %.1f steps/s, %.0f s left",
                "testbed", done, recipe.steps, latest["base"]["loss"], latest["gold"]["loss"], rate,
                (recipe.steps - done) / rate,
            )  # fmt: skip


def _failure(name: str, code: int, job: Path) -> str:
    lines = (job / f"{name}.err").read_text(errors="replace").strip().splitlines()
    last = lines[-1] if lines else "no message"
    if last.startswith("ArithmeticError"):
        reason = f"diverged ({last.partition(': ')[2]}); try a lower testbed.muon_rate and testbed.adam_rate"
    elif code < 0:
        reason = f"was killed by signal {-code}; was there enough memory?"
    else:
        reason = f"ended with exit code {code}: {last}"
    return f"pretraining the {name} model {reason}"
