"""The twin of `sae_guided` without the autoencoder: the same loss on the raw residual stream, as a control.

    L = that of `sae_guided` with z = h, the residual stream itself

Source:     ours, a control: what it does as well as `sae_guided` is not owed to the autoencoder.
Defaults:   those of `sae_guided`.
Departs:    -
Confidence: ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from storage.records import setting
from tasks.alignment.method import Batch, Given, Loss, Start, Trained
from tasks.alignment.shared.guidance import (
    ALL_NEEDS,
    REFERENCES,
    Goals,
    guided_loss,
    guided_needs,
    prepared_goals,
    raw_states,
)


@dataclass(frozen=True)
class ResidualGuided(Trained):
    needs: ClassVar = ALL_NEEDS
    search: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "learning_rate": (3e-4, 3e-3),
        "erase": (0.01, 0.5),
        "retain_answers": (8.0, 64.0),
    }

    pull: float = setting(1.0, minimum=0.0)
    """Weight of the way toward the unknown reference."""
    push: float = setting(1.0, minimum=0.0)
    """Weight of the way from the target's own former place; 0 once it is as far as unknown entities are."""
    answers: float = setting(0.0, minimum=0.0)
    """Weight of answering as of unknown entities."""
    erase: float = setting(0.1, minimum=0.0)
    """Weight of answering so even from the target's former states."""
    retain_states: float = setting(8.0, minimum=0.0)
    retain_answers: float = setting(32.0, minimum=0.0)
    reference: str = setting("centred", choices=REFERENCES)
    reference_entities: int = setting(24, minimum=1)
    """Unknown entities, and as many known ones, that the means are taken over; fewer where a world has fewer."""

    @property
    def reads(self) -> Mapping[str, frozenset[str]]:
        return guided_needs(vars(self))

    @property
    def references(self) -> int:
        return self.reference_entities

    def prepare(self, start: Start) -> Goals | None:
        return prepared_goals(start, raw_states, self.reference)

    def loss(self, batch: Batch, given: Given) -> Loss:
        return guided_loss(batch, given, raw_states, vars(self), self.reference, given.prepared)
