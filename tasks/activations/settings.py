"""Settings of the activations stage, section `[activations]` of an experiment."""

from __future__ import annotations

from dataclasses import dataclass

from storage.records import setting


@dataclass(frozen=True)
class ActivationSettings:
    """Which activations are read and how they are stored."""

    layers: tuple[int, ...] = setting((1, 2), minimum=0)
    """Blocks after which the residual stream is read."""
    dtype: str = setting("bfloat16", choices=("bfloat16", "float32"))
    """Type on disk."""
    shard_sequences: int = setting(4096, minimum=16)
    """Prompts a shard; a killed extraction makes only the shards that are missing."""
    device: str = setting("auto", choices=("auto", "cpu", "cuda"), runtime=True)
    token_budget: int = setting(2048, minimum=128, runtime=True)
    """Tokens a batch."""
    workers: int = setting(1, minimum=1, runtime=True)
    """Processes that make shards, each with a model of its own; they share the processor's threads."""
