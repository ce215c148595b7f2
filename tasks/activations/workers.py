"""Shards made by several processes: each takes every n-th of those that are missing and dies with the first of them.

On the processor this pays where one process does not fill it; on an accelerator one process plans while another
computes, for a copy of the lower blocks each (not tried there).
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch

from storage.records import Site, UsageError
from tasks.activations.extraction import Passage, read_passages
from tasks.models.load import LoadedModel, load_model

LOOK = 5.0
"""Seconds between two looks at the other processes, once this one has nothing left to do."""

Shards = Mapping[Path, Sequence[Passage]]


@dataclass(frozen=True)
class Work:
    """How a shard is made, as another process can be told."""

    loading: dict[str, Any]
    """Arguments of `load_model`."""
    sites: tuple[Site, ...]
    dtype: str
    token_budget: int
    write: Callable[[Path, Mapping[str, np.ndarray]], None]
    """Keeps the columns of a shard at a path, whole or not at all."""


def make_shards(loaded: LoadedModel, work: Work, shards: Shards, workers: int, progress: Callable[[], None]) -> None:
    """Make every shard; this process is the first of the workers.

    progress is called now and then, at least once after each shard of this process.

    Raises: UsageError when another process ended before its work was done.
    """
    shares = [dict(list(shards.items())[first::workers]) for first in range(workers)]
    threads = torch.get_num_threads()
    each = max(1, threads // workers)
    context = multiprocessing.get_context("spawn")
    others = [
        context.Process(target=_other_process, args=(work, share, each), daemon=True) for share in shares[1:] if share
    ]
    try:
        for other in others:
            other.start()
        torch.set_num_threads(each if others else threads)
        for path, passages in shares[0].items():
            _make_shard(loaded, work, path, passages)
            _check(others)
            progress()
        while running := [other.sentinel for other in others if other.is_alive()]:
            connection.wait(running, timeout=LOOK)
            progress()
        _check(others)
    finally:
        torch.set_num_threads(threads)
        for other in others:
            other.terminate()
            other.join()


def _make_shard(loaded: LoadedModel, work: Work, path: Path, passages: Sequence[Passage]) -> None:
    work.write(path, read_passages(loaded, passages, work.sites, work.dtype, work.token_budget))


def _other_process(work: Work, shards: Shards, threads: int) -> None:
    threading.Thread(target=_die_with_the_first, daemon=True).start()
    torch.set_num_threads(threads)
    loaded = load_model(**work.loading)
    for path, passages in shards.items():
        _make_shard(loaded, work, path, passages)


def _die_with_the_first() -> None:
    first = multiprocessing.parent_process()
    assert first is not None
    first.join()
    os._exit(1)


def _check(others: Sequence[BaseProcess]) -> None:
    for other in others:
        if other.exitcode:
            raise UsageError(
                f"one of the processes that read activations ended with code {other.exitcode} before its work was done; "
                "the shards that are whole are kept: run again, with fewer activations.workers where memory was short"
            )
