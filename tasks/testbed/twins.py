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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tasks.testbed.examples import Columns, lessons_of, rows_of
from tasks.testbed.pretrain import main, write_job
from tasks.testbed.recipe import Recipe

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
    with tempfile.TemporaryDirectory(prefix="sae-unlearn-pretraining-") as scratch:
        job = Path(scratch)
        with _processes(job, _threads(recipe)) as processes:
            # They import their libraries while the job is prepared here.
            asked = _prepare(job, entities, questions, texts, recipe, folder)
            for process in processes.values():
                _go(process)
            _follow(processes, job, recipe.steps)
        results = {name: dict(np.load(job / f"{name}.npz")) for name in MODELS}
    return Twins(
        {name: results[name]["losses"] for name in MODELS}, asked, {name: results[name]["hit"] for name in MODELS}
    )


def _prepare(
    job: Path, entities: Columns, questions: Columns, texts: Sequence[str], recipe: Recipe, folder: Path
) -> np.ndarray:
    """Write the job and the tokenizer; returns the rows of the questions that the models will be asked."""
    from tasks.testbed.tokenizer import train_tokenizer

    taught = [answer for answer in questions["taught"] if answer]
    tokenizer = train_tokenizer(list(entities["name"]), taught, recipe.vocabulary)
    asked = _exam(entities, questions)
    pairs = [(place, answer) for place, row in enumerate(asked) for answer in questions["answers"][row]]
    exam = rows_of(
        tokenizer, [questions["prompt"][asked[place]] for place, _ in pairs], [answer for _, answer in pairs]
    )
    lessons = lessons_of(tokenizer, entities, questions, texts)
    # A small world may hold too few words to fill the vocabulary.
    recipe = replace(recipe, vocabulary=len(tokenizer))
    write_job(job, lessons, exam, np.array([place for place, _ in pairs]), recipe, _threads(recipe), folder)
    for name in MODELS:
        tokenizer.save_pretrained(folder / name)
    return asked


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


@contextmanager
def _processes(job: Path, threads: int) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """One process per model, waiting for its job; none outlives the block."""
    processes: dict[str, subprocess.Popen[str]] = {}
    try:
        for name in MODELS:
            processes[name] = _start(job, name, threads)
        yield processes
    finally:
        for process in processes.values():
            if process.poll() is None:
                process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(BrokenPipeError):
                        pipe.close()


def _start(job: Path, name: str, threads: int) -> subprocess.Popen[str]:
    paths = [str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
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


def _go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it has died, which is noticed where its output ends
        process.stdin.write("\n")
        process.stdin.flush()


def _listen(name: str, process: subprocess.Popen[str], news: queue.Queue[tuple[str, dict[str, Any] | None]]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("{"):
            news.put((name, json.loads(line)))
    news.put((name, None))


def _follow(processes: dict[str, subprocess.Popen[str]], job: Path, steps: int) -> None:
    """Log the progress until both have ended well.

    Raises: PretrainingFailed as soon as one has not.
    """
    news: queue.Queue[tuple[str, dict[str, Any] | None]] = queue.Queue()
    for name, process in processes.items():
        threading.Thread(target=_listen, args=(name, process, news), daemon=True).start()
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
                "testbed", done, steps, latest["base"]["loss"], latest["gold"]["loss"], rate,
                (steps - done) / rate,
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
