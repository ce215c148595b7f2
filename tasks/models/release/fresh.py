"""A saved model scored in a fresh process by transformers alone."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from storage.records import UsageError
from tasks.models.intervention.files import DESCRIPTION
from tasks.models.load import pick_device
from tasks.models.release import plain

ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Asked:
    """A prompt and its answer, as token ids and, without what begins a sequence, as text."""

    text: str
    prompt: tuple[int, ...]
    answer: tuple[int, ...]


@dataclass(frozen=True)
class Reread:
    """What plain transformers made of a folder."""

    log_probabilities: list[float]
    """Of each answer, the end-of-sequence token excluded, nats."""
    tokens: list[list[int]]
    """Of each text, without special ones."""
    edited: bool
    """Whether the edit that goes with the weights was made by `tasks.models.load.load_model`."""
    adapter: list[float] | None
    """The same as `log_probabilities`, by peft, of the base model with the adapter; None without one."""


def score_in_fresh_process(
    model: Path,
    rows: Sequence[Asked],
    *,
    dtype: str = "float32",
    device: str = "auto",
    placement: str = "one",
    adapter: Path | None = None,
    base: Path | None = None,
) -> Reread:
    """Read a folder in a process of its own, with `AutoModelForCausalLM` and `AutoTokenizer` alone, and score the rows.

    adapter, base  an adapter's folder and its model's: read by peft and scored too, in the same process.

    Raises: UsageError for a folder that cannot be read so.
    """
    edited, place = (model / DESCRIPTION).is_file(), pick_device(device)
    if place.type == "cuda":  # what this process holds in reserve, the other one needs
        torch.cuda.empty_cache()
    given = {
        "model": str(model),
        "edited": edited,
        "adapter": str(adapter or ""),
        "base": str(base or ""),
        "dtype": dtype,
        "device": str(place),
        "placement": placement,
        "rows": [vars(row) for row in rows],
    }
    script = inspect.getfile(plain.main)
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder) / "asked.json", Path(folder) / "answered.json"
        asked.write_text(json.dumps(given), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-P", script, str(asked), str(answered)],
            env=_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise UsageError(
                f"the model saved in {model} cannot be read by transformers alone: {_last_error(done)}; make it again "
                "(`sae-unlearn run --refresh alignment`), and if that does not help, report its family and version"
            )
        found = json.loads(answered.read_text(encoding="utf-8"))
    return Reread(found["model"], found["tokens"], edited, found.get("adapter"))


def _last_error(done: subprocess.CompletedProcess[str]) -> str:
    """The line that names the error; its message may have more of them."""
    lines = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
    named = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
    return (named or lines)[-1].strip()


def _environment() -> dict[str, str]:
    """No network and no token is needed; the project is found where an edit has to be made."""
    kept = {name: value for name, value in os.environ.items() if name not in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")}
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
    return kept | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "PYTHONPATH": path}
