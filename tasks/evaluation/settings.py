"""Settings of the observation, stress and scoring stages, section `[evaluation]` of an experiment."""

from __future__ import annotations

from dataclasses import dataclass

from storage.records import setting


@dataclass(frozen=True)
class ObservationSettings:
    """What is recorded of a model."""

    token_budget: int = setting(4096, minimum=128, runtime=True)
    device: str = setting("auto", choices=("auto", "cpu", "cuda"), runtime=True)


@dataclass(frozen=True)
class RelearningSettings:
    """The attack: fine-tune on half of the target's facts, score the other half."""

    relearning_draws: int = setting(3, minimum=1)
    """Ways to split the facts, averaged."""
    relearning_steps: int = setting(12, minimum=1)
    relearning_rate: float = setting(5e-4, minimum=1e-8, maximum=1.0)
    relearning_seed: int = setting(0, minimum=0)
    device: str = setting("auto", choices=("auto", "cpu", "cuda"), runtime=True)


@dataclass(frozen=True)
class ScoreSettings:
    """How intervals are drawn."""

    metrics: tuple[str, ...] = setting((), plugin="evaluation/metrics")
    """Names of metrics; none means all there are."""
    bootstrap_draws: int = setting(2000, minimum=100)
    confidence: float = setting(0.95, minimum=0.5, maximum=0.999)
    score_seed: int = setting(0, minimum=0)


@dataclass(frozen=True)
class StressSettings:
    """A change to a model, after which it is observed again."""

    stress: str = setting("int8", plugin="evaluation/stresses")
    settings: tuple[tuple[str, bool | int | float | str], ...] = setting(())
    """The stress's own settings."""
    stress_seed: int = setting(0, minimum=0)
    device: str = setting("auto", choices=("auto", "cpu", "cuda"), runtime=True)
