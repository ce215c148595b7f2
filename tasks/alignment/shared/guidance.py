"""Alignment: toward unknown entities, away from the former self, everything else in place; in a space of one's choice.

    L = pull · E ‖z - z_u‖² / E‖z_u‖²  +  push · E relu(1 - ‖z - z_old‖² / E‖z_u‖²)                  (mean over the sites)
        + answers · E KL(p_u ‖ p)  +  erase · E KL(p_u ‖ p_restored)  +  retain_states · R_hid + retain_answers · R_kl

z is the target's place in the space, z_u an unknown entity's in the same sentence, z_old the target's own former place;
p_u is the mean next-token distribution of unknown entities, p the student's about the target, and p_restored the
student's when its states at the last site are those of the starting model: what the upper blocks would still answer if
the lower ones were led back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from storage.records import Site
from tasks.alignment.method import Batch, Given, Group, Loss, Start
from tasks.alignment.terms import retain_divergence, retain_states, unknown_divergence

Space = Callable[[Given, Site, Tensor], Tensor]
"""(given, site, states `*B D`) -> places `*B K`."""
TERMS = ("pull", "push", "answers", "erase", "retain_states", "retain_answers")
REFERENCES = ("mean", "alias", "centred", "distribution")
"""What stands for unknown; see `unknown_reference`, and `energy_distance` for the last."""


def guided_needs(weights: Mapping[str, float]) -> dict[str, frozenset[str]]:
    """What a guided loss reads: without weight on answers, no row is run past the last site."""
    forget, retain = {"states", "reference states"}, set()
    if weights["answers"]:
        forget |= {"answers", "unknown answers"}
    if weights["erase"]:
        forget |= {"restored answers", "unknown answers"}
    for kind in ("states", "answers"):
        if weights[f"retain_{kind}"]:
            retain |= {kind, f"reference {kind}"}
    return {"forget": frozenset(forget), "retain": frozenset(retain)}


ALL_NEEDS = guided_needs(dict.fromkeys(TERMS, 1.0))

Goals = Mapping[Site, Sequence[tuple[Tensor, Tensor]]]
"""Site -> for each forget row its former place and where it is to lie, both `s K`, at the positions that count."""


@torch.no_grad()
def prepared_goals(start: Start, space: Space, reference: str) -> Goals | None:
    """The goals of every row that will be drawn: two dozen strangers a position are looked at once instead of in each
    step. None where the loss needs the strangers themselves."""
    if reference == "distribution":
        return None
    forget = start.groups["forget"]
    rows = [slice(row, row + 1) for row in range(len(forget.rows))]
    return {
        site: [_goals(forget, row, start.given, site, space, reference) for row in rows] for site in start.given.sites
    }


def _goals(
    forget: Group, rows: slice, given: Given, site: Site, space: Space, reference: str
) -> tuple[Float[Tensor, "N K"], Float[Tensor, "N K"]]:
    """Former places of some rows, and where they are to lie."""
    assert forget.reference is not None
    mask = forget.rows.state_mask[rows]
    old = space(given, site, forget.reference.states[site][rows][mask])
    unknown, known = (
        space(given, site, each[site][rows].transpose(1, 2)[mask]) for each in (forget.unknown, forget.known)
    )
    return old, unknown_reference(unknown, known, "alias" if reference == "distribution" else reference)


def guided_loss(
    batch: Batch, given: Given, space: Space, weights: Mapping[str, float], reference: str, goals: Goals | None = None
) -> Loss:
    """The loss above; `weights` by the names of TERMS, a term without weight is not computed.

    goals  of `prepared_goals`; None: looked up in the batch, which is the same and slower.
    """
    forget, retain = batch["forget"], batch["retain"]
    pulls, pushes = [], []
    mask = forget.rows.state_mask
    for site in given.sites:
        now = space(given, site, forget.student.states[site][mask])
        with torch.no_grad():
            if goals is None:
                old, unknown = _goals(forget, slice(None), given, site, space, reference)
            else:
                assert forget.index is not None
                chosen = [goals[site][row] for row in forget.index.tolist()]
                old, unknown = (torch.cat(each) for each in zip(*chosen, strict=True))
            size = unknown.pow(2).sum(-1).mean()
        if reference == "distribution":
            strangers = space(given, site, forget.unknown[site].transpose(1, 2)[mask])
            pulls.append(energy_distance(now, strangers.flatten(0, 1)) / size.sqrt())
        else:
            pulls.append(squared_distance(now, unknown).mean() / size)
        pushes.append((1 - squared_distance(now, old) / size).relu().mean())
    parts = {"pull": torch.stack(pulls).mean(), "push": torch.stack(pushes).mean()}
    if weights["retain_states"]:
        parts["retain_states"] = retain_states(retain, given)
    if weights["retain_answers"]:
        parts["retain_answers"] = retain_divergence(retain)
    if weights["answers"]:
        parts["answers"] = unknown_divergence(forget)
    if weights["erase"]:
        assert forget.restored is not None
        parts["erase"] = unknown_divergence(forget, forget.restored)
    total = sum((weights[name] * part for name, part in parts.items()), start=torch.zeros(()))
    return Loss(total, parts)


def unknown_reference(
    unknown: Float[Tensor, "N R K"], known: Float[Tensor, "N R K"], kind: str
) -> Float[Tensor, "N K"]:
    """Where a forgotten entity is to lie: at the `mean` of the unknown ones, at the first of them (`alias`), or there
    with its place between unknown and known taken from the mean (`centred`)."""
    mean, alias = unknown.mean(1), unknown[:, 0]
    if kind == "mean":
        return mean
    if kind == "alias":
        return alias
    knownness = torch.nn.functional.normalize(known.mean(1) - mean, dim=-1)
    away = alias - mean
    return mean + away - (away * knownness).sum(-1, keepdim=True) * knownness


def energy_distance(x: Float[Tensor, "N K"], y: Float[Tensor, "M K"]) -> Float[Tensor, ""]:
    """2 E‖x - y‖ - E‖x - x'‖ - E‖y - y'‖, 0 when both are drawn from one distribution; in units of the space.

    Source: Székely and Rizzo 2013, Journal of Statistical Planning and Inference 143.
    """
    own, other = torch.cdist(x, x), torch.cdist(y, y)
    pairs = len(x) * (len(x) - 1), len(y) * (len(y) - 1)
    return 2 * torch.cdist(x, y).mean() - own.sum() / max(1, pairs[0]) - other.sum() / max(1, pairs[1])


def squared_distance(a: Float[Tensor, "*B K"], b: Float[Tensor, "*B K"]) -> Float[Tensor, "*B"]:
    return (a - b).pow(2).sum(-1)


def dense_latents(given: Given, site: Site, state: Float[Tensor, "*B D"]) -> Float[Tensor, "*B K"]:
    """relu of the pre-activations of every latent.

    Not the sparse activations: through those no gradient reaches a latent that is off, so none could be switched on.
    """
    return given.autoencoders[site].pre_activations(state).relu()


def selected_latents(given: Given, site: Site, state: Float[Tensor, "*B D"]) -> Float[Tensor, "*B k"]:
    """relu of the pre-activations of the latents that stand for known and for unknown entities."""
    chosen = given.latents[site]
    return _some_latents(given, site, state, [*chosen["known"], *chosen["unknown"]])


def drawn_latents(given: Given, site: Site, state: Float[Tensor, "*B D"]) -> Float[Tensor, "*B k"]:
    """The same of as many latents that `prepared` names at the site."""
    return _some_latents(given, site, state, given.prepared[site])


def raw_states(given: Given, site: Site, state: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
    """The residual stream itself."""
    return state


def _some_latents(given: Given, site: Site, state: Tensor, latents: list[int]) -> Tensor:
    chosen = torch.tensor(latents, device=state.device, dtype=torch.long)
    return given.autoencoders[site].pre_activations(state, chosen).relu()
