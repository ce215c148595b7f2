"""SAE-guided alignment: in the latent space of a sparse autoencoder, move the target away from what it was and
toward unknown entities, at every position from its first token to the end of the prompt.

    z = relu(pre-activations of the autoencoder at a site),  u = an unknown entity in the same sentence
    L = pull · E ‖z - z_u‖² / E‖z_u‖²  +  push · E relu(1 - ‖z - z_old‖² / E‖z_u‖²)
        + answers · E KL(p_u ‖ p)  +  erase · E KL(p_u ‖ p_restored)
        + retain_states · R_hid + retain_answers · R_kl                                        (mean over the sites)

`reference` says what z_u is: `mean`, the average of several, which lies in their middle and yet spreads less than any;
`alias`, one of them, which spreads like a real one and lies wherever that one happens to lie; `centred`, the alias with
its place along the line from the unknown mean to the known mean taken from the unknown mean; `distribution`, all of
them, the pull being the energy distance between the target's places and theirs.
p_u is the mean next-token distribution of unknown entities and p the model's about the target; p_restored is what the
blocks above the last site make of the target's *former* states: what would come back if the way there were learned
anew. `space = "selected"` looks only at the latents that stand for known and for unknown entities.

Source:     the definition and the direction of the objective are those of arXiv 2509.15631 (abstract).
Defaults:   ours, measured on the testbed (see the README).
Departs:    loss, positions, layers and constants are ours; the paper's were not to be had.
Confidence: definition: text; all else ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from storage.records import Site, setting
from tasks.alignment.method import Batch, Given, Loss, Start, Trained
from tasks.alignment.shared.guidance import (
    ALL_NEEDS,
    REFERENCES,
    Goals,
    Space,
    dense_latents,
    guided_loss,
    guided_needs,
    prepared_goals,
    selected_latents,
)


@dataclass(frozen=True)
class SaeGuided(Trained):
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
    space: str = setting("dense", choices=("dense", "selected"))
    at: str = setting("all", choices=("all", "last"))
    """At every site that has an autoencoder, or at the last of them."""

    @property
    def reads(self) -> Mapping[str, frozenset[str]]:
        return guided_needs(vars(self))

    @property
    def references(self) -> int:
        return self.reference_entities

    def sites(self, given: tuple[Site, ...], depth: int) -> tuple[Site, ...]:
        return given if self.at == "all" else given[-1:]

    @property
    def _latents(self) -> Space:
        return dense_latents if self.space == "dense" else selected_latents

    def prepare(self, start: Start) -> Goals | None:
        return prepared_goals(start, self._latents, self.reference)

    def loss(self, batch: Batch, given: Given) -> Loss:
        return guided_loss(batch, given, self._latents, vars(self), self.reference, given.prepared)
