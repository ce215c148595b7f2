"""Settings of the report and release stages, sections `[report]` and `[release]` of an experiment."""

from __future__ import annotations

from dataclasses import dataclass

from storage.records import setting


@dataclass(frozen=True)
class ReportSettings:
    """What the page shows."""

    examples: int = setting(8, minimum=1)
    """Questions about the targets shown with the answers of the three models; half as many about neighbours."""
    latents: int = setting(8, minimum=1)
    """Latents shown, those that moved most at the target."""


@dataclass(frozen=True)
class CardSettings:
    """What the card says that goes with a model to a hub."""

    name_targets: bool = setting(False)
    """Whether it names who was forgotten; the card beside the model here always does."""
