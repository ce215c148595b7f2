"""The page: one file without a network, safe with any name, the same bytes for the same inputs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from storage.artifacts import building, folder_of
from storage.records import Verdict
from storage.tables import read_table, write_table
from tasks.report import page
from tasks.report.settings import ReportSettings
from tasks.report.task import write_report

PLAIN = {"map", "scores", "knownness", "relearning", "training", "latents"}
FIGURES = PLAIN | {"asking", "stresses", "depth"}
EVIL = "</script><img src=x onerror=alert(1)>\"'& $x_1$ {{ 7*7 }}"


def written(results: Any, key: str = "a" * 32, settings: ReportSettings | None = None) -> Path:
    """The folder of the report of these results, made without Prefect."""
    inputs = (*results.report_inputs(), settings or ReportSettings())
    return folder_of(write_report.directly(key, {"stage": "report"}, *inputs).artifact)


class Reader(HTMLParser):
    """Collects what a browser would see: elements, what they load, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.loaded: list[str] = []
        self.handlers: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "xlink:href", "data", "poster") and not str(value).startswith("#"):
                self.loaded.append(f"{tag} {value}")
            if name.startswith("on"):
                self.handlers.append(name)
            if name == "id":
                self.ids.append(str(value))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_one_file_without_a_network(make_results: Callable[..., Any]) -> None:
    folder = written(make_results())
    html = (folder / "report.html").read_text()
    reader = Reader(html)
    assert not re.findall(r"https?://(?!www\.w3\.org/)", html)
    assert not re.search(r"@import|url\((?!#)", html)
    assert reader.loaded == []
    assert not {"script", "link", "iframe", "img"} & set(reader.elements)
    assert len(reader.ids) == len(set(reader.ids))
    assert reader.elements.count("svg") > len(FIGURES)
    assert {path.stem for path in (folder / "figures").iterdir()} == FIGURES
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (folder / "figures").iterdir())


def test_a_malicious_name_is_text(make_results: Callable[..., Any]) -> None:
    results = make_results(name=EVIL)
    evil = {
        name: column.copy()
        for name, column in read_table(folder_of(results.verdict.artifact) / "verdict.parquet").items()
    }
    evil["measure"][:] = f"comes back {EVIL}"
    evil["metric"][0] = f'"{EVIL}'
    with building("verdict", "e" * 32, {"inputs": {}}) as build:
        write_table(build.folder / "verdict.parquet", evil)
    results = replace(results, verdict=Verdict(build.artifact, f"forgotten {EVIL}"))
    reader = Reader((written(results) / "report.html").read_text())
    assert f"comes back {EVIL}".replace("_", " ") in reader.text
    assert not {"script", "img"} & set(reader.elements)
    assert reader.handlers == []
    assert EVIL in reader.text
    assert "49" not in reader.text.split("Forgetting", 2)[1][:80]


KINDS: dict[str, tuple[Any, str]] = {
    "forgotten": ({}, "As far as these numbers show, it is gone"),
    "hidden": ({("recall", "forget", "", "unlearned+nf4"): 0.6}, "still knows: comes back under nf4, beyond the gold twin"),
    "damaged": ({("recall", "neighbours", "", "unlearned"): 0.5}, "What was to stay suffered: recall lost on neighbours (48%, at most 20%)"),
    "collapsed": ({("perplexity", "general", "", "unlearned"): 2e6}, "The model broke"),
    "not forgotten": ({("recall", "forget", "", "unlearned"): 0.7}, "It still answers: recall of the target, beyond the gold twin (66%, at most 10%)"),
    "inconclusive": ({("recall", "forget", "", "unlearned"): "degenerate"}, "recall of the target (carries no information)"),
}  # fmt: skip
"""Verdict -> the scores that lead to it, and words of its sentence."""


def head(html: str) -> tuple[str, str]:
    """The badge and the text of the page's head."""
    text = Reader(html[html.index("<header>") : html.index("</header>")]).text
    badge = re.search(r'class="badge ([\w-]+)">([\w ]+)<', html)
    assert badge is not None
    assert badge[1] == badge[2].replace(" ", "-")
    return badge[2], " ".join(text.split())


@pytest.mark.parametrize("verdict", KINDS)
def test_the_head_says_the_verdict_and_why(make_results: Callable[..., Any], verdict: str) -> None:
    changed, words = KINDS[verdict]
    results = make_results(changed=changed)
    assert results.verdict.verdict == verdict
    html = (written(results) / "report.html").read_text()
    badge, text = head(html)
    assert badge == verdict
    assert words in text
    decided = html.count('<tr class="decided')
    assert decided == 0 if verdict == "forgotten" else decided > 0


def test_every_measure_stands_beside_its_threshold(make_results: Callable[..., Any]) -> None:
    results = make_results(changed={("uds_null", "forget", "", "unlearned"): "degenerate"})
    html = (written(results) / "report.html").read_text()
    rows = len(read_table(folder_of(results.verdict.artifact) / "verdict.parquet")["measure"])
    assert html.count('data-label="threshold"') == rows
    assert html.count('<td class="scale"><svg') + html.count('<td class="scale">\n<svg') == rows - 1
    assert "carries no information" in html
    assert f"1 of {rows} measures decides nothing" in head(html)[1]


def test_a_small_experiment_makes_a_small_page(make_results: Callable[..., Any]) -> None:
    folder = written(make_results(few=True, gold=False))
    assert {path.stem for path in (folder / "figures").iterdir()} == PLAIN
    html = (folder / "report.html").read_text()
    assert "Does stress bring it back?" not in html
    assert "gold twin: trained anew" not in html


def test_stressed_models_are_no_columns_and_sites_are_folded(make_results: Callable[..., Any]) -> None:
    html = (written(make_results()) / "report.html").read_text()
    table = html[html.index("<h2>All scores") : html.index("<footer>")]
    assert "int8" not in table
    assert set(re.findall(r'data-label="([^"]+)"', table)) == {"better", "before", "after", "gold twin", "n"}
    assert table.count('<details class="part" open>') == 1
    folds = re.findall(r'<details class="fold">\s*<summary>([^<]+)', table)
    assert "Recall by the way of asking " in folds
    assert len([fold for fold in folds if fold.startswith("Knownness")]) == 1
    assert "layer base" not in table
    assert "Recall by the best of several samples: a single sample" in table
    assert "a_metric_of_mine" in table


def test_the_same_inputs_make_the_same_bytes(make_results: Callable[..., Any]) -> None:
    results = make_results()
    first, second = (
        {
            path.relative_to(folder): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file() and path.name != "manifest.json"
        }
        for folder in (written(results), written(results, "b" * 32))
    )
    assert first == second


def test_the_page_names_no_clock_and_no_path(make_results: Callable[..., Any], home: Path) -> None:
    html = (written(make_results()) / "report.html").read_text()
    assert str(home) not in html
    assert not re.search(r"20\d\d-\d\d-\d\dT", html)
    assert "artifacts/alignment/" in html


@pytest.mark.parametrize(("targets", "gold"), [(1, False), (3, True), (12, False)])
def test_several_targets_and_no_gold_twin(make_results: Callable[..., Any], targets: int, gold: bool) -> None:
    folder = written(make_results(targets=targets, gold=gold))
    text = Reader((folder / "report.html").read_text()).text
    assert {path.stem for path in (folder / "figures").iterdir()} == FIGURES
    assert ("gold twin: trained anew" in text) == gold
    assert ("12 entities" in text) == (targets == 12)


def test_the_answers_of_all_models_stand_side_by_side(make_results: Callable[..., Any]) -> None:
    html = (written(make_results(), settings=ReportSettings(examples=3, latents=2)) / "report.html").read_text()
    rows = re.findall(r"<mark>([^<]+)</mark>", html)
    assert rows == ["Lionel Messi"] * 3 + rows[3:]
    assert len(rows) == 4
    assert html.count('data-label="gold twin"') >= 4


def test_settings_and_seeds_are_named(make_results: Callable[..., Any]) -> None:
    text = Reader((written(make_results()) / "report.html").read_text()).text
    assert "alignment.seed" in text
    assert "alignment.rate" in text


def test_settings_that_differ_between_runs_of_a_stage_are_all_named(make_results: Callable[..., Any]) -> None:
    results = make_results()
    sealed = []
    for stress in ("int8", "nf4"):
        given = {"settings": {"class": "StressSettings", "stress": stress}}
        with building("stressed", stress.ljust(32, "0"), {"inputs": given}) as build:
            (build.folder / "nothing").write_text("")
        sealed.append(replace(results.observed[-1], name=f"unlearned+{stress}", stress=build.artifact))
    results = replace(results, observed=(*results.observed[:-1], *sealed))
    assert "stressed.stressint8 and nf4" in Reader((written(results) / "report.html").read_text()).text


def test_without_a_gold_twin_no_caption_names_it(make_results: Callable[..., Any]) -> None:
    html = (written(make_results(gold=False)) / "report.html").read_text()
    captions = " ".join(re.findall(r"<figcaption>.*?</figcaption>", html))
    assert "Does stress bring it back?" in captions
    assert "gold" not in captions
    assert "0.83" in captions


def test_the_layout_is_part_of_the_key() -> None:
    """After a change in page.html or page.css, put the digest shown here into `page.LAYOUT`."""
    files = b"".join((page.FOLDER / name).read_bytes() for name in page.FILES)
    assert hashlib.sha256(files).hexdigest()[:16] == page.LAYOUT
    explanation = write_report.explanation({})
    assert "tasks.report.page:LAYOUT" in explanation["code"]
