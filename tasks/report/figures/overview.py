"""Figures of what was forgotten, what was kept, and how it was trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tasks.report.figures.look import (
    FAINT,
    INK,
    KNOWN,
    MUTED,
    NARROW,
    UNKNOWN,
    VOICES,
    interval,
    mark,
    name_models,
    new_figure,
    plain,
)
from tasks.report.moved import MovedLatent
from tasks.report.scoring import METRICS, Scores, layer_of, percent, position_of

SPLIT_WORDS = {"forget": "targets", "neighbours": "neighbours", "retain": "other known"}
PART_HEIGHT = 0.42
"""Inches a loss part takes."""


def draw_knownness(scores: Scores) -> Figure | None:
    """AUROC of the targets against unknown entities, by token, layer and model; None when it was not scored."""
    sites = scores.sites("knownness_auroc")
    if not sites:
        return None
    positions = list(dict.fromkeys(position_of(site) for site in sites))
    figure = new_figure(NARROW, 2.9)
    panels: list[Axes] = list(figure.subplots(1, len(positions), sharey=True, squeeze=False)[0])
    offsets = _offsets(scores, "knownness_auroc", 0.22)
    for axes, position in zip(panels, positions, strict=True):
        here = [site for site in sites if position_of(site) == position]
        axes.axhline(0.5, color=UNKNOWN, linewidth=1.0, zorder=1)
        for model, offset in offsets.items():
            rows = [
                (place + offset, scores.get("knownness_auroc", "forget", model, site))
                for place, site in enumerate(here)
            ]
            there = [(place, row) for place, row in rows if row is not None]
            axes.plot(
                [place for place, _ in there],
                [row.value for _, row in there],
                color=VOICES[model].edge,
                linewidth=0.7,
                alpha=0.3,
            )
            for place, row in there:
                if np.isfinite(row.low) and np.isfinite(row.high):
                    interval(axes, model, row.low, row.high, place, vertical=True)
                mark(axes, model, place, row.value, alpha=1.0 if row.judged else 0.3)
        axes.set_xticks(range(len(here)), [plain(layer_of(site), 12) for site in here])
        axes.set_xlim(-0.5, len(here) - 0.5)
        axes.set_xlabel("after block")
        axes.set_title(position, color=MUTED, fontsize=7.5)
        if axes is not panels[0]:
            axes.tick_params(axis="y", length=0)
            axes.spines["left"].set_visible(False)
    panels[0].set_ylim(-0.03, 1.03)
    panels[0].set_yticks([0, 0.5, 1], ["0\nstands out", "0.5\nlike unknown", "1\nlike known"])
    panels[0].get_yticklabels()[1].set_color(UNKNOWN)
    panels[0].get_yticklabels()[2].set_color(KNOWN)
    name_models(figure, list(offsets))
    return figure


def draw_scores(scores: Scores) -> Figure | None:
    """Recall and answer probability on targets, neighbours and other known entities; None when neither was scored."""
    metrics = [metric for metric in ("recall", "answer_probability") if scores.get(metric, "forget", "unlearned")]
    if not metrics:
        return None
    figure = new_figure(NARROW, 0.55 + 1.12 * len(metrics))
    panels: list[Axes] = list(figure.subplots(len(metrics), 1, sharex=True, squeeze=False)[:, 0])
    for axes, metric in zip(panels, metrics, strict=True):
        for height, split in enumerate(reversed(SPLIT_WORDS)):
            axes.axhline(height, color=FAINT, linewidth=0.6, zorder=0)
            for model, offset in _offsets(scores, metric, 0.24).items():
                row = scores.get(metric, split, model)
                if row is None:
                    continue
                if np.isfinite(row.low) and np.isfinite(row.high):
                    interval(axes, model, row.low, row.high, height - offset)
                mark(axes, model, row.value, height - offset, alpha=1.0 if row.judged else 0.35)
        axes.set_yticks(range(len(SPLIT_WORDS)), list(reversed(SPLIT_WORDS.values())), color=INK)
        axes.set_ylim(-0.55, len(SPLIT_WORDS) - 0.45)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_title(METRICS[metric], color=MUTED, fontsize=7.5)
    panels[-1].set_xlim(-0.02, 1.02)
    panels[-1].set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25%", "50%", "75%", "100%"])
    name_models(figure, [model for model in VOICES if scores.get(metrics[0], "forget", model)])
    return figure


def draw_training(training: Mapping[str, Any]) -> Figure | None:
    """The parts of the loss over the steps, one small panel each, as their sizes differ; None without any."""
    names = sorted({str(name) for name in training["name"]}, key=lambda name: (name != "total", name))
    if not names:
        return None
    figure = new_figure(NARROW, 0.5 + PART_HEIGHT * max(len(names), 2))
    panels: list[Axes] = list(figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0])
    for axes, name in zip(panels, names, strict=True):
        chosen = np.asarray(training["name"], dtype=str) == name
        step, value = np.asarray(training["step"])[chosen], np.asarray(training["value"], dtype=float)[chosen]
        order = np.argsort(step, kind="stable")
        step, value = step[order], value[order]
        axes.plot(step, value, color=INK, linewidth=1.3 if name == "total" else 1.0)
        low, high = (float(np.nanmin(value)), float(np.nanmax(value))) if np.isfinite(value).any() else (0.0, 1.0)
        margin = 0.12 * (high - low) or 0.5
        axes.set_ylim(low - margin, high + margin)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.spines["bottom"].set_color(FAINT)
        axes.set_ylabel(plain(name, 18), rotation=0, ha="right", va="center", color=INK)
        axes.text(
            1.02,
            0.5,
            f"{value[0]:.3g} → {value[-1]:.3g}",
            transform=axes.transAxes,
            va="center",
            fontsize=7,
            color=MUTED,
        )
        if axes is not panels[-1]:
            axes.tick_params(axis="x", length=0)
    panels[-1].set_xlabel("step")
    return figure


def draw_relearning(relearning: Mapping[str, Mapping[str, Any]], scores: Scores) -> Figure | None:
    """Recall of the half that is not taught again, over the steps of the attack; None when no attack was made.

    Each model at the learning rate that brings back most; the large mark is its best step, which the score and the
    interval beside the figure are of. Dotted: the half that is taught.
    """
    courses = {model: _best_course(relearning[model]) for model in VOICES if model in relearning}
    curves = {model: course for model, course in courses.items() if course is not None}
    if not curves:
        return None
    figure = new_figure(NARROW, 2.75)
    axes = figure.add_subplot()
    last = max(float(course.step[-1]) for course in curves.values())
    ends: list[tuple[float, str, str]] = []
    for model, course in curves.items():
        voice = VOICES[model]
        dotted: Any = (0, (1, 2))
        axes.plot(*course.taught, color=voice.edge, linewidth=0.8, linestyle=dotted, alpha=0.7, zorder=1)
        axes.plot(course.step, course.recall, color=voice.edge, linewidth=1.2, alpha=0.8, zorder=2)
        mark(axes, model, course.step, course.recall, markersize=3)
        best = float(course.recall[course.best])
        mark(axes, model, course.step[course.best], best, markersize=voice.size + 1, zorder=6)
        row = scores.get("relearned_recall", "forget", model)
        if row is not None and np.isfinite(row.low) and np.isfinite(row.high):
            place = last * (1.03 + 0.025 * list(curves).index(model))
            interval(axes, model, row.low, row.high, place, vertical=True)
        ends.append((best, f"{voice.word} {percent(best)}", voice.text))
    for height, text, colour in _spread(ends, 0.075):
        axes.text(last * 1.12, height, text, color=colour, fontsize=7.5, va="center", clip_on=False)
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlim(-0.02 * last, 1.5 * last)
    axes.spines["bottom"].set_bounds(0, last)
    ticks = np.unique(np.linspace(0, last, 5).round())
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_yticks([0, 0.5, 1], ["0", "50%", "100%"])
    axes.set_xlabel("steps of fine-tuning on half of the facts", loc="left")
    axes.set_title("Recall of the other half (dotted: of the half taught)", color=MUTED, fontsize=7.5)
    return figure


def draw_latents(latents: Sequence[MovedLatent]) -> Figure | None:
    """Activation of the latents that moved most, before and after, beside the means of known and unknown; None without any."""
    if not latents:
        return None
    figure = new_figure(NARROW, 0.62 + 0.27 * len(latents))
    axes = figure.add_subplot()
    for row, latent in enumerate(latents):
        height = len(latents) - 1 - row
        axes.axhline(height, color=FAINT, linewidth=0.6, zorder=0)
        for value, colour in ((latent.known, KNOWN), (latent.unknown, UNKNOWN)):
            axes.plot(
                [value, value], [height - 0.3, height + 0.3], color=colour, linewidth=2.2, zorder=2, clip_on=False
            )
        axes.annotate(
            "",
            (latent.after, height),
            (latent.before, height),
            arrowprops={"arrowstyle": "-", "color": INK, "linewidth": 1.0},
            zorder=3,
        )
        mark(axes, "base", latent.before, height)
        mark(axes, "unlearned", latent.after, height)
    axes.set_yticks(range(len(latents)), [latent.label for latent in reversed(latents)], color=INK, fontsize=7)
    axes.set_ylim(-0.6, len(latents) - 0.4)
    axes.set_xlim(left=-0.03 * axes.get_xlim()[1])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("mean activation at the last prompt token")
    first = latents[0]
    words = [(first.before, "before", INK), (first.after, "after", INK)]
    for place, word, colour in words:
        axes.text(place, len(latents) - 0.62, word, color=colour, fontsize=7, ha="center", va="bottom")
    return figure


def _offsets(scores: Scores, metric: str, step: float) -> dict[str, float]:
    """Model -> shift beside its neighbours, for the models that have the metric."""
    there = [
        model
        for model in VOICES
        if any(row.metric == metric and row.model == model and row.there for row in scores.rows)
    ]
    return {model: step * (place - (len(there) - 1) / 2) for place, model in enumerate(there)}


@dataclass(frozen=True)
class Course:
    """How far the other half comes back over the steps, at one learning rate."""

    step: np.ndarray
    recall: np.ndarray
    best: int
    """Place of the best step after the start, the first of equal ones."""
    taught: tuple[np.ndarray, np.ndarray]


def _best_course(table: Mapping[str, Any]) -> Course | None:
    """The course at the rate whose best step brings back most, as the score is taken; None without a step."""
    rates = np.asarray(table["rate"], dtype=float)
    found: list[Course] = []
    for rate in np.unique(rates):
        step, recall = _recall_by_step(table, rates == rate, "scored")
        if (step > 0).any():
            best = int(np.argmax(np.where(step > 0, recall, -1.0)))
            found.append(Course(step, recall, best, _recall_by_step(table, rates == rate, "taught")))
    return max(found, key=lambda course: float(course.recall[course.best]), default=None)


def _recall_by_step(table: Mapping[str, Any], rows: np.ndarray, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and the mean hit at each, of these rows of one part."""
    chosen = rows & (np.asarray(table["part"], dtype=str) == part)
    step, hit = np.asarray(table["step"])[chosen], np.asarray(table["hit"], dtype=float)[chosen]
    steps = np.unique(step)
    return steps.astype(float), np.array([hit[step == at].mean() for at in steps], dtype=float)


def _spread(labels: Sequence[tuple[float, str, str]], gap: float) -> list[tuple[float, str, str]]:
    """The labels with their heights moved apart by at least `gap`, within [0, 1]."""
    ordered = sorted(labels, key=lambda label: label[0])
    heights = [label[0] for label in ordered]
    for index in range(1, len(heights)):
        heights[index] = max(heights[index], heights[index - 1] + gap)
    over = heights[-1] - 1.0
    if over > 0:
        heights[-1] -= over
        for index in range(len(heights) - 2, -1, -1):
            heights[index] = min(heights[index], heights[index + 1] - gap)
    return [(height, text, colour) for height, (_, text, colour) in zip(heights, ordered, strict=True)]
