"""Alignment: the seconds of one training step, ours against the step as it is usually run."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn

from storage.records import Site
from tasks.alignment.examples import Rows, make_rows
from tasks.alignment.material import Material
from tasks.alignment.method import Given, Trained
from tasks.alignment.methods.latent.sae_guided import SaeGuided
from tasks.alignment.methods.likelihood.grad_diff import GradDiff
from tasks.alignment.methods.representation.rmu import RMU
from tasks.alignment.sampler import Pools, Sizes
from tasks.alignment.samplers.shuffled import Shuffled
from tasks.alignment.settings import AlignmentSettings
from tasks.alignment.training import align_model, reference_answers
from tasks.benchmarks.harness import Claim, Run, Section, Variant, Watch
from tasks.benchmarks.usual import NPOWithDivergence, states_of_others, train_as_usual
from tasks.benchmarks.workload import EOS, PAD, Facts, Lexicon, Size, draw_workload
from tasks.models.forward import plan_for, read_sites
from tasks.models.load import LoadedModel
from tasks.models.prompts import Question
from tasks.models.sae import Autoencoder
from tasks.testbed.templates import RELATIONS

STEPS = 2
"""Timed steps of a run; one before them, which sets up the optimiser, is not timed."""
SENTENCES = 2
"""For each relation."""
LEARNING_RATE = 1e-4
SETTINGS = AlignmentSettings(learning_rate=LEARNING_RATE, steps=STEPS + 1)
OURS = "objective, two blocks, name, ours"
FLOOR, FLOOR_PRUNED = (
    "floor: matrix products of two blocks, forward and backward",
    "floor: the same, the last block where states are wanted only",
)
METHODS: dict[str, Trained] = {
    "sae_guided": SaeGuided(),
    "grad_diff": GradDiff(),
    "npo + kl": NPOWithDivergence(),
    "rmu": RMU(),
}
USUAL = "{}, whole model, reference every step"


def alignment_material(facts: Facts, size: Size) -> Material:
    """One target of each type, asked in two sentences a relation; others to retain; and for each target as many
    unknown and known names in its place as `sae_guided` takes."""
    references, types = METHODS["sae_guided"].references, len(RELATIONS)
    lexicon = Lexicon(size.vocabulary)
    asked = draw_workload(facts, lexicon, types * (1 + references) + size.retained, templates=SENTENCES)
    by_entity: dict[int, list[int]] = {}
    for row, entity in enumerate(asked.entity):
        by_entity.setdefault(entity, []).append(row)
    targets: list[int] = []
    retain: list[int] = []
    unknown: list[list[Question]] = []
    known: list[list[Question]] = []
    of_type: dict[tuple[str, ...], list[list[int]]] = {}
    for rows in by_entity.values():
        of_type.setdefault(tuple(asked.relation[row] for row in rows), []).append(rows)
    for first, *others in of_type.values():  # rows of two entities of a type are the same sentences in the same order
        strangers, kept = others[:references], others[references:]
        targets += first
        retain += [row for rows in kept for row in rows]
        for place in range(len(first)):
            unknown.append([asked.questions[rows[place]] for rows in strangers])
            known.append([asked.questions[rows[place]] for rows in kept[:references]])
    pools = Pools([("", "")] * len(targets), [("", "")] * len(retain), 0)
    sizes = Sizes(SETTINGS.forget_rows, SETTINGS.retain_rows, 0)
    draws = Shuffled().draw(pools, sizes, SETTINGS.steps, np.random.default_rng(0))
    steps = [{"forget": draw.forget, "retain": draw.retain} for draw in draws]

    def padded(chosen: Sequence[int]) -> Rows:
        questions = [asked.questions[row] for row in chosen]
        return make_rows(questions, [question.answers[0] for question in questions], EOS, PAD)

    return Material({"forget": padded(targets), "retain": padded(retain)}, unknown, known, steps)


def random_autoencoder(size: Size, seed: int = 0) -> Autoencoder:
    """One encoder of random directions, in the shape that a loss reads."""
    generator = torch.Generator().manual_seed(seed)
    decoder = torch.randn(size.latents, size.width, generator=generator)
    decoder /= decoder.norm(dim=-1, keepdim=True)
    return Autoencoder(
        SimpleNamespace(
            W_enc=decoder.T.contiguous(),
            b_enc=torch.zeros(size.latents),
            W_dec=decoder,
            cfg=SimpleNamespace(d_in=size.width, d_sae=size.latents),
            process_sae_in=lambda state: state,
        )
    )


def objective() -> SaeGuided:
    """Pull, push and states to retain: what needs no answers, so that nothing above the site is run."""
    guided = METHODS["sae_guided"]
    assert isinstance(guided, SaeGuided)
    return replace(guided, erase=0.0, retain_answers=0.0)


def alignment_variants(loaded: LoadedModel, size: Size, material: Material) -> list[Variant]:
    """Each method as usually run, then each by our loop, whose first loss must be the same; and the objective alone,
    training the site's block and the one below it, at the name and at all positions that the method takes."""
    layer = size.site.layer
    two = replace(SETTINGS, layers=tuple(range(max(0, layer - 1), layer + 1)))
    short = replace(material, groups={name: at_names(rows) for name, rows in material.groups.items()})
    kinds = [
        *((name, name, method, material, SETTINGS, True) for name, method in METHODS.items()),
        ("objective", "objective, two blocks, prompt", objective(), material, two, False),
        ("objective at the name", "objective, two blocks, name", objective(), short, two, False),
    ]
    usual, ours = [], []
    for plain, own, method, rows, settings, timed in kinds:
        given = _given(loaded, size, rows)
        name = USUAL.format(plain)
        usual.append(Variant(name, partial(_usual, loaded, method, rows, given, timed), per=STEPS, timed=timed))
        ours.append(
            Variant(f"{own}, ours", partial(_ours, loaded, method, rows, given, settings), name, 1e-3, per=STEPS)
        )
    floors = [
        Variant(name, partial(_products, loaded, size, short, pruned), per=STEPS)
        for name, pruned in ((FLOOR, False), (FLOOR_PRUNED, True))
    ]
    return [*usual, *ours, *floors]


def at_names(rows: Rows) -> Rows:
    """The rows with states wanted at the name's tokens only."""
    mask = rows.state_mask & (rows.after_name <= 0)
    return replace(rows, state_mask=mask, state_positions=rows.state_positions * mask)


def describe_alignment(size: Size, material: Material) -> Section:
    forget, retain = (
        [int(material.groups[name].mask[step[name]].sum()) for step in material.steps[1:]]
        for name in ("forget", "retain")
    )
    return Section(
        "Alignment",
        f"{len(material.steps[0]['forget'])} forget and {len(material.steps[0]['retain'])} retain rows a step, "
        f"{sum(forget) / STEPS:.0f} and {sum(retain) / STEPS:.0f} tokens without padding; states after block "
        f"{size.site.layer + 1} of {size.layers}, {size.latents} latents",
        OURS,
        unit="step",
        remarks=("the error is that of the first step's loss; the methods are different computations",),
    )


def with_claims(section: Section) -> Section:
    """The section with what its rows come to."""
    usual = {"npo + kl": (18, 27), "grad_diff": (13, 19), "rmu": (8, 11)}
    return replace(
        section,
        claims=(
            *(Claim(f"objective, against {name} as usual", section.ratio(USUAL.format(name), OURS), *limits) for name, limits in usual.items()),
            *(Claim(f"{name}, against itself as usual", section.ratio(USUAL.format(name), f"{name}, ours"), None) for name in METHODS),
            Claim("over its own floor", section.ratio(OURS, FLOOR), 2.2, 1.8, True),
            Claim("over its own floor, the last block pruned", section.ratio(OURS, FLOOR_PRUNED), None, 2.5, True),
        ),
    )  # fmt: skip


def loss_error(expected: Sequence[Mapping[str, float]], found: Sequence[Mapping[str, float]]) -> float:
    """Relative error of the first step's loss parts, in units of the largest of them.

    Later ones differ: the usual step trains the embeddings too.
    """
    first, other = expected[0], found[0]
    size = max(abs(value) for value in first.values())
    return max(abs(other[name] - value) for name, value in first.items()) / size


def _ours(loaded: LoadedModel, method: Trained, material: Material, given: Given, settings: AlignmentSettings) -> Run:
    def run(watch: Watch) -> list[dict[str, float]]:
        student = replace(loaded, model=copy.deepcopy(loaded.model))

        def report(step: int, _: Mapping[str, float]) -> None:
            if step == 1:
                watch.restart()
            elif step == len(material.steps):
                watch.stop()

        return align_model(
            student, method, material, given.autoencoders, given.latents, settings, report=report
        ).history  # fmt: skip

    return run


def _products(loaded: LoadedModel, size: Size, material: Material, pruned: bool) -> Run:
    """The linear maps of the site's block and the one below on the shapes of our steps' batches: forward, and both
    gradients. `pruned`: in the last block all but keys and values are made where states are wanted only."""
    layer = size.site.layer
    blocks = [loaded.blocks[number] for number in range(max(0, layer - 1), layer + 1)]
    work: list[tuple[Tensor, Tensor, Tensor]] = []
    for step in material.steps[1:]:
        for name, chosen in step.items():
            rows = material.groups[name].pick(torch.tensor(chosen))
            wanted = [at[real].tolist() for at, real in zip(rows.state_positions, rows.state_mask, strict=True)]
            for batch in plan_for(loaded, rows.ids.tolist(), wanted).batches:
                kept = len(np.unique(batch.row * batch.tokens.shape[1] + batch.node))
                for block in blocks:
                    for part, linear in block.named_modules():
                        if isinstance(linear, nn.Linear):
                            few = pruned and block is blocks[-1] and not part.endswith(("k_proj", "v_proj"))
                            count = kept if few else batch.tokens.size
                            weight = linear.weight.detach()
                            work.append((torch.randn(count, weight.shape[1]), torch.randn(count, len(weight)), weight))

    @torch.no_grad()
    def run(_: Watch) -> None:
        for x, gradient, weight in work:
            x @ weight.T
            gradient @ weight
            gradient.T @ x

    return run


def _usual(loaded: LoadedModel, method: Trained, material: Material, given: Given, timed: bool = True) -> Run:
    """Not `timed`: the first step alone, for its loss."""
    if not timed:
        material = replace(material, steps=material.steps[:1])
    # Even the usual way computes these once: they are many, and no step changes them.
    others = [
        states_of_others(loaded.model, material.groups["forget"], names, given.sites) if method.references else {}
        for names in (material.unknown, material.known)
    ]
    forget = material.groups["forget"]
    wants = "unknown answers" in method.reads["forget"]
    strangers = reference_answers(loaded, forget, material.unknown, list(range(len(forget)))) if wants else None
    return lambda watch: train_as_usual(loaded, method, material, given, LEARNING_RATE, watch, others, strangers)


def _given(loaded: LoadedModel, size: Size, material: Material) -> Given:
    """What a loss is given, the scale of the retain states among it, as our loop computes it."""
    site: Site = size.site
    rows = material.groups["retain"]
    drawn = sorted({row for step in material.steps for row in step["retain"]})
    sequences = [rows.ids[row][rows.mask[row] > 0].tolist() for row in drawn]
    wanted = [rows.state_positions[row][rows.state_mask[row]].tolist() for row in drawn]
    states = read_sites(loaded, sequences, wanted, [site])[site]
    return Given((site,), {site: random_autoencoder(size)}, {}, {site: states.var(0)}, seed=0)
