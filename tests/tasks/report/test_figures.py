"""Figures: the one visual language, and nothing drawn where there is nothing to draw."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from tasks.report.evidence import Evidence
from tasks.report.figures import overview, recovery
from tasks.report.figures.look import GOLD, INK, THEME, new_figure, plain, styled, to_png, to_svg
from tasks.report.scoring import Scores

NAMES = ("metric", "split", "site", "model", "value", "low", "high", "count", "better", "state")
EMPTY = Scores({name: [] for name in NAMES})


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
    assert overview.draw_knownness(EMPTY) is None
    assert overview.draw_scores(EMPTY) is None
    assert overview.draw_latents([]) is None
    assert overview.draw_relearning({}, EMPTY) is None
    assert overview.draw_training({"step": np.array([]), "name": np.array([]), "value": np.array([])}) is None

    assert recovery.draw_depth(EMPTY) is None
    assert recovery.draw_ways(recovery.ways_of_asking(EMPTY, [])) is None
    assert recovery.draw_ways(recovery.stresses(EMPTY, [])) is None


def scored(*rows: tuple[str, str, str, float, str]) -> Scores:
    """Rows of metric, site, model, value and state, on the targets."""
    columns: dict[str, list[Any]] = {name: [] for name in NAMES}
    for metric, site, model, value, state in rows:
        given = (metric, "forget", site, model, value, value - 0.1, value + 0.1, 8, "lower", state)
        for name, item in zip(NAMES, given, strict=True):
            columns[name].append(item)
    return Scores(columns)


def by(metric: str, site: str, values: dict[str, float], state: str = "ok") -> list[tuple[str, str, str, float, str]]:
    return [(metric, site, model, value, state) for model, value in values.items()]


ASKED = scored(
    *by("set_recall", "cloze", {"base": 0.9, "unlearned": 0.2, "gold": 0.1}),
    *by("set_recall", "reverse", {"base": 0.0, "unlearned": 0.0}, "degenerate"),
    *by("set_recall", "paraphrase", {"base": 0.9, "unlearned": 0.1}),
    *by("attack_recall", "any", {"base": 0.9, "unlearned": 0.5}),
    *by("attack_recall", "alias", {"base": 0.9}),
    *by("attack_recall", "alias", {"unlearned": float("nan")}, "degenerate"),
    *by("attack_recall", "role_play", {"base": 0.9, "unlearned": 0.4}),
)
TOLD = Evidence(
    "hidden", "", "attack_recall", "forget", "role_play", "unlearned", 0.4, 0.25, -0.15, "crossed", decided=True
)


def test_a_question_that_nobody_could_answer_is_left_out_and_said() -> None:
    ways = recovery.ways_of_asking(ASKED, [TOLD])
    assert [[lane.words for lane in lanes] for _, lanes in ways.groups] == [
        ["unseen wordings", "to fill a gap"],
        ["role play", "any of these"],
    ]
    assert ways.powerless == ["the other way round"]
    assert "the other way round" in recovery.caption_of_asking(ways)
    assert ways.silent == ["alias"]
    assert "no score could be taken after: alias" in recovery.caption_of_asking(ways)
    assert [lane.threshold for lane in ways.lanes] == [None, None, 0.25, None]
    with styled():
        figure = recovery.draw_ways(ways)
        assert figure is not None
        assert "role play" in to_svg(figure, "asking", "")


def test_stresses_stand_beside_the_models_as_they_are() -> None:
    found = scored(
        *by("recall", "", {"base": 0.9, "unlearned": 0.1, "gold": 0.1}),
        *by("recall", "", {"base+nf4": 0.8, "unlearned+nf4": 0.6, "unlearned+mine": 0.2, "gold+other": 0.1}),
        *by("relearned_recall", "", {"base": 0.9, "unlearned": 0.4}),
    )
    lanes = recovery.stresses(found, []).lanes
    assert [lane.words for lane in lanes] == ["as it is", "4-bit weights", "mine", "other half, relearned"]
    assert set(lanes[1].rows) == {"base", "unlearned"}
    assert recovery.stresses(scored(*by("recall", "", {"base": 0.9, "unlearned": 0.1})), []).lanes == []
    with styled():
        assert recovery.draw_ways(recovery.stresses(found, []), guides=True) is not None


def test_depth_is_told_with_the_share_erased() -> None:
    rows = [by("logit_lens", f"residual_{layer}", {"base": -1.0 - layer, "unlearned": -5.0}) for layer in (10, 2)]
    found = scored(
        *(row for layer in rows for row in layer),
        *by("uds", "", {"unlearned": 0.75}),
        *by("logit_lens", "max", {"base": -0.5}),
    )
    assert "0.75 [0.65 to 0.85] of what the gold twin" in recovery.caption_of_depth(found)
    assert "unknown entity" not in recovery.caption_of_depth(found)
    with styled():
        figure = recovery.draw_depth(found)
        assert figure is not None
        assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["2", "10"]


def test_a_loss_that_is_not_a_number_is_drawn_over() -> None:
    training = {"step": np.arange(4), "name": np.array(["total"] * 4), "value": np.array([np.nan] * 4)}
    with styled():
        figure = overview.draw_training(training)
        assert figure is not None
        assert to_png(figure)


def test_labels_are_spread_apart_within_the_frame() -> None:
    spread = overview._spread([(1.0, "a", ""), (0.99, "b", ""), (0.0, "c", "")], 0.1)
    heights = [height for height, _, _ in spread]
    assert heights == pytest.approx([0.0, 0.9, 1.0])


def test_each_model_is_drawn_at_the_rate_and_step_that_bring_back_most() -> None:
    hits = {
        (1e-4, 0): 1,
        (1e-4, 1): 0,
        (1e-4, 2): 0,
        (5e-4, 0): 0,
        (5e-4, 1): 1,
        (5e-4, 2): 0,
        (9e-4, 1): 1,
        (9e-4, 2): 1,
    }
    table = {
        "rate": np.array([rate for rate, _ in hits] * 2),
        "step": np.array([step for _, step in hits] * 2),
        "part": ["scored"] * len(hits) + ["taught"] * len(hits),
        "hit": np.array([*hits.values(), *[0] * len(hits)]),
    }
    course = overview._best_course(table)
    assert course is not None
    assert (course.recall.tolist(), course.step[course.best]) == ([0, 1, 0], 1)
    assert course.taught[1].tolist() == [0, 0, 0]
    unasked = {name: np.asarray(column)[:1] for name, column in table.items()}
    assert overview._best_course(unasked) is None
