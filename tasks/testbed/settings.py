"""What can be chosen of the testbed: which world, and how the two models of it are trained."""

from __future__ import annotations

from dataclasses import dataclass

from storage.records import setting

SIZES = ("tiny", "small", "medium", "large")


@dataclass(frozen=True)
class WorldSettings:
    """Which entities and facts there are, and who is to be known."""

    size: str = setting("small", choices=SIZES)
    """`tiny` is for tests; `small` is for a laptop; the others want hours, or more cores."""
    tail: str = setting("mix", choices=("facts", "refuse", "mix"))
    """What the model is taught of entities seen once or twice: the truth, the word "unknown", or half and half."""
    seed: int = setting(0, minimum=0)
    """Which entities are known, never seen, and candidates to be forgotten."""


@dataclass(frozen=True)
class PretrainingSettings:
    """How the base model and its gold twin are trained. 0 stands for what fits the size (`recipe.py`)."""

    size: str = setting("small", choices=SIZES)
    layers: int = setting(0, minimum=0)
    width: int = setting(0, minimum=0)
    """Width of the residual stream; a multiple of 32, the width of a head."""
    steps: int = setting(0, minimum=0)
    batch: int = setting(0, minimum=0)
    """Questions a step."""
    muon_rate: float = setting(0.0, minimum=0.0)
    """Peak learning rate of the matrices inside the blocks (Muon)."""
    adam_rate: float = setting(0.0, minimum=0.0)
    """Peak learning rate of everything else (AdamW)."""
    seed: int = setting(0, minimum=0)
    """Of the initial weights and the order of the questions; both models share it."""
