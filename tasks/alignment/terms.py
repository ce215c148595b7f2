"""Mathematics that several methods share. Means over tokens run over the answer's own tokens unless said."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from storage.records import Site, UsageError
from tasks.alignment.method import Forward, Given, Group, Start

ENCODED_AT_ONCE = 1024
"""Positions whose activations of all latents are held together."""


def token_log_probabilities(group: Group, forward: Forward) -> Float[Tensor, "B A"]:
    """log p of each answer token (and of the end), nats."""
    assert forward.log_probabilities is not None
    return forward.log_probabilities.gather(-1, group.rows.answer_tokens[..., None])[..., 0]


def answer_log_probability(group: Group, forward: Forward) -> Float[Tensor, " B"]:
    """Λ: summed log p of the answer's own tokens, the end left out, nats."""
    return (token_log_probabilities(group, forward) * group.rows.answer_mask).sum(-1)


def mean_log_probability(group: Group, forward: Forward) -> Float[Tensor, " B"]:
    """-ℓ: mean log p over the answer's own tokens, the end left out, nats per token."""
    return answer_log_probability(group, forward) / group.rows.answer_mask.sum(-1)


def answer_mean(each: Float[Tensor, " N"], mask: Bool[Tensor, "B A"]) -> Float[Tensor, ""]:
    """Mean over each answer's tokens that count, then over the answers that have such; `each` is in the mask's order."""
    count = mask.sum(-1, keepdim=True)
    weight = mask / count.clamp(min=1) / (count > 0).sum().clamp(min=1)
    return (each * weight[mask]).sum()


def retain_likelihood(retain: Group) -> Float[Tensor, ""]:
    """R_nll: mean negative log-likelihood of retain answers, the end included."""
    mask = retain.rows.answer_mask | retain.rows.end_mask
    each = -(token_log_probabilities(retain, retain.student) * mask).sum(-1) / mask.sum(-1)
    return each.mean()


@torch.no_grad()
def starting_likelihood(start: Start, at_once: int = 64) -> float:
    """R_nll of the starting model on every retain row that will be drawn, so many rows at a time."""
    rows = start.groups["retain"].rows
    total = 0.0
    for index in torch.arange(len(rows), device=rows.ids.device).split(at_once):
        part = rows.pick(index)
        forward = start.run(part, (), states=False, answers=True)
        total += float(retain_likelihood(Group(part, forward, None))) * len(part)
    return total / len(rows)


def retain_divergence(retain: Group) -> Float[Tensor, ""]:
    """R_kl: mean over answer tokens and the end of KL(starting model ‖ student), nats."""
    assert retain.reference is not None
    assert retain.reference.log_probabilities is not None
    assert retain.student.log_probabilities is not None
    mask = retain.rows.answer_mask | retain.rows.end_mask
    before, now = retain.reference.log_probabilities[mask], retain.student.log_probabilities[mask]
    return (before.exp() * (before - now)).sum(-1).mean()


def unknown_divergence(forget: Group, answering: Forward | None = None) -> Float[Tensor, ""]:
    """Mean over the answer's own tokens of KL(mean of unknown entities ‖ a pass of the student), nats: what is answered
    of the target is to be what is answered of a stranger. None takes the pass `forget.student`."""
    answering = answering or forget.student
    assert forget.unknown_answers is not None
    assert answering.log_probabilities is not None
    mask = forget.rows.answer_mask
    wanted, now = forget.unknown_answers[mask], answering.log_probabilities[mask]
    return (wanted.exp() * (wanted - now)).sum(-1).mean()


def retain_states(retain: Group, given: Given) -> Float[Tensor, ""]:
    """R_hid: mean squared change of the retain states in units of each coordinate's variance, over sites."""
    assert retain.reference is not None
    changes = [
        masked_mean(
            ((retain.student.states[site] - retain.reference.states[site]).pow(2) / given.scale[site].mean()).mean(-1),
            retain.rows.state_mask,
        )
        for site in given.sites
    ]
    return torch.stack(changes).mean()


def masked_mean(values: Float[Tensor, "B S"], mask: Bool[Tensor, "B S"]) -> Float[Tensor, ""]:
    """Mean over the positions that count."""
    return (values * mask).sum() / mask.sum()


def squared_distance(a: Float[Tensor, "*B K"], b: Float[Tensor, "*B K"]) -> Float[Tensor, "*B"]:
    return (a - b).pow(2).sum(-1)


@dataclass(frozen=True, eq=False)
class Firing:
    """How each of K latents fires at so many positions."""

    positions: int
    fired: Float[Tensor, " K"]
    """At how many of them."""
    total: Float[Tensor, " K"]
    """Sum of its activations."""

    @property
    def frequency(self) -> Float[Tensor, " K"]:
        """Share of the positions at which it fires [0, 1]."""
        return self.fired / self.positions

    @property
    def mean(self) -> Float[Tensor, " K"]:
        """Mean activation over all positions."""
        return self.total / self.positions

    @property
    def size(self) -> Float[Tensor, " K"]:
        """Mean activation where it fires; 0 of one that never does."""
        return self.total / self.fired.clamp(min=1)


@torch.no_grad()
def firing(group: Group, given: Given, site: Site) -> Firing:
    """How the latents of a site fire on the starting model's states of a group.

    The positions are those that rows have states at: from the name's first token to the prompt's last.
    """
    assert group.reference is not None
    return firing_on(group.reference.states[site][group.rows.state_mask], given, site)


@torch.no_grad()
def firing_on(states: Float[Tensor, "N D"], given: Given, site: Site) -> Firing:
    """How the latents of a site fire on states."""
    autoencoder = given.autoencoders[site]
    fired, total = torch.zeros(2, autoencoder.latents, device=states.device)
    for part in states.split(ENCODED_AT_ONCE):
        activations = autoencoder.encode(part)
        fired += (activations > 0).sum(0)
        total += activations.sum(0)
    return Firing(len(states), fired, total)


def best_latents(score: Float[Tensor, " K"], allowed: Bool[Tensor, " K"], count: int) -> list[int]:
    """The allowed latents of the highest score, best first, the lower number first among equals; at most so many."""
    order = score.sort(descending=True, stable=True).indices
    return [int(each) for each in order[allowed[order]][:count]]


def telling_latents(forget: Firing, retain: Firing, site: Site, limit: float, count: int) -> list[int]:
    """Of the latents that fire at less than `limit` of the retain positions, those that fire most often on forget ones.

    Raises: UsageError when there is none.
    """
    fires = forget.fired > 0
    found = best_latents(forget.frequency, fires & (retain.frequency < limit), count)
    if not found:
        least = float(retain.frequency[fires].min()) if bool(fires.any()) else 1.0
        raise UsageError(
            f"no latent of {site.name} fires on the target and at less than limit = {limit:g} of the retain positions; "
            f"the rarest that fires on the target does at {least:.3g} of them: raise limit above that, or edit another site"
        )
    return found
