"""Settings of the latents and selection stages, section `[latents]` of an experiment."""

from __future__ import annotations

from dataclasses import dataclass

from storage.records import setting


@dataclass(frozen=True)
class LatentSettings:
    """Which latents are taken to stand for known and for unknown."""

    selected: int = setting(16, minimum=1)
    """Latents of each kind, at most, over all sites."""
    generic_rate: float = setting(0.02, minimum=0.0, maximum=1.0)
    """A latent that fires on more than this share of neutral text is not chosen."""
    minimum_separation: float = setting(0.05, minimum=0.0, maximum=1.0)
    """Least difference of firing frequency, in the worst entity type, on the fit half."""
