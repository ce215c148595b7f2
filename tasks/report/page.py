"""The page a person reads: figures, answers, scores and where they come from, in one file without a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from tasks.report import summary
from tasks.report.evidence import Evidence, caveats, read_evidence, weighed
from tasks.report.figures import overview, recovery
from tasks.report.figures.look import styled, to_png, to_svg
from tasks.report.figures.map import draw_map
from tasks.report.latent_map import Encoder, Entities, LatentMap, draw_coordinates, knownness_gap
from tasks.report.moved import MovedLatent, moved_latents
from tasks.report.score_table import score_table
from tasks.report.scoring import MODELS, Scores, number, percent, site_words

FOLDER = Path(__file__).resolve().parent
FILES = ("page.html", "page.css")
LAYOUT = "3d99b60dd682e692"
"""Digest of those files. They are no code, so the stage's key would not see a change in them; a test keeps this right."""


@dataclass(frozen=True)
class Material:
    """All that the page shows, as columns of the stages' tables. Models are base, unlearned and, maybe, gold."""

    method: str
    targets: tuple[str, ...]
    who: Entities
    questions: Mapping[str, Any]
    scores: Mapping[str, Any]
    training: Mapping[str, Any]
    selection: Mapping[str, Any]
    verdict: str
    """One word, or two."""
    evidence: Mapping[str, Any]
    """Every measure beside its threshold."""
    answers: Mapping[str, Mapping[str, Any]]
    states: Mapping[str, Mapping[str, Any]]
    """At the last prompt token of held-out questions."""
    relearning: Mapping[str, Mapping[str, Any]]
    dense: Mapping[str, Encoder]
    """Site -> latents before the gate: the space of the map."""
    active: Mapping[str, Encoder]
    """Site -> latents as they fire."""
    provenance: Provenance
    facts: str = ""
    """Where the facts are from, in a sentence; "" for the testbed's own."""


@dataclass(frozen=True)
class Provenance:
    """What made the page: no clock, no path of a machine."""

    stages: tuple[tuple[str, str, str], ...]
    """(stage, key, content)."""
    settings: tuple[tuple[str, str], ...]
    versions: tuple[tuple[str, str], ...]
    model: str
    """Folder of the unlearned model, below the home."""


@dataclass(frozen=True)
class Shown:
    """A figure on the page: what to see in it, in a sentence or two."""

    name: str
    title: str
    caption: str
    svg: Markup


def make_page(material: Material, examples: int, latents: int) -> tuple[str, dict[str, bytes]]:
    """The page as HTML, and its figures as PNG by name. The same material gives the same bytes."""
    scores, evidence = Scores(material.scores), read_evidence(material.evidence)
    found = find_map(material)
    moved = moved_latents(material.states, material.active, material.who, material.selection, latents)
    shown: dict[str, Shown] = {}
    images: dict[str, bytes] = {}
    with styled():
        for name, title, caption, figure in _figures(material, scores, evidence, found, moved):
            if figure is not None:
                images[name] = to_png(figure)
                shown[name] = Shown(name, title, caption, Markup(to_svg(figure, name, f"{title}. {caption}")))
    claims = summary.make_claims(scores, material.targets)
    page = (
        _environment()
        .get_template("page.html")
        .render(
            layout=LAYOUT,
            css=Markup((FOLDER / "page.css").read_text(encoding="utf-8")),
            targets=material.targets,
            facts=material.facts,
            method=material.method,
            has_gold="gold" in material.answers,
            verdict=material.verdict,
            headline=summary.headline(material.verdict, evidence),
            caveats=caveats(evidence, scores),
            evidence=weighed(evidence, scores),
            claims=claims,
            gauges=summary.make_gauges(scores),
            figures=shown,
            examples=_examples(material, ("target",), examples),
            neighbours=_examples(material, ("neighbour",), max(1, examples // 2)),
            table=score_table(scores),
            latents=moved,
            provenance=material.provenance,
        )
    )
    return page, images


def find_map(material: Material) -> LatentMap | None:
    """The map of the site at which the base model tells known from unknown best: chosen before unlearning."""
    gaps = {site: knownness_gap(material.states["base"], site, material.who) for site in sorted(material.dense)}
    for site in sorted(gaps, key=lambda site: (-round(gaps[site], 6), site)):
        found = draw_coordinates(material.states, site, material.dense[site], material.who)
        if found is not None:
            return found
    return None


def _figures(
    material: Material,
    scores: Scores,
    evidence: Sequence[Evidence],
    found: LatentMap | None,
    moved: Sequence[MovedLatent],
) -> list[tuple[str, str, str, Figure | None]]:
    than = "in the gold twin" if "gold" in material.answers else "a model that never knew could learn it"
    asked, stressed = recovery.ways_of_asking(scores, evidence), recovery.stresses(scores, evidence)
    drawn = draw_map(found, dict(material.who.names)) if found is not None else None
    return [
        ("map", "Where the target stands", _map_caption(found), drawn),
        ("scores", "Forgotten, and kept", "Left is forgotten. The targets should move there; neighbours and other known entities should stay where they were.", overview.draw_scores(scores)),
        ("asking", "Does another question bring it back?", recovery.caption_of_asking(asked), recovery.draw_ways(asked)),
        ("stresses", "Does stress bring it back?", recovery.caption_of_stresses(stressed), recovery.draw_ways(stressed, guides=True)),
        ("relearning", "Does relearning bring it back?", f"Half of the facts are taught again, to each model at the learning rate that brings back most; the large mark is its best step. If the other half returns faster than {than}, it was hidden, not removed.", overview.draw_relearning(material.relearning, scores)),
        ("knownness", "Known or unknown, layer by layer", "AUROC of the targets against unknown entities. On the line they cannot be told apart; above it they look known; below, conspicuously unknown. Pale: the base model could not tell either.", overview.draw_knownness(scores)),
        ("depth", "Is the answer still inside?", recovery.caption_of_depth(scores), recovery.draw_depth(scores)),
        ("training", "How it was trained", "The parts of the loss, each on its own scale; beside them the first and last value.", overview.draw_training(material.training)),
        ("latents", "Latents that moved", "Blue and red bars: where the latent stands for the mean known and the mean unknown entity.", overview.draw_latents(moved)),
    ]  # fmt: skip


def _map_caption(found: LatentMap | None) -> str:
    if found is None:
        return ""
    kinds = f" of type {' and '.join(found.types)}" if found.types else ""
    text = f"Entities{kinds} in the latent space of {site_words(found.site)}, by mean over unseen wordings; the axes were fitted on other entities, before unlearning. "
    text += "An arrow leads from each target before to after; tails show how far known entities were dragged along"
    text += (
        f" (half of them less than {percent(found.spill)} as far as the targets)." if np.isfinite(found.spill) else "."
    )
    if found.agreement is not None and not found.targets.get("gold"):
        text += " The gold twin is left out: its space could not be matched to this one."
    elif found.targets.get("gold"):
        text += " The gold twin's space was turned onto this one."
    return text


@dataclass(frozen=True)
class Example:
    """One question and what each model says."""

    before_name: str
    name: str
    after_name: str
    truth: str
    said: Mapping[str, tuple[str, bool, float]]
    """model -> (what it says, whether that is right, probability of the true answer)."""


def _examples(material: Material, roles: tuple[str, ...], count: int) -> list[Example]:
    """Held-out questions about entities of these roles, taken in turn from the relations and the entities."""
    questions = material.questions
    chosen = set(material.who.with_role(*roles))
    tables = {
        model: {int(q): row for row, q in enumerate(columns["question"])} for model, columns in material.answers.items()
    }
    waiting: dict[str, list[tuple[int, str]]] = {}
    for row, entity in enumerate(questions["entity"]):
        question = int(questions["question"][row])
        if entity in chosen and questions["held_out"][row] and all(question in table for table in tables.values()):
            waiting.setdefault(str(questions["relation"][row]), []).append((row, str(entity)))
    taken: list[int] = []
    shown: dict[str, int] = {}
    while len(taken) < count and any(waiting.values()):
        for relation in sorted(waiting):
            if waiting[relation] and len(taken) < count:
                row, entity = min(waiting[relation], key=lambda item: (shown.get(item[1], 0), item))
                waiting[relation].remove((row, entity))
                shown[entity] = shown.get(entity, 0) + 1
                taken.append(row)
    return [_example(material, row, tables) for row in taken]


def _example(material: Material, row: int, tables: Mapping[str, Mapping[int, int]]) -> Example:
    questions = material.questions
    prompt, start, end = (
        str(questions["prompt"][row]),
        int(questions["name_start"][row]),
        int(questions["name_end"][row]),
    )
    said = {}
    for model in MODELS:
        if model in tables:
            columns, place = material.answers[model], tables[model][int(questions["question"][row])]
            text, hit = str(columns["generated"][place]).strip(), bool(columns["hit"][place])
            said[model] = (
                text or ("as it should be" if hit else "something else"),
                hit,
                float(np.exp(columns["log_probability"][place])),
            )
    return Example(prompt[:start], prompt[start:end], prompt[end:], str(questions["answers"][row][0]), said)


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "percent": percent, "site_words": site_words}
    return environment
