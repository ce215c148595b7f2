"""Settings of the alignment stage, section `[alignment]` of an experiment."""

from __future__ import annotations

from dataclasses import dataclass

from storage.records import setting


@dataclass(frozen=True)
class AlignmentSettings:
    """Which method makes the model forget, and how long it may train."""

    method: str = setting("sae_guided", plugin="alignment/methods")
    learning_rate: float = setting(0.0, minimum=0.0, maximum=1.0)
    """Peak learning rate; 0 means the method's own."""
    steps: int = setting(60, minimum=1)
    forget_rows: int = setting(16, minimum=1)
    """Forget questions a step."""
    retain_rows: int = setting(24, minimum=1)
    """Retain questions a step, half of them of the target's type."""
    seed: int = setting(0, minimum=0)
    settings: tuple[tuple[str, bool | int | float | str], ...] = setting(())
    """The method's own settings, `[alignment.settings]` in an experiment file."""
    device: str = setting("auto", choices=("auto", "cpu", "cuda"), runtime=True)
