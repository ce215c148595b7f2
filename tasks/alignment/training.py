"""Align: the student is trained on the rows of each step; what the frozen starting model says is computed once."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from storage.records import Site, UsageError
from tasks.alignment.examples import Rows, make_rows
from tasks.alignment.material import Material
from tasks.alignment.method import Edit, Forward, Given, Group, Method, Start, Trained
from tasks.alignment.parameters import training_parameters
from tasks.alignment.passes import Asked, Below, compute, compute_together, read_below
from tasks.alignment.projection import GeometricProjection
from tasks.alignment.settings import AlignmentSettings
from tasks.alignment.stopping import stop_rule
from tasks.alignment.terms import retain_likelihood
from tasks.models.adapters import Keeping
from tasks.models.forward import distributions_of, read_sites, recomputed
from tasks.models.intervention import detach
from tasks.models.load import LoadedModel
from tasks.models.prompts import Question
from tasks.models.sae import Autoencoder
from tasks.models.train import Loss, minimise, never, nothing_else_moves, plain_update

if TYPE_CHECKING:
    from tasks.models.intervention import Intervention, Offset

logger = logging.getLogger("sae_unlearn")

AT_ONCE = 64
"""Rows run together while the starting model is read."""
OTHER_ANSWERS = ("refusal", "alternative")
"""Groups of which equally many rows stand beside each forget row."""


@dataclass(eq=False)
class Frozen:
    """What the starting model computed on a group's rows, kept on the device; `place` maps a row to its entry."""

    place: dict[int, int] = field(default_factory=dict)
    forward: Forward | None = None
    unknown: dict[Site, Float[Tensor, "N R S D"]] = field(default_factory=dict)
    known: dict[Site, Float[Tensor, "N R S D"]] = field(default_factory=dict)
    unknown_answers: Float[Tensor, "N A V"] | None = None
    below: Below | None = None
    """What the frozen blocks below those that train make of the rows."""


@dataclass(frozen=True)
class Aligned:
    """What became of a run."""

    history: list[dict[str, float]]
    """Each step's loss parts; empty for an edit."""
    intervention: Intervention | Offset | None = None
    """What is to be done at every pass of the model from now on, if anything."""


def align_model(
    student: LoadedModel,
    method: Method,
    material: Material,
    autoencoders: Mapping[Site, Autoencoder],
    latents: Mapping[Site, Mapping[str, list[int]]],
    settings: AlignmentSettings,
    *,
    report: Callable[[int, Mapping[str, float]], None] = lambda step, parts: None,
    keep: Keeping | None = None,
) -> Aligned:
    """Make the student forget, in place.

    keep  where an adapter that was trained is written to.

    No second model is held: the starting model's states on the rows that will be drawn are computed before the first
    step, and what it answers follows from them, because the head never trains. Where adapters train, passes with these
    switched off would give the same, and take a forward pass of every group in every step for what is computed here once
    a row; and weights have no such switch.

    Raises: UsageError for a step with fewer rows than parts; ArithmeticError when the loss is not finite or nothing
    moved that was to train.
    """
    _check_rows(material.steps, method, settings)
    given_sites = tuple(sorted(autoencoders, key=lambda site: site.layer))
    sites = method.sites(given_sites, len(student.blocks))
    drawn = {name: sorted({row for step in material.steps for row in step[name]}) for name in material.steps[0]}
    frozen = {name: _freeze(student, material, name, rows, sites, method) for name, rows in drawn.items()}
    seed, steps = settings.seed, len(material.steps)
    given = Given(sites, autoencoders, latents, _scale(frozen.get("retain"), material, drawn, sites), seed, steps)

    def run(rows: Rows, where: Sequence[Site] = sites, *, states: bool = True, answers: bool = True) -> Forward:
        return compute(student, rows.to(student.device), where, states=states, answers=answers)

    start = Start(student, _starting_groups(student, material, drawn, frozen), given, run)
    if isinstance(method, Edit):
        return Aligned([], method.edit(start))
    assert isinstance(method, Trained)
    found = student.intervention
    given = dataclasses.replace(given, prepared=method.prepare(start))
    with (
        training_parameters(student, method, given_sites, settings, keep) as parameters,
        nothing_else_moves(student.model, parameters.values()),
        recomputed(student) if settings.checkpointing else contextlib.nullcontext(),
    ):
        trained = list(parameters.values())
        keeps = type(method).finish is not Trained.finish
        before = {name: parameter.detach().clone() for name, parameter in parameters.items()} if keeps else {}
        read = {name: rows for name, rows in drawn.items() if name in method.reads}
        picked = {name: material.groups[name].pick(torch.tensor(rows)) for name, rows in read.items()}
        below = read_below(student, {name: rows.to(student.device) for name, rows in picked.items()}, sites)
        for name, kept in below.items():
            frozen[name].below = kept

        def loss_at(step: int, part: int = 0) -> Loss:
            chosen = _part(material.steps[step], part, settings.accumulation)
            rows = {name: chosen[name] for name in chosen if name in method.reads}
            batch = _run_groups(student, material.groups, rows, frozen, sites, method.reads)
            return method.loss(batch, dataclasses.replace(given, step=step))

        def retain_loss(step: int) -> Tensor:
            rows, kept = {"retain": material.steps[step]["retain"]}, frozen["retain"]
            only, answers = {"retain": Frozen(kept.place, below=kept.below)}, {"retain": frozenset({"answers"})}
            return retain_likelihood(_run_groups(student, material.groups, rows, only, sites, answers)["retain"])

        projected = settings.projection == "geometric"
        update = GeometricProjection(trained, retain_loss).update if projected else plain_update
        enough: Callable[[int], bool] = never
        if material.validation:
            enough = stop_rule(settings.stop, student, material.validation, sites, settings.stop_interval)
        history = minimise(
            trained,
            loss_at,
            steps=steps,
            learning_rate=settings.learning_rate or method.learning_rate,
            accumulation=settings.accumulation,
            after_step=_progress(steps, report),
            shape_gradients=lambda step: method.shape_gradients(parameters, dataclasses.replace(given, step=step)),
            update=update,
            enough=enough,
        )
        with torch.no_grad():
            method.finish(parameters, before, given)
    made = student.intervention
    if made is found:
        return Aligned(history)
    detach(student)
    return Aligned(history, made)


def _progress(
    steps: int, report: Callable[[int, Mapping[str, float]], None]
) -> Callable[[int, Mapping[str, float]], None]:
    began = time.monotonic()

    def after_step(step: int, parts: Mapping[str, float]) -> None:
        report(step, parts)
        if step % max(1, steps // 4) == 0:
            rate = (time.monotonic() - began) / step
            shown = ", ".join(f"{name} {value:.3f}" for name, value in parts.items())
            logger.info("alignment     step %d of %d (%s), %.0f s left", step, steps, shown, rate * (steps - step))

    return after_step


def _check_rows(steps: Sequence[Mapping[str, list[int]]], method: Method, settings: AlignmentSettings) -> None:
    """That no part of a step is left without rows, whose mean is no number."""
    for name in steps[0]:
        needed = settings.accumulation if name in method.reads and isinstance(method, Trained) else 1
        of = "forget" if name in OTHER_ANSWERS else name
        fewest = min(len(step[of]) for step in steps)
        if fewest < needed:
            raise UsageError(
                f"[alignment] a step has {fewest} {of} rows, and at least {needed} are expected where accumulation = "
                f"{settings.accumulation}; lower accumulation, raise {of}_rows, or use a larger world"
            )


def _part(step: Mapping[str, list[int]], part: int, parts: int) -> dict[str, list[int]]:
    """One of so many equal parts of a step's rows, as nearly as they can be divided; other answers stay beside their
    forget question."""
    found = {}
    for name, rows in step.items():
        beside = len(rows) // len(step["forget"]) if name in OTHER_ANSWERS else 1
        count = len(rows) // beside
        found[name] = rows[count * part // parts * beside : count * (part + 1) // parts * beside]
    return found


@torch.no_grad()
def _freeze(
    loaded: LoadedModel, material: Material, name: str, drawn: list[int], sites: Sequence[Site], method: Method
) -> Frozen:
    """What the method needs of the starting model on the rows of a group."""
    rows, needs = material.groups[name], method.reads.get(name, frozenset())
    frozen = Frozen({row: entry for entry, row in enumerate(drawn)})
    states, answers = "reference states" in needs, "reference answers" in needs
    if states or answers:
        frozen.forward = _in_parts(loaded, rows, drawn, sites, states=states, answers=answers)
    if name == "forget" and method.references:
        frozen.unknown = _reference_states(loaded, rows, material.unknown, drawn, sites)
        frozen.known = _reference_states(loaded, rows, material.known, drawn, sites)
    if "unknown answers" in needs:
        frozen.unknown_answers = reference_answers(loaded, rows, material.unknown, drawn)
    return frozen


def _in_parts(
    loaded: LoadedModel, rows: Rows, drawn: Sequence[int], sites: Sequence[Site], *, states: bool, answers: bool
) -> Forward:
    """Answers are kept as the states that the head reads: of a large vocabulary a hundredth of the distributions."""
    parts = []
    for start in range(0, len(drawn), AT_ONCE):
        index = torch.tensor(drawn[start : start + AT_ONCE])
        # Untrimmed, so that the parts have equally many positions.
        asked = Asked(rows.pick(index).to(loaded.device), states, answers)
        parts += compute_together(loaded, [asked], sites, distributions=False)
    final = [part.final for part in parts if part.final is not None]
    return Forward(
        {site: torch.cat([part.states[site] for part in parts]) for site in parts[0].states},
        None,
        torch.cat(final) if final else None,
    )


def reference_answers(
    loaded: LoadedModel, rows: Rows, sentences: Sequence[Sequence[Question]], drawn: list[int]
) -> Float[Tensor, "N A V"]:
    """log of the mean next-token probability over the other entities, each row's own answer forced.

    The mean of the probabilities, not of their logarithms: what is not known of one is not known of all.
    """
    count, positions = len(sentences[drawn[0]]), rows.answer_positions.shape[1]
    means = []
    for row in drawn:
        length = int(rows.answer_mask[row].sum())
        answer = tuple(rows.answer_tokens[row, :length].tolist())
        forced = make_rows(sentences[row], [answer] * count, int(rows.answer_tokens[row, length]), 0)
        found = compute(loaded, forced.to(loaded.device), (), states=False, answers=True).log_probabilities
        assert found is not None
        mean = found.logsumexp(0) - np.log(count)
        means.append(torch.nn.functional.pad(mean, (0, 0, 0, positions - len(mean))))
    return torch.stack(means)


@torch.no_grad()
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
    frozen: Frozen | None, material: Material, drawn: Mapping[str, list[int]], sites: Sequence[Site]
) -> dict[Site, Float[Tensor, " D"]]:
    """Variance of each coordinate over the retain states; {} where nobody asked for those."""
    if frozen is None or frozen.forward is None or not frozen.forward.states:
        return {}
    mask = material.groups["retain"].state_mask[torch.tensor(drawn["retain"])]
    mask = mask.to(next(iter(frozen.forward.states.values())).device)
    return {site: frozen.forward.states[site][mask].var(0) for site in sites}


def _starting_groups(
    student: LoadedModel, material: Material, drawn: Mapping[str, list[int]], frozen: Mapping[str, Frozen]
) -> dict[str, Group]:
    """Every drawn row, with what is known of it before the first step."""
    groups = {}
    for name, each in frozen.items():
        forward = Forward({} if each.forward is None else each.forward.states, None)
        rows = material.groups[name].pick(torch.tensor(drawn[name])).to(student.device)
        index = torch.arange(len(drawn[name]), device=student.device)
        groups[name] = Group(rows, forward, forward, each.unknown, each.known, each.unknown_answers, index)
    return groups


def _run_groups(
    student: LoadedModel,
    groups: Mapping[str, Rows],
    chosen: Mapping[str, list[int]],
    frozen: Mapping[str, Frozen],
    sites: Sequence[Site],
    needs: Mapping[str, frozenset[str]],
) -> dict[str, Group]:
    """The chosen rows of each group, what the student makes of them, and what the starting model did where that was kept.

    Groups of which answers are wanted are run in one pass, and so are those of which states alone are; those whose
    starting states are restored run by themselves.
    """
    before = {name: _before(student, groups[name], rows, frozen[name]) for name, rows in chosen.items()}
    asked = {}
    for name, group in before.items():
        below = frozen[name].below
        if below is not None:
            assert group.index is not None
            below = below.of(group.index)
        asked[name] = Asked(group.rows, "states" in needs[name], "answers" in needs[name], below)
    found: dict[str, Group] = {}
    for name, group in before.items():
        if "restored answers" in needs[name]:
            assert group.reference is not None
            # What lies below the restored site is the same in both passes: without answers of its own, one does.
            own = asked[name].answers
            former = (sites[-1], group.reference.states[sites[-1]])
            request = dataclasses.replace(
                asked[name], states=asked[name].states and not own, answers=True, restored=former
            )
            (restored,) = compute_together(student, [request], sites)
            found[name] = dataclasses.replace(group, student=Forward(restored.states, None), restored=restored)
            if not own:
                del asked[name]
    for answers in (True, False):
        together = {name: each for name, each in asked.items() if each.answers is answers}
        if together:
            for name, forward in zip(together, compute_together(student, list(together.values()), sites), strict=True):
                found[name] = dataclasses.replace(found.get(name, before[name]), student=forward)
    return {name: found[name] for name in chosen}


def _before(student: LoadedModel, rows: Rows, chosen: list[int], frozen: Frozen) -> Group:
    """The chosen rows and what is kept of the starting model's; of the student's, nothing yet."""
    picked = rows.pick(torch.tensor(chosen)).to(student.device)
    index = torch.tensor([frozen.place[row] for row in chosen], device=student.device)
    reference = None
    if frozen.forward is not None:
        before, log_p = frozen.forward, None
        if before.final is not None:
            with torch.no_grad():
                log_p = distributions_of(student, before.final[index])
        reference = Forward({site: state[index] for site, state in before.states.items()}, log_p)
    unknown, known = ({site: state[index] for site, state in kind.items()} for kind in (frozen.unknown, frozen.known))
    strangers = None if frozen.unknown_answers is None else frozen.unknown_answers[index]
    return Group(picked, Forward({}, None), reference, unknown, known, strangers, index)
