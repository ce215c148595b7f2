"""One command's run: its note on disk, Prefect beside it, its stages collected, its log lines plain."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from storage import runs
from storage.artifacts import disk_errors
from storage.settings import configure_environment

if TYPE_CHECKING:
    from tasks.caching import Journal

QUIET = ("prefect.task_runs", "prefect.flow_runs", "prefect.events", "prefect._internal", "alembic", "mlflow")
"""Loggers that would print what the command says itself in one line."""


@contextmanager
def session(
    flow: str, name: str, settings: dict[str, Any], refresh: frozenset[str] = frozenset()
) -> Iterator[tuple[Callable[..., Any], Journal]]:
    """Yields the flow of `flows/<flow>.py`, ready to be called, and the journal of its stages."""
    from flows.server import prefect_server

    with disk_errors():
        configure_environment()
    note, started = runs.start(name, settings), time.monotonic()
    try:
        with prefect_server() as ready:
            module = importlib.import_module(f"flows.{flow}")
            from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

            from tasks.caching import journal

            quieten()
            ready()
            # The heartbeat's thread sleeps in steps of a second, which every flow waits for at its end.
            with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}), journal(refresh=refresh) as log:
                try:
                    yield getattr(module, flow), log
                finally:
                    note.stages = [
                        runs.StageNote(run.stage, run.key, run.state, run.seconds, run.reasons) for run in log.runs
                    ]
        note.outcome = "done"
    except Exception as error:
        note.outcome = f"failed: {' '.join(str(error).split())}"
        raise
    except BaseException as error:  # Ctrl-C, or what Prefect makes of a `kill`
        note.outcome = "interrupted"
        raise KeyboardInterrupt from error
    finally:
        note.seconds = round(time.monotonic() - started, 3)
        runs.save(note)


def quieten() -> None:
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def start_logging() -> None:
    """Our own lines to stderr: plain, or by rich on a terminal."""
    logger = logging.getLogger("sae_unlearn")
    handler: logging.Handler
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.logging import RichHandler

        handler = RichHandler(
            console=Console(stderr=True), show_path=False, show_level=False, log_time_format="%H:%M:%S"
        )
    else:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        handler = logging.StreamHandler(sys.stderr)
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(logging.DEBUG if debugging() else logging.INFO)


def debugging() -> bool:
    return os.environ.get("SAE_UNLEARN_DEBUG", "") not in ("", "0")
