"""Where things are kept and which servers are asked, read once from the environment."""

from __future__ import annotations

import os
from pathlib import Path

EMBEDDED = {
    "DO_NOT_TRACK": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "WANDB_MODE": "disabled",
    "TOKENIZERS_PARALLELISM": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_SERVER_EPHEMERAL_ENABLED": "true",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    # The embedded server loses the records of tasks that end shortly before it does, unless told to write often.
    # It cuts the interval to whole seconds: below 1 it would spin and eat a core.
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_LOGGING_LEVEL": "WARNING",
}


def home() -> Path:
    """The root of all state: `SAE_UNLEARN_HOME`, or `.sae-unlearn` in the working folder."""
    return Path(os.environ.get("SAE_UNLEARN_HOME") or ".sae-unlearn").expanduser().resolve()


def tracking_uri() -> str:
    """MLflow's address: `MLFLOW_TRACKING_URI`, or an SQLite file under `home()`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home() / 'mlflow' / 'mlflow.db'}"


def configure_environment() -> None:
    """Set the embedded defaults for Prefect, MLflow and the hub, where the user has set nothing.

    Must run before Prefect is imported: it reads its settings once.
    """
    os.environ.setdefault("PREFECT_HOME", str(home() / "prefect"))
    # Prefect does not make the parents of its home, and its server then times out without a reason.
    Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)
    for name, value in EMBEDDED.items():
        os.environ.setdefault(name, value)
