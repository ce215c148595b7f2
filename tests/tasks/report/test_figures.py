"""Figures: the one visual language, and nothing drawn where there is nothing to draw."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from tasks.report import figures
from tasks.report.look import GOLD, INK, THEME, new_figure, plain, styled, to_png, to_svg
from tasks.report.scoring import Scores

EMPTY = Scores(
    {name: [] for name in ("metric", "split", "site", "model", "value", "low", "high", "count", "better", "state")}
)


def a_figure(text: str = "some text") -> Figure:
    figure = new_figure(2, 1)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=GOLD, marker="o")
    axes.fill_between([0, 1], [0, 1], color=INK)
    axes.set_title(text)
    return figure


def test_the_page_gives_a_figure_its_colours_and_its_font() -> None:
    with styled():
        svg = to_svg(a_figure(), "one", "A title")
    assert "var(--gold)" in svg
    assert "var(--ink)" in svg
    assert not any(colour in svg for colour in THEME)
    assert "DejaVu" not in svg
    assert 'aria-label="A title"' in svg
    assert "matplotlib" not in svg.lower()


def test_ids_of_two_figures_differ() -> None:
    with styled():
        first, second = to_svg(a_figure(), "one", ""), to_svg(a_figure(), "two", "")
    assert 'id="one-' in first
    assert 'id="one-' not in second


def test_text_is_escaped_and_is_no_formula() -> None:
    with styled():
        svg = to_svg(a_figure("<b>$x_1$ & co"), "one", 'a "title" <b>')
        to_png(a_figure("$x_1"))
    assert "&lt;b&gt;$x_1$ &amp; co" in svg
    assert 'aria-label="a &quot;title&quot; &lt;b&gt;"' in svg


def test_the_users_own_style_makes_no_difference() -> None:
    import matplotlib

    with styled():
        wanted = to_png(a_figure())
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red"}), styled():
        assert to_png(a_figure()) == wanted


@pytest.mark.parametrize(
    ("given", "shown"),
    [("a\nb\tc", "a b c"), ("x" * 50, "x" * 33 + "…"), ("bell\x07", "bell"), ("Zoë 日本", "Zoë 日本")],
)
def test_names_are_made_plain(given: str, shown: str) -> None:
    assert plain(given) == shown


def test_nothing_is_drawn_of_nothing() -> None:
    assert figures.draw_knownness(EMPTY) is None
    assert figures.draw_scores(EMPTY) is None
    assert figures.draw_latents([]) is None
    assert figures.draw_relearning({}, EMPTY) is None
    assert figures.draw_training({"step": np.array([]), "name": np.array([]), "value": np.array([])}) is None


def test_a_loss_that_is_not_a_number_is_drawn_over() -> None:
    training = {"step": np.arange(4), "name": np.array(["total"] * 4), "value": np.array([np.nan] * 4)}
    with styled():
        figure = figures.draw_training(training)
        assert figure is not None
        assert to_png(figure)


def test_labels_are_spread_apart_within_the_frame() -> None:
    spread = figures._spread([(1.0, "a", ""), (0.99, "b", ""), (0.0, "c", "")], 0.1)
    heights = [height for height, _, _ in spread]
    assert heights == pytest.approx([0.0, 0.9, 1.0])
