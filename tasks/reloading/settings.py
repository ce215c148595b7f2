"""Settings of the reloading stage, section `[release]` of an experiment."""

from __future__ import annotations

from dataclasses import dataclass

from storage.records import setting


@dataclass(frozen=True)
class ReloadingSettings:
    """How much of what the run observed is scored again from the saved model."""

    questions: int = setting(24, minimum=1)
    """Questions about the targets, and as many about everyone else."""
    device: str = setting("auto", choices=("auto", "cpu", "cuda"), runtime=True)
