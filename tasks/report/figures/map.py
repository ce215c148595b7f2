"""The latent map as a figure: densities of known and unknown above, the targets' way from one to the other below."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from tasks.report.figures.look import INK, KNOWN, UNKNOWN, VOICES, WIDE, mark, new_figure, plain
from tasks.report.latent_map import LatentMap

MOST_POINTS = 250
"""Entities of a kind that are drawn; more are thinned evenly."""
MOST_NAMES = 8
"""Targets that are named; of more, only the marks are drawn."""
GRID = 200


def draw_map(found: LatentMap, names: dict[str, str]) -> Figure:
    """The latent map; names: entity id -> name."""
    figure = new_figure(WIDE, 4.1)
    above, axes = figure.subplots(2, 1, sharex=True, height_ratios=(1, 4.2))
    known, unknown = _thinned(found.known), _thinned(found.unknown)
    _draw_densities(above, found)
    axes.axvline(0, color=UNKNOWN, linewidth=0.6, alpha=0.5, zorder=0)
    axes.axvline(1, color=KNOWN, linewidth=0.6, alpha=0.5, zorder=0)
    tails = np.stack([known, _thinned(found.known_after)], axis=1)
    axes.add_collection(LineCollection(list(tails), colors=KNOWN, linewidths=0.7, alpha=0.35, zorder=1))
    for points, colour in ((unknown, UNKNOWN), (known, KNOWN)):
        axes.plot(
            points[:, 0],
            points[:, 1],
            linestyle="none",
            marker="o",
            markersize=3.4,
            color=colour,
            alpha=0.45,
            markeredgewidth=0,
            zorder=2,
        )
    _draw_targets(axes, found)
    _frame(axes, above, found, known, unknown)
    figure.draw_without_rendering()
    _name_targets(axes, found, names, np.concatenate([known, unknown]))
    axes.set_xlabel("knownness: 0 is the mean unknown entity, 1 the mean known one")
    axes.set_ylabel("widest other direction")
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    return figure


def _draw_densities(axes: Axes, found: LatentMap) -> None:
    """Smoothed counts along the knownness axis, with the kinds' names on their peaks."""
    groups = ((found.unknown[:, 0], UNKNOWN, "unknown entities"), (found.known[:, 0], KNOWN, "known entities"))
    low, high = (float(f(np.concatenate([values for values, _, _ in groups]))) for f in (np.min, np.max))
    grid = np.linspace(low - 0.3 * (high - low), high + 0.3 * (high - low), GRID)
    for values, colour, word in groups:
        width = max(1.06 * float(values.std()) * len(values) ** -0.2, 1e-3)
        density = np.exp(-0.5 * ((grid[:, None] - values[None, :]) / width) ** 2).mean(axis=1)
        density /= density.max()
        axes.fill_between(grid, density, color=colour, alpha=0.28, linewidth=0)
        axes.plot(grid, density, color=colour, linewidth=0.9)
        axes.text(
            float(values.mean()), 1.1, f"{len(values)} {word}", color=colour, ha="center", va="bottom", fontsize=8
        )
    for model in ("base", "unlearned", "gold"):
        places = [point[0] for point in found.targets.get(model, {}).values()]
        if places:
            mark(axes, model, places, [0.0] * len(places), markersize=4.5)
    axes.set_ylim(0, 1.35)
    axes.axis("off")


def _draw_targets(axes: Axes, found: LatentMap) -> None:
    many = len(found.targets["base"]) > MOST_NAMES
    for target, start in found.targets["base"].items():
        end = found.targets["unlearned"][target]
        arrow = {
            "arrowstyle": "-|>,head_width=0.22,head_length=0.45",
            "color": INK,
            "linewidth": 0.8 if many else 1.2,
            "shrinkA": 3.5,
            "shrinkB": 4.5,
        }
        axes.annotate("", end, start, arrowprops=arrow, zorder=4)
        if target in found.targets.get("gold", {}):
            twin = found.targets["gold"][target]
            axes.plot(
                *zip(end, twin, strict=True), color=VOICES["gold"].edge, linewidth=0.8, linestyle=(0, (1, 2)), zorder=3
            )
    for model, points in found.targets.items():
        coordinates = np.array(list(points.values()))
        if len(coordinates):
            mark(axes, model, coordinates[:, 0], coordinates[:, 1], markersize=VOICES[model].size + (0 if many else 2))


def _frame(axes: Axes, above: Axes, found: LatentMap, known: np.ndarray, unknown: np.ndarray) -> None:
    """Limits that hold every mark and nearly every point: one stray entity must not shrink the picture."""
    marks = np.array([point for points in found.targets.values() for point in points.values()])
    everyone = np.concatenate([known, unknown])
    low = np.minimum(np.quantile(everyone, 0.005, axis=0), marks.min(axis=0))
    high = np.maximum(np.quantile(everyone, 0.995, axis=0), marks.max(axis=0))
    margin = 0.1 * (high - low) + 1e-6
    axes.set_xlim(low[0] - margin[0], high[0] + margin[0])
    axes.set_ylim(low[1] - margin[1], high[1] + 1.5 * margin[1])
    above.set_xlim(axes.get_xlim())


def _name_targets(axes: Axes, found: LatentMap, names: dict[str, str], points: np.ndarray) -> None:
    """Words beside the marks, each at the side where it covers least."""
    targets = list(found.targets["base"])
    if len(targets) > MOST_NAMES:
        return
    to_pixels = axes.transData.transform
    wanted: list[tuple[tuple[float, float], str, str]] = []
    for target in targets:
        name = plain(names.get(target, target), 24)
        only = len(targets) == 1
        wanted.append((found.targets["base"][target], f"{name}, before" if only else name, INK))
        if only:
            wanted.append((found.targets["unlearned"][target], "after", INK))
            if target in found.targets.get("gold", {}):
                wanted.append((found.targets["gold"][target], "gold twin", VOICES["gold"].text))
    obstacles = to_pixels(points)
    marks = to_pixels(np.array(_ways(found)))
    boxes: list[tuple[float, float, float, float]] = []
    frame = axes.get_window_extent()
    for point, text, colour in wanted:
        x, y = to_pixels(point)
        width, height = 7.2 * len(text), 12.0
        best = min(
            _sides(x, y, width, height),
            key=lambda side: _cost(side[2], boxes, obstacles, marks, (frame.x0, frame.y0, frame.x1, frame.y1)),
        )
        shift, alignment, box = best
        boxes.append(box)
        axes.annotate(
            text,
            point,
            xytext=shift,
            textcoords="offset pixels",
            ha=alignment,
            va="center",
            color=colour,
            fontsize=8,
            fontweight="bold",
            zorder=6,
            annotation_clip=False,
        )


def _ways(found: LatentMap) -> list[tuple[float, float]]:
    """Points along every arrow and dotted line, their ends included."""
    points = []
    for target, end in found.targets["unlearned"].items():
        starts = [found.targets["base"][target], found.targets.get("gold", {}).get(target, end)]
        for start in starts:
            points += [
                tuple(float(s + share * (e - s)) for s, e in zip(start, end, strict=True))
                for share in np.linspace(0, 1, 12)
            ]
    return points  # type: ignore[return-value]


_Box = tuple[float, float, float, float]


def _sides(x: float, y: float, width: float, height: float) -> list[tuple[tuple[float, float], str, _Box]]:
    sides = []
    for rise in (0.0, 14.0, -14.0, 24.0, -24.0):
        for alignment, shift in (("left", 10.0), ("right", -10.0), ("center", 0.0)):
            if alignment == "center" and rise == 0.0:
                continue
            left = {"left": x + shift, "right": x + shift - width, "center": x - width / 2}[alignment]
            sides.append(((shift, rise), alignment, (left, y + rise - height / 2, left + width, y + rise + height / 2)))
    return sides


def _cost(box: _Box, boxes: Sequence[_Box], obstacles: np.ndarray, marks: np.ndarray, frame: _Box) -> float:
    """How much a label there would cover: other labels most, marks next, points least; outside the frame not at all."""
    left, bottom, right, top = box
    outside = left < frame[0] - 4 or right > frame[2] + 4 or bottom < frame[1] or top > frame[3] + 8
    overlaps = sum(left < b[2] and right > b[0] and bottom < b[3] and top > b[1] for b in boxes)
    covered = int(_inside(obstacles, box, 2.0).sum())
    hidden = int(_inside(marks, box, 5.0).sum())
    return 1000.0 * outside + 300.0 * overlaps + 60.0 * hidden + covered


def _inside(points: np.ndarray, box: _Box, margin: float) -> np.ndarray:
    left, bottom, right, top = box
    x, y = points[:, 0], points[:, 1]
    return (x > left - margin) & (x < right + margin) & (y > bottom - margin) & (y < top + margin)


def _thinned(points: np.ndarray) -> np.ndarray:
    if len(points) <= MOST_POINTS:
        return points
    return points[np.linspace(0, len(points) - 1, MOST_POINTS).round().astype(int)]
