"""Trains one of the testbed's two models: `python -m tasks.testbed.pretrain JOB MODEL`, started by `twins`.

A process of its own: its death is noticed, and it dies with the one that started it.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from dataclasses import asdict
from pathlib import Path

import numpy as np

from tasks.testbed.examples import Lessons, Rows, curriculum
from tasks.testbed.recipe import Recipe


def main(job: Path, name: str, ready: threading.Event) -> None:
    """Train one model of a job and save it; progress goes to standard output, one JSON document a line.

    ready  the job is written; what takes long to import is imported before.
    """
    import torch
    from transformers.utils import logging as transformers_logging

    from tasks.testbed.recall import answered
    from tasks.testbed.training import network, train

    transformers_logging.disable_progress_bar()
    ready.wait()
    description = json.loads((job / "job.json").read_text())
    recipe = Recipe(**description["recipe"])
    torch.set_num_threads(description["threads"])
    lessons = read_lessons(job)
    batches = curriculum(lessons, recipe.steps, recipe.batch, recipe.seed)
    if name == "gold":
        # The same lessons in the same order, but for those that the twin must not have: nothing else tells them apart.
        batches = [kept for batch in batches if len(kept := batch[lessons.in_gold[batch]])]
    model = network(recipe)
    losses = train(model, lessons, batches, recipe, lambda step, loss: _say(step=step, loss=loss))
    model.eval()
    with np.load(job / "exam-question.npz") as stored:
        hit = answered(model, Rows.read(job / "exam.npz"), stored["question"])
    model.save_pretrained(Path(description["models"]) / name)
    np.savez(job / f"{name}.npz", losses=np.array(losses), hit=hit)


def write_job(
    job: Path, lessons: Lessons, exam: Rows, question: np.ndarray, recipe: Recipe, threads: int, models: Path
) -> None:
    """All that `main` needs to train a model, and the folder in which it saves it.

    exam, question  rows to be asked at the end and the question that each belongs to.
    """
    (job / "job.json").write_text(
        json.dumps({"recipe": asdict(recipe), "threads": threads, "models": str(models.resolve())})
    )
    lessons.rows.save(job / "lessons.npz")
    np.savez(job / "lessons-group.npz", group=lessons.group, in_gold=lessons.in_gold)
    exam.save(job / "exam.npz")
    np.savez(job / "exam-question.npz", question=question)


def read_lessons(job: Path) -> Lessons:
    with np.load(job / "lessons-group.npz") as stored:
        return Lessons(Rows.read(job / "lessons.npz"), stored["group"], stored["in_gold"])


def _say(**progress: float) -> None:
    print(json.dumps(progress), flush=True)


def _heed_parent() -> threading.Event:
    """Standard input says with its first byte that the job is ready, and closes when the parent is gone, however it went."""
    ready = threading.Event()

    def watch() -> None:
        # Not through sys.stdin: a thread inside its buffer makes Python abort at exit.
        while os.read(0, 1):
            ready.set()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    return ready


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], ready=_heed_parent())
