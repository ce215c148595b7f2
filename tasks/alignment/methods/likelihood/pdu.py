"""Primal-dual unlearning: flatten the logits of the forget answers under a bound on the retain loss.

    L = E_F mean_t (max_v z_tv - mean_v z_tv)² + μ · (R - ε),   R = E_R ℓ
    after a step:  μ ← max(0, μ + η · (R - ε))

z_t are the logits at answer token t, ℓ is the mean negative log-likelihood of the answer's tokens. No balance of forget
and retain is guessed: the weight μ (the dual variable) rises while the bound ε is broken and falls while it holds. It
stays as it is for a first share of the steps, because flattening breaks the bound at once.

Source:     Entesari et al. 2025, arXiv 2506.05314; the authors' class and run script in open-unlearning.
Defaults:   μ = 100 at the start, η = 5 and frozen for 5 epochs of 10, as in the authors' script for TOFU. ε there is 0.3
            for models whose retain loss it is close to, and has no default; here it is what the starting model loses
            on the retain answers of the run, plus a margin, and the margin is ours, as is the learning rate, tried on
            validation targets of the testbed.
Departs:    only the positions that predict the answer's own tokens are flattened (the public code flattens all of them,
            prompt and padding too), averaged for each answer and then over answers; with a step in several parts, μ
            takes one step on their mean.
Confidence: code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from storage.records import setting
from tasks.alignment.method import Batch, Given, Loss, Start, Trained
from tasks.alignment.terms import answer_mean, retain_likelihood, starting_likelihood


@dataclass(eq=False)
class _Dual:
    """The dual variable of a run, and what its next step is made of."""

    bound: float
    """ε, nats per token."""
    weight: float
    """μ."""
    step: int = 0
    """The step whose parts are being summed."""
    excess: float = 0.0
    """Sum of R - ε over them."""
    parts: int = 0


@dataclass(frozen=True)
class PDU(Trained):
    needs: ClassVar = {"forget": frozenset({"answers"}), "retain": frozenset({"answers", "reference answers"})}
    learning_rate: ClassVar = 3e-4
    search: ClassVar = {"learning_rate": (3e-5, 1e-3), "retain_weight": (10.0, 1000.0), "margin": (0.03, 0.5)}

    margin: float = setting(0.1, minimum=0.0)
    """ε less the starting model's retain loss, nats per token."""
    retain_weight: float = setting(100.0, minimum=0.0)
    """μ at the start."""
    dual_rate: float = setting(5.0, minimum=0.0)
    """η."""
    frozen: float = setting(0.5, minimum=0.0, maximum=1.0)
    """Share of the steps, at the beginning, during which μ stays as it is."""

    def prepare(self, start: Start) -> _Dual:
        return _Dual(starting_likelihood(start) + self.margin, self.retain_weight)

    def loss(self, batch: Batch, given: Given) -> Loss:
        forget, retain, dual = batch["forget"], batch["retain"], given.prepared
        assert forget.student.log_probabilities is not None
        self._follow(dual, given)
        mask = forget.rows.answer_mask
        # Log-probabilities do for logits: what a position's all differ by cancels.
        now = forget.student.log_probabilities[mask]
        forgotten = answer_mean((now.amax(-1) - now.mean(-1)).pow(2), mask)
        kept = retain_likelihood(retain)
        dual.excess += float(kept.detach()) - dual.bound
        dual.parts += 1
        parts = {"forget": forgotten, "retain": kept, "retain_weight": torch.tensor(dual.weight)}
        return Loss(forgotten + dual.weight * (kept - dual.bound), parts)

    def _follow(self, dual: _Dual, given: Given) -> None:
        """Step the dual variable once when a new step begins, by what the last one's parts were above the bound."""
        if given.step == dual.step:
            return
        if dual.parts and dual.step >= self.frozen * given.steps:
            dual.weight = max(0.0, dual.weight + self.dual_rate * dual.excess / dual.parts)
        dual.step, dual.excess, dual.parts = given.step, 0.0, 0
