"""Figures of what may bring the target back: other ways of asking, stress, and reading the answer out of the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tasks.report.evidence import Evidence, listed
from tasks.report.figures.look import FAINT, INK, MUTED, NARROW, VOICES, interval, mark, name_models, new_figure, plain
from tasks.report.scoring import Row, Scores, is_place, layer_of, site_words, stress_words

LANE = 0.27
"""Inches a way of asking takes."""
APART = 0.25
"""Lanes between the marks of two models."""
ASKED = (("set_recall", "Asked in other ways"), ("attack_recall", "Asked by a prompt that coaxes"))


@dataclass(frozen=True)
class Lane:
    """One way to bring the target back, and the recall of each model."""

    words: str
    rows: Mapping[str, Row]
    threshold: float | None = None
    """Beyond which the verdict counts it as brought back."""


@dataclass
class Ways:
    """Lanes under headings."""

    groups: list[tuple[str, list[Lane]]] = field(default_factory=list)
    powerless: list[str] = field(default_factory=list)
    """Ways in which even the base model could not answer, so that no answer says nothing."""
    silent: list[str] = field(default_factory=list)
    """Ways in which the unlearned model has no score, as where its answers are no language."""

    @property
    def with_gold(self) -> bool:
        return any("gold" in lane.rows and lane.rows["gold"].there for lane in self.lanes)

    @property
    def lanes(self) -> list[Lane]:
        return [lane for _, lanes in self.groups for lane in lanes]


def ways_of_asking(scores: Scores, evidence: Sequence[Evidence]) -> Ways:
    """Recall of the targets by question set and by attack; what the base model has no power on is set apart."""
    ways = Ways()
    for metric, heading in ASKED:
        lanes = []
        asked = [site for one, split, site in scores.lines() if (one, split) == (metric, "forget") and site]
        for site in asked:
            rows = scores.line(metric, "forget", site)
            base, after = rows.get("base"), rows.get("unlearned")
            if base is not None and base.state == "degenerate":
                ways.powerless.append(site_words(site))
            elif base is None or not base.judged or after is None or not after.judged:
                ways.silent.append(site_words(site))
            else:
                lanes.append(Lane(site_words(site), rows, _threshold(evidence, metric, "unlearned", site)))
        if lanes:
            ways.groups.append((heading, lanes))
    return ways


def stresses(scores: Scores, evidence: Sequence[Evidence]) -> Ways:
    """Recall of the targets by each model as it is, under every stress, and after the relearning of half of the facts."""
    as_it_is = scores.line("recall", "forget", "")
    lanes = []
    for stress in scores.stresses():
        found = {model: scores.get("recall", "forget", f"{model}+{stress}") for model in VOICES}
        rows = {model: row for model, row in found.items() if row is not None}
        if "unlearned" in rows:
            lanes.append(Lane(stress_words(stress), rows, _threshold(evidence, "recall", f"unlearned+{stress}")))
    if not lanes or not as_it_is:
        return Ways()
    relearned = {model: row for model, row in scores.line("relearned_recall", "forget", "").items() if row.there}
    if "unlearned" in relearned:
        lanes.append(Lane("other half, relearned", relearned))
    return Ways([("", [Lane("as it is", as_it_is), *lanes])])


def draw_ways(ways: Ways, *, guides: bool = False) -> Figure | None:
    """A lane a way, a mark a model; with `guides`, a dotted line from each mark of the first lane. None without a lane."""
    lanes = ways.lanes
    if not lanes:
        return None
    heights = [len(found) for _, found in ways.groups]
    figure = new_figure(NARROW, 0.62 + LANE * len(lanes) + 0.2 * len(ways.groups))
    panels: list[Axes] = list(
        figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=[n + 0.4 for n in heights])[:, 0]
    )
    models = [model for model in VOICES if any(model in lane.rows for lane in lanes)]
    offsets = {model: APART * (place - (len(models) - 1) / 2) for place, model in enumerate(models)}
    for axes, (heading, found) in zip(panels, ways.groups, strict=True):
        for height, lane in enumerate(reversed(found)):
            axes.axhline(height, color=FAINT, linewidth=0.6, zorder=0)
            _draw_lane(axes, lane, height, offsets)
        axes.set_yticks(range(len(found)), [plain(lane.words, 30) for lane in reversed(found)], color=INK)
        axes.set_ylim(-0.7, len(found) - 0.3)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        if axes is not panels[-1]:
            axes.tick_params(axis="x", length=0)
            axes.spines["bottom"].set_visible(False)
        if heading:
            axes.set_title(heading, color=MUTED, fontsize=7.5)
        if guides:
            _draw_guides(axes, found[0])
    panels[-1].set_xlim(-0.02, 1.02)
    panels[-1].set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25%", "50%", "75%", "100%"])
    name_models(figure, models)
    return figure


def draw_depth(scores: Scores) -> Figure | None:
    """How likely the true answer is when each layer's state is read as if it were the last; None when it was not scored."""
    sites = [site for site in scores.sites("logit_lens") if is_place(site)]
    if not sites:
        return None
    figure = new_figure(NARROW, 2.6)
    axes = figure.add_subplot()
    models: list[str] = []
    for model in VOICES:
        rows = [(place, scores.get("logit_lens", "forget", model, site)) for place, site in enumerate(sites)]
        there = [(place, row) for place, row in rows if row is not None]
        if not there:
            continue
        shift = 0.06 * (len(models) - 1)
        models.append(model)
        places = [place + shift for place, _ in there]
        axes.plot(places, [row.value for _, row in there], color=VOICES[model].edge, linewidth=1.0, alpha=0.6)
        for place, (_, row) in zip(places, there, strict=True):
            if np.isfinite(row.low) and np.isfinite(row.high):
                interval(axes, model, row.low, row.high, place, vertical=True)
            mark(axes, model, place, row.value)
    axes.set_xticks(range(len(sites)), [plain(layer_of(site), 12) for site in sites])
    axes.set_xlim(-0.4, len(sites) - 0.6)
    axes.set_xlabel("after block")
    axes.set_title("Log-probability of the true answer (nats a token)", color=MUTED, fontsize=7.5)
    name_models(figure, models)
    return figure


def caption_of_asking(ways: Ways) -> str:
    """What to see in the ways of asking, and which of them say nothing."""
    aim = "where the gold twin lies" if ways.with_gold else "at the left"
    text = f"Recall of the targets, however they are asked for. After should lie {aim}, in every row."
    if any(lane.threshold is not None for lane in ways.lanes):
        text += " The tick is where the verdict begins to count it as brought back."
    if ways.powerless:
        text += f" Left out, since even the base model could not answer: {listed(ways.powerless, 6)}."
    if ways.silent:
        text += f" Left out, since no score could be taken after: {listed(ways.silent, 6)}."
    return text


def caption_of_stresses(ways: Ways) -> str:
    """What to see in the stresses."""
    unless = ", unless the gold twin moves as far" if ways.with_gold else ""
    text = f"Recall of the targets by the same models after a change that teaches none of the answers asked for. What comes back to the right of its dotted line was hidden{unless}."
    if any(lane.threshold is not None for lane in ways.lanes):
        text += " The tick is where the verdict begins to count it."
    return text


def caption_of_depth(scores: Scores) -> str:
    """What to see in the logit lens, with the share of the answer that patching finds erased."""
    text = "Each layer's state read as if it were the base model's last. "
    if any(row.metric == "logit_lens" and row.model == "gold" and row.there for row in scores.rows):
        text += "Where after lies above the gold twin, the answer is still in there; the twin was trained apart and may read worse for that alone."
    else:
        text += "Where after comes near before, the answer is still in there."
    found = [
        (words, row)
        for metric, words in (("uds", "what the gold twin's lack"), ("uds_null", "what an unknown entity's lack"))
        if (row := scores.get(metric, "forget", "unlearned")) is not None
    ]
    if found:
        told = " and ".join(f"{_measured(row)} of {words}" for words, row in found)
        text += f" Put into the base model, its states lack {told} (UDS; 1 is all of it, 0 is untouched)."
    return text


def _measured(row: Row) -> str:
    if np.isfinite(row.low) and np.isfinite(row.high):
        return f"{row.value:.2f} [{row.low:.2f} to {row.high:.2f}]"
    return f"{row.value:.2f}"


def _draw_lane(axes: Axes, lane: Lane, height: float, offsets: Mapping[str, float]) -> None:
    if lane.threshold is not None:
        axes.plot([lane.threshold] * 2, [height - 0.38, height + 0.38], color=MUTED, linewidth=0.9, zorder=1)
    for model, offset in offsets.items():
        row = lane.rows.get(model)
        if row is None or not row.there:
            continue
        if np.isfinite(row.low) and np.isfinite(row.high):
            interval(axes, model, row.low, row.high, height - offset)
        mark(
            axes,
            model,
            row.value,
            height - offset,
            markersize=VOICES[model].size - 1,
            alpha=1.0 if row.judged else 0.35,
        )


def _draw_guides(axes: Axes, first: Lane) -> None:
    for model, row in first.rows.items():
        if row.there:
            axes.axvline(row.value, color=VOICES[model].edge, linewidth=0.7, linestyle=(0, (1, 2)), alpha=0.7, zorder=1)


def _threshold(evidence: Sequence[Evidence], metric: str, model: str, site: str = "") -> float | None:
    for each in evidence:
        if (each.metric, each.split, each.model, each.site, each.verdict) == (metric, "forget", model, site, "hidden"):
            return each.threshold
    return None
