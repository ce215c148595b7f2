"""A comparison in little: tuned, broken off and gone on with, foreseen, failing in part, written to MLflow."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows import cli
from flows.commands.compare import print_turned
from flows.compare import compare
from flows.comparing.cells import Cell, run_cell, wanted
from flows.comparing.comparison import kept
from flows.comparing.parts import read_parts
from flows.comparing.planning import plan_comparison
from flows.unlearn import Outcome
from storage.artifacts import artifacts_root
from storage.records import UsageError
from storage.settings import tracking_uri
from tasks.caching import Journal, journal

pytestmark = pytest.mark.timeout(600)

COMPARED: dict[str, Any] = {"methods": ["npo", "no_op"], "count": 1, "overrides": ["alignment.steps=2"]}
TUNED = COMPARED | {"trials": 2, "validation": 1}


@pytest.fixture(scope="module", autouse=True)
def home(quick: tuple[Path, Outcome, Journal], tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A copy of what the run of `quick` left: its own home stays as a single run leaves it."""
    copy = tmp_path_factory.mktemp("compare") / "home"
    shutil.copytree(quick[0], copy)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAE_UNLEARN_HOME", str(copy))
        yield


def _run_of_cell(cell: Cell) -> Any:
    """Of the comparison's runs in MLflow, that of the cell."""
    import mlflow

    found = mlflow.MlflowClient(tracking_uri()).search_runs(
        [each.experiment_id for each in mlflow.MlflowClient(tracking_uri()).search_experiments()],
        filter_string=f"tags.key = '{cell.key}'",
    )
    assert len(found) == 1
    return found[0]


def test_comparison_broken_off_goes_on_where_it_was(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done: list[Cell] = []

    def until_the_second(cell: Cell) -> Any:
        if done:
            raise KeyboardInterrupt
        done.append(cell)
        return run_cell(cell)

    with monkeypatch.context() as patch, journal() as log:
        patch.setattr("flows.compare.run_cell", until_the_second)
        with pytest.raises(KeyboardInterrupt):
            compare("quick", **TUNED)
    computed = [run.stage for run in log.runs if run.state == "computed"]
    assert computed.count("alignment") == 4, "3 trials and a cell"
    assert not {"world", "testbed", "entities", "activations", "autoencoder", "latents"} & set(computed)
    plan = plan_comparison(wanted("quick", **TUNED))
    assert (plan.cells, plan.cached, plan.unforeseen) == (2, 1, 0)
    assert [(each.method, each.trials, each.cached) for each in plan.trials] == [("npo", 2, 2), ("no_op", 1, 1)]
    assert next(each for each in plan.stages if each.stage == "alignment").to_compute == 1

    with journal() as log:
        result = compare("quick", **TUNED)
    assert [run.stage for run in log.runs if run.state == "computed"].count("alignment") == 1
    assert (result.cells, result.failures) == (2, ())
    assert {row["method"] for row in result.summary} == {"npo", "no_op", "(base)", "(gold)"}
    for method in ("npo", "no_op"):
        cost = {row["metric"]: row["value"] for row in result.summary if row["method"] == method and not row["split"]}
        assert cost["seconds"] > 0
        assert cost["peak_megabytes"] >= 0
        assert 0 < cost["balance"] < 1
    files = {path.name for path in result.folder.iterdir()}
    assert files == {
        *(f"{name}.parquet" for name in ("cells", "summary", "verdicts", "paired", "trials")),
        *("comparison.json", "summary.md", "pareto.png", "studies.journal"),
    }
    trials = kept(result.folder, "trials")
    assert [(row["method"], row["trial"], row["failure"]) for row in trials] == [
        ("npo", 0, ""),
        ("npo", 1, ""),
        ("no_op", 0, ""),
    ]
    assert {row["method"] for row in kept(result.folder, "cells")} == {"npo", "no_op", "(base)", "(gold)"}
    assert "| npo |" in (result.folder / "summary.md").read_text()
    tuned = {each.method: each for each in result.tuned}
    run = _run_of_cell(done[0])
    assert run.data.tags["comparison"] == result.tracked
    assert float(run.data.params["learning_rate"]) == pytest.approx(
        tuned["npo"].learning_rate or trials[0]["learning_rate"]
    )
    assert run.data.metrics["balance"] == pytest.approx(
        next(row["value"] for row in result.summary if (row["method"], row["metric"]) == ("npo", "balance"))
    )

    asked = ["--experiment", "quick", "--methods", "npo,no_op", "--targets", "1", "--set", "alignment.steps=2"]
    assert cli.run_command(["compare", *asked, "--trials", "2", "--validation", "1", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {stage["state"] for stage in document["stages"]} == {"cached"}
    assert (document["folder"], document["tracked"]) == (str(result.folder), result.tracked)
    assert {row["method"] for row in document["paired"]} == {"npo", "no_op"}


def test_part_computed_elsewhere_is_counted_and_not_computed_again(tmp_path: Path) -> None:
    part = compare("quick", **TUNED | {"methods": ["npo"]})
    elsewhere = str(shutil.copytree(part.folder, tmp_path / "part"))
    asked = wanted("quick", **TUNED)
    plan = plan_comparison(asked, [elsewhere])
    assert (plan.cells, [each.method for each in plan.trials]) == (2, ["no_op"])
    with journal() as log:
        whole = compare("quick", **TUNED, parts=[elsewhere])
    assert [run.stage for run in log.runs].count("alignment") == 2, "a trial and the cell of no_op, none of npo"
    assert whole.cells == 2
    assert whole.folder != part.folder
    assert {row["method"] for row in whole.paired} == {"npo", "no_op"}
    balance = {row["method"]: row["value"] for row in whole.summary if row["metric"] == "balance"}
    assert balance["npo"] == next(
        row["value"] for row in part.summary if (row["method"], row["metric"]) == ("npo", "balance")
    )
    assert [row["method"] for row in kept(whole.folder, "trials")] == ["npo", "npo", "no_op"]

    both = compare("quick", **TUNED, parts=[elsewhere, str(whole.folder)])
    assert repr(both.summary) == repr(whole.summary), "a cell that two parts hold counts once; NaN is not NaN"
    assert kept(both.folder, "trials") == kept(whole.folder, "trials")


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"overrides": ["alignment.steps=3"]}, r"its alignment.steps is 2, expected 3 as it is here"),
        ({"trials": 3}, r"its --trials is 2, expected 3"),
    ],
)
def test_part_with_other_settings_is_refused(changed: dict[str, Any], told: str) -> None:
    part = compare("quick", **TUNED | {"methods": ["npo"]})
    with pytest.raises(UsageError, match=rf"--add .*: {told}"):
        read_parts([str(part.folder)], wanted("quick", **TUNED | changed))


def test_part_that_is_none_or_was_tuned_otherwise_is_refused(tmp_path: Path) -> None:
    asked = wanted("quick", **TUNED)
    with pytest.raises(
        UsageError, match=r"expected a folder that `sae-unlearn compare` left, with comparison.json in it"
    ):
        read_parts([str(tmp_path)], asked)
    part = compare("quick", **TUNED | {"methods": ["npo"]})
    other = shutil.copytree(part.folder, tmp_path / "other")
    document = json.loads((other / "comparison.json").read_text())
    document["methods"]["npo"]["learning_rate"] = 0.5
    (other / "comparison.json").write_text(json.dumps(document))
    with pytest.raises(UsageError, match="'npo' was tuned to other settings there than in the folder before"):
        read_parts([str(part.folder), str(other)], asked)


def test_cell_that_fails_counts_nothing_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def diverges(cell: Cell) -> Any:
        if cell.method == "npo":
            raise ArithmeticError("the loss is\nnan")
        return run_cell(cell)

    monkeypatch.setattr("flows.compare.run_cell", diverges)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9/")
    result = compare("quick", **COMPARED)
    assert result.cells == 1
    assert result.failures == (f"npo, mix, {result.verdicts[0]['name']}, seed 0: the loss is nan",)
    balance = next(row for row in result.summary if (row["method"], row["metric"]) == ("npo", "balance"))
    assert (balance["value"], balance["state"]) == (0.0, "failed in 1 of 1")
    assert [(row["method"], row["verdict"]) for row in result.verdicts] == [
        ("npo", "failed"),
        ("no_op", result.verdicts[1]["verdict"]),
    ]
    assert result.tracked == "", "MLflow is not there; the tables are"
    assert (result.folder / "cells.parquet").is_file()
    monkeypatch.setattr("flows.compare.run_cell", lambda cell: diverges(dataclasses.replace(cell, method="npo")))
    with pytest.raises(UsageError, match="no cell of the comparison could be run"):
        compare("quick", **COMPARED)


def test_dry_run_of_a_comparison_computes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["compare", "--experiment", "quick", "--methods", "rmu,no_op", "--targets", "2", "--validation", "1"]
    before = sorted(artifacts_root().rglob("*"))
    assert cli.run_command([*asked, "--dry-run", "--set", "alignment.steps=3"]) == 0
    out = capsys.readouterr().out
    assert "4 cells: 0 cached, 4 to compute" in out
    assert cli.run_command([*asked, "--dry-run", "--trials", "5", "--json", "--set", "alignment.steps=3"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["cells"], plan["cached"], plan["unforeseen"]) == (4, 0, 4)
    assert plan["trials"] == [
        {"method": "rmu", "trials": 5, "cached": 0},
        {"method": "no_op", "trials": 1, "cached": 0},
    ]
    assert cli.run_command([*asked, "--dry-run", "--set", "testbed.seed=77"]) == 0
    out = capsys.readouterr().out
    assert "4 cells with targets that the model has to be asked for" in out
    assert sorted(artifacts_root().rglob("*")) == before


def test_many_methods_are_printed_a_few_at_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    print_turned(["method", "recall"], [[f"m{number}", f"0.{number}"] for number in range(8)], "8 cells")
    printed = capsys.readouterr().out
    heads = [line.split() for line in printed.splitlines() if line.startswith(" method")]
    assert heads == [["method", *(f"m{number}" for number in range(6))], ["method", "m6", "m7"]]
    values = [line.split()[1:] for line in printed.splitlines() if line.startswith(" recall")]
    assert [value for line in values for value in line] == [f"0.{number}" for number in range(8)]
    assert printed.count("8 cells") == 1
