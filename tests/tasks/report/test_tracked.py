"""What of a run goes into MLflow, and the door that sends it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage import tracking
from storage.artifacts import building, folder_of
from storage.records import Report
from storage.tables import read_table
from storage.tracking import RunContent, Written
from tasks import caching
from tasks.report.task import track
from tasks.report.tracked import score_metrics, training_curves


def test_metrics_stand_in_sections(make_results: Callable[..., Any]) -> None:
    results = make_results(gold=False)
    values, states = score_metrics(read_table(folder_of(results.scorecard.artifact) / "scores.parquet"))
    assert values["forget", "recall"] == pytest.approx(0.1)
    assert values["forget", "recall_low"] < values["forget", "recall"] < values["forget", "recall_high"]
    assert ("forget", "rank_low") not in values
    assert ("inside", "knownness_auroc_2_prompt_last") in values
    assert values["base", "forget_recall"] == pytest.approx(0.98)
    assert not any(section == "gold" for section, _ in values)
    assert states["inside/knownness_auroc_0_name_last"] == "degenerate"
    assert all(np.isfinite(value) for value in values.values())


def test_curves_leave_out_what_is_no_number() -> None:
    columns = {"step": np.array([0, 1]), "name": ["total", "total"], "value": np.array([1.0, np.nan])}
    assert training_curves(columns) == [("total", 0, 1.0)]


def test_the_door_sends_the_run_and_keeps_where_it_is(
    make_results: Callable[..., Any], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[RunContent] = []

    def write_run(content: RunContent) -> Written:
        sent.append(content)
        return Written("run", content.experiment, f"models:/{content.registered_model}/1")

    monkeypatch.setattr(tracking, "write_run", write_run)
    results = make_results(name="A/B")
    with building("report", "r" * 32) as build:
        (build.folder / "report.html").write_text("page")
        (build.folder / "figures").mkdir()
    caching._running.set(("tracking", "t" * 32, {"stage": "tracking"}))
    parameters = (("alignment.seed", "3"),)
    tracked = track.function(
        "sqlite:///x", "id", "default", results.world, results.model, results.forget_set, results.unlearned, results.scorecard, Report(build.artifact), parameters
    )  # fmt: skip
    content = sent[0]
    assert "/" not in content.experiment
    assert content.key == results.unlearned.artifact.key
    assert content.tags["seed"] == "3"
    assert content.tags["targets"] == "A/B"
    assert content.tags["scores"] == results.scorecard.artifact.key
    assert {metric.name.split("/")[0] for metric in content.curves} == {"train"}
    assert content.alias == "latest-sae_guided"
    assert (content.model / "config.json").is_file()
    assert all(path.exists() for path, _ in content.files)
    assert "Forgotten" in content.description or "forgotten" in content.description
    document = json.loads((folder_of(tracked.artifact) / "run.json").read_text())
    assert document["run"] == tracked.run_id == "run"
    assert document["model"] == tracked.model_version
    assert str(home) not in json.dumps(document)
