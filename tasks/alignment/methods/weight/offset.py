"""Offset unlearning (δ-unlearning): a pair of small models steers the model, whose weights and states stay as they are.

    L = forget + λ · E_R ℓ,   all of z_e = z_M + α (z_m' - z_m),   only m' trains, m' = m at the start
    forget = -(2/β) · E_F log σ( -β (Λ - Λ₀) )  (NPO)   or   -E_F ℓ  (gradient ascent);   ℓ, Λ of softmax(z_e)

Λ is the summed log-probability of the answer, Λ₀ the model's own at the start, ℓ its mean negative log-likelihood.

The pair is saved with the model and runs at every pass; whoever takes it off has the knowledge back. Every inside
measure reads M's states and reports them unchanged. Relearning and the other stresses change M's own weights and leave
the pair, as any edit, in place: what relearning does not bring back is held down by the pair, not gone.

Source:     Huang et al. 2024, arXiv 2404.11045; no code is public.
Defaults:   α = 1; half of the model's blocks, as the published pair of 7B for 13B; any forget loss may stand in, NPO is
            ours, since ascent has no bound and the pair's offset would grow with it. β = 0.1 and λ = 1 as in the public
            TOFU comparisons; the learning rate is ours.
Departs:    the small model is no published one of the same family: it is the model's own lowest blocks, read through a
            copy of its final norm and the model's head, not tuned to be read so early. Its embeddings and head are the
            model's and stay. So the offset is one of the state that the head reads, bounded as the norm's output is;
            where logits are soft-capped it is added before the cap. The end of the sequence is not pushed down.
Confidence: text for the idea, the formula is reconstructed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch.nn.functional import logsigmoid

from storage.records import setting
from tasks.alignment.method import Batch, Given, Loss, Start, Trained
from tasks.alignment.shared.preference import log_ratio
from tasks.alignment.terms import mean_log_probability, retain_likelihood
from tasks.models.intervention import attach, offset_of


@dataclass(frozen=True)
class OffsetUnlearning(Trained):
    needs: ClassVar = {"forget": frozenset({"answers", "reference answers"}), "retain": frozenset({"answers"})}
    learning_rate: ClassVar = 1e-3
    trains: ClassVar = "edit"
    search: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "learning_rate": (1e-4, 3e-3),
        "beta": (0.03, 3.0),
        "retain_weight": (0.3, 10.0),
    }

    alpha: float = setting(1.0, minimum=1e-6)
    """α, > 0."""
    blocks: int = setting(0, minimum=0)
    """Blocks of each small model; 0: half of the model's, at least one."""
    forget_loss: str = setting("npo", choices=("npo", "gradient_ascent"))
    beta: float = setting(0.1, minimum=1e-6)
    """β of NPO."""
    retain_weight: float = setting(1.0, minimum=0.0)
    """λ."""

    @property
    def reads(self) -> Mapping[str, frozenset[str]]:
        if self.forget_loss == "npo":
            return self.needs
        return {"forget": frozenset({"answers"}), "retain": frozenset({"answers"})}

    def prepare(self, start: Start) -> None:
        """The pair, which changes nothing yet, runs with the student from now on."""
        student = start.student
        attach(student, offset_of(student, self.blocks or max(1, len(student.blocks) // 2), self.alpha))

    def loss(self, batch: Batch, given: Given) -> Loss:
        forget, kept = batch["forget"], retain_likelihood(batch["retain"])
        if self.forget_loss == "npo":
            ratio = log_ratio(forget, forget.rows.answer_mask)
            forgotten = -(2 / self.beta) * logsigmoid(-self.beta * ratio).mean()
        else:
            forgotten = mean_log_probability(forget, forget.student).mean()
        return Loss(forgotten + self.retain_weight * kept, {"forget": forgotten, "retain": kept})
