"""One visual language for every figure: who has which colour and mark, and how a figure becomes SVG and PNG.

Known entities are blue, unknown ones red, the gold twin a yellow diamond; the target is ink, hollow before
and solid after. The three hues are Tol's high-contrast set, which colour-blind eyes and grey print tell apart.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from tasks.report.scoring import MODELS

INK, MUTED, FAINT, PAPER = "#1b1e25", "#5c6370", "#c9ced6", "#fdfdfc"
KNOWN, UNKNOWN, GOLD = "#0b4a8f", "#bb5566", "#ddaa33"
GOLD_INK = "#8a6a00"
"""The gold twin's hue where it is text: the yellow of its marks is too light to read."""

THEME = {
    INK: "ink",
    MUTED: "muted",
    FAINT: "faint",
    PAPER: "paper",
    KNOWN: "known",
    UNKNOWN: "unknown",
    GOLD: "gold",
    GOLD_INK: "gold-ink",
}
"""Colour -> name of the page's variable for it, so that the same figure serves light and dark."""

NARROW, WIDE = 3.5, 4.7
"""Inches; a narrow figure fills a phone, a wide one half a desk."""


@dataclass(frozen=True)
class Voice:
    """How one of the three models is drawn."""

    word: str
    marker: str
    face: str
    edge: str
    text: str
    size: float = 5.5


VOICES: Mapping[str, Voice] = {
    "base": Voice(MODELS["base"], "o", PAPER, INK, INK),
    "unlearned": Voice(MODELS["unlearned"], "o", INK, INK, INK),
    "gold": Voice(MODELS["gold"], "D", GOLD, GOLD_INK, GOLD_INK, 5.0),
}
"""By model, in the order of drawing and of tables."""

_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "text.color": INK,
    "text.parse_math": False,
    "text.usetex": False,
    "axes.facecolor": "none",
    "axes.edgecolor": FAINT,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 7.5,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 8,
    "axes.titlelocation": "left",
    "axes.unicode_minus": True,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "figure.facecolor": PAPER,
    "figure.dpi": 100,
    "savefig.facecolor": PAPER,
    "lines.linewidth": 1.4,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",
}


@contextmanager
def styled() -> Iterator[None]:
    """Draw inside: matplotlib's own defaults and any user's settings file are left out."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        with warnings.catch_warnings():
            # A name in a script that the built-in font lacks is drawn as boxes in the PNG; the SVG has the text itself.
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            yield


def new_figure(width: float, height: float) -> Figure:
    """A figure of that size in inches, laid out so that nothing is cut off."""
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03))
    FigureCanvasAgg(figure)
    return figure


def mark(axes: Axes, model: str, x: Any, y: Any, **more: Any) -> None:
    """The model's mark at a point or at several."""
    voice = VOICES[model]
    options: dict[str, Any] = {
        "marker": voice.marker,
        "markersize": voice.size,
        "markerfacecolor": voice.face,
        "markeredgecolor": voice.edge,
        "markeredgewidth": 1.1,
        "linestyle": "none",
        "zorder": 5,
        "clip_on": False,
    }
    axes.plot(x, y, **(options | more))


def interval(axes: Axes, model: str, low: float, high: float, at: float, *, vertical: bool = False) -> None:
    """The model's interval as a thin line through its mark."""
    colour = VOICES[model].edge
    ends, place = [low, high], [at, at]
    axes.plot(
        *((place, ends) if vertical else (ends, place)),
        color=colour,
        linewidth=1.0,
        alpha=0.75,
        zorder=3,
        clip_on=False,
    )


def name_models(figure: Figure, models: Sequence[str]) -> None:
    """The marks with their words, on a line of their own above the figure."""
    handles = [
        Line2D(
            [],
            [],
            linestyle="none",
            marker=voice.marker,
            markersize=voice.size,
            markerfacecolor=voice.face,
            markeredgecolor=voice.edge,
            label=voice.word,
        )
        for voice in (VOICES[model] for model in models)
    ]
    figure.legend(
        handles=handles,
        loc="outside upper left",
        ncols=len(models),
        frameon=False,
        fontsize=7,
        labelcolor=[VOICES[model].text for model in models],
        handletextpad=0.1,
        columnspacing=1.2,
        borderpad=0.1,
    )


def plain(text: object, longest: int = 34) -> str:
    """Text for a figure: one line, printable, shortened."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in str(text)).split())
    return line if len(line) <= longest else line[: longest - 1].rstrip() + "…"


def to_png(figure: Figure) -> bytes:
    """The figure on paper, always light; without the library's version or a date."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=200, metadata={"Software": None})
    return buffer.getvalue()


def to_svg(figure: Figure, name: str, title: str) -> str:
    """The figure as an <svg> element for a page: its colours are the page's, its ids begin with `name`."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata=nothing, facecolor="none")
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"\s*<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = svg.replace("xlink:href=", "href=")
    used = set(re.findall(r'(?:href="#|url\(#)([\w-]+)', svg))
    svg = re.sub(r' id="([\w.-]+)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", svg)
    svg = re.sub(r'(href="#|url\(#)([\w-]+)', rf"\g<1>{name}-\g<2>", svg)
    svg = svg.replace("font-family: 'DejaVu Sans'", "font-family: inherit").replace(
        "font-weight: 700", "font-weight: 600"
    )
    for colour, variable in THEME.items():
        svg = svg.replace(colour, f"var(--{variable})")
    view = re.search(r'viewBox="[^"]+"', svg)
    assert view is not None
    label = title.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
    svg = re.sub(r"^<svg[^>]*>", lambda _: f'<svg {view[0]} role="img" aria-label="{label}">', svg, count=1)
    return re.sub(r"\n\s*", "\n", svg)
