"""Align: the student is trained on forget and retain rows; what the frozen starting model says is computed once."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from storage.records import Site
from tasks.alignment.examples import Rows
from tasks.alignment.method import Forward, Given, Group, Method
from tasks.models.forward import logits_of, plan_for, read_sites, run_batch
from tasks.models.load import LoadedModel
from tasks.models.prompts import Question
from tasks.models.sae import Autoencoder
from tasks.models.train import Loss, minimise, trainable_parameters

logger = logging.getLogger("sae_unlearn")


@dataclass(frozen=True, eq=False)
class Material:
    """All rows a run may draw from, and the unknown entities' prompts for each forget row."""

    forget: Rows
    retain: Rows
    unknown: Sequence[Sequence[Question]]
    """Forget row -> the same sentence with R unknown names; empty where the method wants none."""
    known: Sequence[Sequence[Question]]
    """The same with R names of retain entities."""
    steps: Sequence[tuple[list[int], list[int]]]
    """(forget rows, retain rows) of every step."""


@dataclass(eq=False)
class Frozen:
    """What the starting model computed on a group's rows, kept on the device; `place` maps a row to its entry."""

    place: dict[int, int] = field(default_factory=dict)
    forward: Forward | None = None
    unknown: dict[Site, Float[Tensor, "N R S D"]] = field(default_factory=dict)
    known: dict[Site, Float[Tensor, "N R S D"]] = field(default_factory=dict)


def align_model(
    student: LoadedModel,
    method: Method,
    material: Material,
    autoencoders: Mapping[Site, Autoencoder],
    latents: Mapping[Site, Mapping[str, list[int]]],
    *,
    learning_rate: float,
    seed: int,
    report: Callable[[int, Mapping[str, float]], None] = lambda step, parts: None,
) -> list[dict[str, float]]:
    """Train the student in place; returns each step's loss parts.

    No second model is held: the starting model's states and distributions on the rows that will be drawn are
    computed before the first step. Embeddings stay as they are, because names share their pieces.
    """
    sites = tuple(sorted(autoencoders, key=lambda site: site.layer))
    drawn = [sorted({row for step in material.steps for row in step[part]}) for part in (0, 1)]
    began = time.monotonic()
    frozen_forget = _freeze(student, material.forget, drawn[0], sites, method.forget_needs)
    frozen_retain = _freeze(student, material.retain, drawn[1], sites, method.retain_needs)
    if method.references:
        frozen_forget.unknown = _reference_states(student, material.forget, material.unknown, drawn[0], sites)
        frozen_forget.known = _reference_states(student, material.forget, material.known, drawn[0], sites)
    given = Given(sites, autoencoders, latents, _scale(frozen_retain, material, drawn[1], sites), seed)
    parameters = trainable_parameters(student.model, frozen=[student.embeddings])

    def loss_at(step: int) -> Loss:
        forget, retain = material.steps[step]
        return method.loss(
            _group(student, material.forget, forget, frozen_forget, sites, method.forget_needs),
            _group(student, material.retain, retain, frozen_retain, sites, method.retain_needs),
            given,
        )

    def after_step(step: int, parts: Mapping[str, float]) -> None:
        report(step, parts)
        if step % max(1, len(material.steps) // 4) == 0:
            rate = (time.monotonic() - began) / step
            shown = ", ".join(f"{name} {value:.3f}" for name, value in parts.items())
            logger.info("alignment     step %d of %d (%s), %.0f s left", step, len(material.steps), shown, rate * (len(material.steps) - step))  # fmt: skip

    history = minimise(
        parameters, loss_at, steps=len(material.steps), learning_rate=learning_rate, after_step=after_step
    )
    student.model.requires_grad_(False)
    return history


def compute(loaded: LoadedModel, rows: Rows, sites: Sequence[Site], *, states: bool, answers: bool) -> Forward:
    """One pass over the rows' tokens without padding, equal beginnings once, gradients as torch is set.

    It ends after the last position that is asked for, and after the last site when no answers are.
    """
    wanted = sites if states else ()
    until = max(site.layer for site in sites) if not answers else None
    lengths = (rows.answer_positions if answers else rows.state_positions).amax(-1) + 1
    sequences = [ids[:length] for ids, length in zip(rows.ids.tolist(), lengths.tolist(), strict=True)]
    plan = plan_for(loaded, sequences, [range(len(sequence)) for sequence in sequences])
    node = np.empty(plan.items, dtype=np.int64)  # of each token of each row, among the nodes of all batches
    passes, start = [], 0
    for batch in plan.batches:
        passes.append(run_batch(loaded, batch, plan.trie, sites=wanted, until=until))
        node[batch.item] = start + batch.row * batch.tokens.shape[1] + batch.node
        start += batch.tokens.size
    first = (lengths.cumsum(0) - lengths)[:, None]
    nodes = torch.from_numpy(node).to(rows.ids.device)
    picked = {
        site: torch.cat([found[site].flatten(0, 1) for found, _ in passes])[nodes[first + rows.state_positions]]
        for site in wanted
    }
    if not answers:
        return Forward(picked, None)
    hidden = torch.cat([output.last_hidden_state.flatten(0, 1) for _, output in passes])
    distinct, which = nodes[first + rows.answer_positions].unique(return_inverse=True)
    log_probabilities = logits_of(loaded, hidden[distinct]).float().log_softmax(-1)
    return Forward(picked, log_probabilities.index_select(0, which.flatten()).unflatten(0, which.shape))


@torch.no_grad()
def _freeze(loaded: LoadedModel, rows: Rows, drawn: list[int], sites: Sequence[Site], needs: frozenset[str]) -> Frozen:
    states, answers = "reference states" in needs, "reference answers" in needs
    place = {row: entry for entry, row in enumerate(drawn)}
    if not states and not answers:
        return Frozen(place)
    parts = []
    for start in range(0, len(drawn), 64):
        index = torch.tensor(drawn[start : start + 64])
        parts.append(compute(loaded, rows.pick(index).to(loaded.device), sites, states=states, answers=answers))
    together = Forward(
        {site: torch.cat([part.states[site] for part in parts]) for site in parts[0].states},
        torch.cat([part.log_probabilities for part in parts if part.log_probabilities is not None])
        if answers
        else None,
    )
    return Frozen(place, together)


def _reference_states(
    loaded: LoadedModel, rows: Rows, sentences: Sequence[Sequence[Question]], drawn: list[int], sites: Sequence[Site]
) -> dict[Site, Float[Tensor, "N R S D"]]:
    """States of other entities where the forget rows have theirs.

    Aligned at the name's last token; where the target's name is longer, its surplus first tokens take the other
    name's first.
    """
    prompts, wanted = [], []
    for row in drawn:
        offsets = rows.after_name[row].tolist()
        for question in sentences[row]:
            low, high = question.name_first, len(question.prompt) - 1
            prompts.append(question.prompt)
            wanted.append([min(high, max(low, question.name_last + offset)) for offset in offsets])
    states = read_sites(loaded, prompts, wanted, sites)
    count, positions = len(sentences[drawn[0]]), rows.state_positions.shape[1]
    return {site: state.view(len(drawn), count, positions, -1) for site, state in states.items()}


def _scale(
    frozen: Frozen, material: Material, drawn: list[int], sites: Sequence[Site]
) -> dict[Site, Float[Tensor, " D"]]:
    if frozen.forward is None or not frozen.forward.states:
        return {}
    mask = material.retain.state_mask[torch.tensor(drawn)].to(next(iter(frozen.forward.states.values())).device)
    return {site: frozen.forward.states[site][mask].var(0) for site in sites}


def _group(
    student: LoadedModel, rows: Rows, chosen: list[int], frozen: Frozen, sites: Sequence[Site], needs: frozenset[str]
) -> Group:
    picked = rows.pick(torch.tensor(chosen)).to(student.device)
    forward = compute(student, picked, sites, states="states" in needs, answers="answers" in needs)
    reference = None
    index = torch.tensor([frozen.place[row] for row in chosen], device=student.device)
    if frozen.forward is not None:
        known = frozen.forward
        answers = None if known.log_probabilities is None else known.log_probabilities[index]
        reference = Forward({site: state[index] for site, state in known.states.items()}, answers)
    others = ({site: state[index] for site, state in kind.items()} for kind in (frozen.unknown, frozen.known))
    return Group(picked, forward, reference, *others)
