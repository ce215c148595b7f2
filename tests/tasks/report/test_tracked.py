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
from storage.records import ReleasedModel, Report
from storage.tables import read_table
from storage.tracking import RunContent, Written
from tasks.report.task import track
from tasks.report.tracked import HEADLINE, description, score_metrics, training_curves


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


def test_sets_and_stresses_have_names_of_their_own(make_results: Callable[..., Any]) -> None:
    values, _ = score_metrics(read_table(folder_of(make_results().scorecard.artifact) / "scores.parquet"))
    assert values["forget", "set_recall_cloze"] == pytest.approx(0.13)
    assert ("forget", "attack_recall_role_play") in values
    assert values["stress", "unlearned_int8_recall"] == pytest.approx(0.1)
    assert not any("+" in section + name or name.startswith(("base_", "gold_")) for section, name in values)
    inside = [name for section, name in values if section == "inside"]
    assert inside
    assert not any("set_recall" in name or "attack" in name for name in inside)


def test_many_scores_are_cut_down_to_those_that_say_most() -> None:
    rows = [
        (f"metric_{number}", split, f"residual_{layer}@{position}" if layer >= 0 else "", model, 0.5, 0.4, 0.6, 8, "lower", "ok")
        for number in range(12)
        for split in ("forget", "neighbours", "retain")
        for layer in range(-1, 4)
        for position in ("name_last", "prompt_last")[: 1 if layer < 0 else 2]
        for model in ("base", "unlearned", "gold", "unlearned+int8")
    ] + [("knownness_auroc", "forget", "residual_0@name_last", "unlearned", 0.5, 0.4, 0.6, 8, "lower", "ok")
    ] + [(metric, split, "", "unlearned", 0.5, 0.4, 0.6, 8, "lower", "degenerate") for metric, split in HEADLINE]  # fmt: skip
    names = ("metric", "split", "site", "model", "value", "low", "high", "count", "better", "state")
    values, states = score_metrics(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))
    assert len(values) <= 150
    assert {(split, metric) for metric, split in HEADLINE} < set(values)
    assert {("forget", f"metric_{number}") for number in range(12)} < set(values)
    assert ("inside", "knownness_auroc_0_name_last") in values
    assert set(states) == {f"{split}/{metric}" for metric, split in HEADLINE}


def test_places_of_two_splits_keep_apart() -> None:
    names = ("metric", "split", "site", "model", "value", "low", "high", "count", "better", "state")
    rows = [("m", split, "residual_1", "unlearned", 0.5, 0.4, 0.6, 8, "lower", "ok") for split in ("forget", "retain")]
    values, _ = score_metrics(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))
    assert set(values) == {("inside", "m_1"), ("inside", "retain_m_1")}


@pytest.mark.parametrize(("recall", "verdict"), [(0.05, "forgotten"), (0.8, "not forgotten")])
def test_the_description_leads_with_the_verdict(make_results: Callable[..., Any], recall: float, verdict: str) -> None:
    results = make_results(changed={("recall", "forget", "", "unlearned"): recall})
    scores = read_table(folder_of(results.scorecard.artifact) / "scores.parquet")
    evidence = read_table(folder_of(results.verdict.artifact) / "verdict.parquet")
    sentence, told = description(scores, ("Ada",), results.verdict.verdict, evidence)
    assert told.startswith(f"**{verdict.capitalize()}.** {sentence}")
    assert "report.html" in told


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
    released = ReleasedModel(results.unlearned.artifact, results.unlearned.model)
    parameters = (("alignment.seed", "3"),)
    tracked = track.directly(
        "t" * 32, {"stage": "tracking"},
        "sqlite:///x", "id", "default", results.world, results.model, results.forget_set, results.unlearned, released, results.scorecard,
        results.verdict, Report(build.artifact), parameters,
    )  # fmt: skip
    content = sent[0]
    assert "/" not in content.experiment
    assert content.key == results.unlearned.artifact.key
    assert content.tags["seed"] == "3"
    assert content.tags["targets"] == "A/B"
    assert content.tags["scores"] == results.scorecard.artifact.key
    assert {metric.name.split("/")[0] for metric in content.curves} == {"train"}
    assert content.method == "sae_guided"
    assert content.registered_model.endswith(results.forget_set.artifact.content[:8])
    assert (content.model / "config.json").is_file()
    assert all(path.exists() for path, _ in content.files)
    assert content.tags["verdict"] == results.verdict.verdict == "forgotten"
    assert content.description.startswith("**Forgotten.**")
    assert ": forgotten. " in content.summary
    assert {path.name for path, _ in content.files} >= {"scores.parquet", "verdict.parquet", "report.html"}
    document = json.loads((folder_of(tracked.artifact) / "run.json").read_text())
    assert document["run"] == tracked.run_id == "run"
    assert document["model"] == tracked.model_version
    assert str(home) not in json.dumps(document)
