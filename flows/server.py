"""Prefect's server for one command: started at once, beside the imports, and ended with the command.

Prefect starts one by itself, but only after its own process has imported the whole server too;
doing it here halves the wait. A server that the user names (`PREFECT_API_URL`) is used instead.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PATIENCE = 120.0
"""Seconds the server may take to answer; a fresh home's first start migrates its database."""

_SERVE = """
import os, socket, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
import uvicorn
from prefect.server.api.server import create_app
config = uvicorn.Config(create_app(ephemeral=True), log_level="critical", lifespan="on")
uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(sys.argv[1]))])
"""
"""The thread ends the server when the pipe closes, however the command ended."""


class ServerUnavailable(RuntimeError):
    """Prefect's server did not start."""


@contextmanager
def prefect_server() -> Iterator[Callable[[], None]]:
    """Set `PREFECT_API_URL` for the body; yields a function that returns once the server answers.

    Must be entered before Prefect is imported. Raises: ServerUnavailable.
    """
    if _named_by_user():
        yield lambda: None
        return
    listener = socket.create_server(("127.0.0.1", 0))
    address = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
    log = Path(os.environ["PREFECT_HOME"]) / "server.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", _SERVE, str(listener.fileno())],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=[listener.fileno()],
            start_new_session=True,  # so that Ctrl-C reaches the command first
            env={**os.environ, "PREFECT_UI_ENABLED": "0"},
        )
    listener.close()
    os.environ["PREFECT_API_URL"] = address
    try:
        yield lambda: _await(f"{address}/health", process, log)
    finally:
        os.environ.pop("PREFECT_API_URL", None)
        process.terminate()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _named_by_user() -> bool:
    profiles = Path(os.environ["PREFECT_HOME"]) / "profiles.toml"
    if os.environ.get("PREFECT_API_URL") or os.environ.get("PREFECT_PROFILE"):
        return True
    return Path("prefect.toml").exists() or (profiles.is_file() and "PREFECT_API_URL" in profiles.read_text())


def _await(health: str, process: subprocess.Popen[bytes], log: Path) -> None:
    give_up = time.monotonic() + PATIENCE
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while process.poll() is None and time.monotonic() < give_up:
        try:
            with direct.open(health, timeout=max(1.0, give_up - time.monotonic())):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    reason = lines[-1] if lines else "no reason was given"
    raise ServerUnavailable(
        f"Prefect's server did not start: {reason}; see {log}, or set PREFECT_API_URL to a running server"
    )
