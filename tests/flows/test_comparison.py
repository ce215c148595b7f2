"""What a comparison comes to: means and paired differences by hand, ranking, the table, the files, the runs."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import optuna
import pytest

from flows.comparing import cells
from flows.comparing.cells import Cell, validation_targets, wanted
from flows.comparing.comparison import (
    SHOWN,
    as_runs,
    each_once,
    keep,
    kept,
    markdown,
    paired_with_best,
    pivot,
    summarise,
)
from flows.comparing.parts import describe, read_parts
from flows.comparing.tuning import Tuned
from flows.experiment import Experiment
from storage.records import UsageError

DRAWS, CONFIDENCE = 400, 0.95


def row(method: str, target: str, value: float, metric: str = "balance", **changed: Any) -> dict[str, Any]:
    split = "" if metric in ("balance", "forgetting", "utility", "seconds", "peak_megabytes") else "forget"
    place = {"tail": "mix", "method": method, "target": target, "name": target.upper(), "seed": 0, "stress": ""}
    scored = {"metric": metric, "split": split, "site": "", "value": value, "low": value - 0.1, "high": value + 0.1}
    return place | scored | {"better": "higher", "state": "ok"} | changed


def summary_of(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return summarise(rows, DRAWS, CONFIDENCE)


def the(rows: list[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    """The one row that is so."""
    found = [each for each in rows if wanted.items() <= each.items()]
    assert len(found) == 1, found
    return found[0]


def paired_of(values: dict[str, list[float]], **changed: Any) -> list[dict[str, Any]]:
    rows = [
        row(method, f"t{index}", value, **changed) for method, per in values.items() for index, value in enumerate(per)
    ]
    return paired_with_best(rows, DRAWS, CONFIDENCE)


def test_every_target_counts_the_same_however_many_seeds_it_has() -> None:
    rows = [row("npo", "a", 0.2), row("npo", "a", 0.4, seed=1), row("npo", "b", 0.9)]
    found = the(summary_of(rows), method="npo")
    assert found["value"] == pytest.approx((0.3 + 0.9) / 2)
    assert found["low"] == pytest.approx(0.2, abs=0.05)
    assert found["high"] == pytest.approx(0.9)
    assert (found["cells"], found["state"], found["better"]) == (3, "ok", "higher")


def test_what_every_cell_has_in_common_counts_once() -> None:
    """Base and gold stand in the cells of each method."""
    rows = [row("(base)", "a", 0.1), row("(base)", "a", 0.1), row("(base)", "b", 0.3)]
    found = the(summary_of(rows), method="(base)")
    assert (found["cells"], found["value"]) == (2, pytest.approx(0.2))


def test_base_and_gold_are_kept_once_however_many_cells_bring_them(tmp_path: Path) -> None:
    rows = [row("npo", "a", 0.5), row("(gold)", "a", 0.9), row("dpo", "a", 0.4), row("(gold)", "a", 0.9)]
    assert each_once(rows) == rows[:3]
    asked = wanted("quick", ["npo"], trials=2)
    tables = {"cells": rows, "summary": [], "verdicts": VERDICTS, "paired": []}
    keep(tmp_path, tables, describe(asked, ()), [])
    assert [each["method"] for each in read_parts([str(tmp_path)], asked).rows].count("(gold)") == 1


def test_cells_whose_own_interval_holds_the_ideal_are_counted() -> None:
    shares = {"a": 0.55, "b": 0.35, "c": 0.62}
    rows = [row("npo", each, value, "knownness_auroc", better="toward 0.5") for each, value in shares.items()]
    assert the(summary_of(rows), metric="knownness_auroc")["holding"] == 1
    assert the(summary_of([row("npo", "a", 0.5)]), metric="balance")["holding"] == 0, "'higher' is no number"


def test_states_that_are_not_ok_are_said_and_numbers_that_are_none_left_out() -> None:
    rows = [row("npo", "a", 0.2), row("npo", "b", math.nan, state="degenerate"), row("npo", "c", 0.6)]
    found = the(summary_of(rows), method="npo")
    assert found["state"] == "degenerate in 1 of 3"
    assert found["value"] == pytest.approx(0.4)


def test_kinds_of_world_are_never_mixed() -> None:
    rows = [row("npo", "a", 0.2), row("npo", "a", 0.8, tail="head")]
    found = summary_of(rows)
    assert the(found, tail="mix")["value"] == 0.2
    assert the(found, tail="head")["value"] == 0.8


def test_paired_differences_by_hand() -> None:
    found = paired_of({"best": [0.9, 0.5, 0.7], "near": [0.95, 0.4, 0.7], "far": [0.6, 0.2, 0.3]})
    assert {each["best"] for each in found} == {"best"}
    assert the(found, method="best")["difference"] == 0
    assert the(found, method="near")["difference"] == pytest.approx((0.05 - 0.1 + 0.0) / 3)
    far = the(found, method="far")
    assert far["difference"] == pytest.approx(-(0.3 + 0.3 + 0.4) / 3)
    assert far["low"] == pytest.approx(-0.4)
    assert far["high"] == pytest.approx(-0.3)
    assert far["cells"] == 3


def test_level_are_those_whose_interval_does_not_lie_below_the_best() -> None:
    found = paired_of({"best": [0.9, 0.5, 0.7], "near": [0.95, 0.4, 0.7], "far": [0.6, 0.2, 0.3]})
    assert {each["method"]: each["level"] for each in found} == {"best": True, "near": True, "far": False}


def test_pairing_sees_what_spread_over_targets_hides() -> None:
    """Always .05 less, on targets that lie far apart."""
    values = [0.1, 0.9, 0.3, 0.8]
    found = paired_of({"best": values, "less": [value - 0.05 for value in values]})
    assert not the(found, method="less")["level"]


def test_of_one_target_nobody_is_told_from_anybody() -> None:
    found = paired_of({"best": [0.9], "far": [0.1]})
    assert math.isnan(the(found, method="far")["high"])
    assert all(each["level"] for each in found)


def test_only_the_cells_of_both_are_paired_and_only_balances_of_methods() -> None:
    rows = [
        row("best", "a", 0.9),
        row("best", "b", 0.8),
        row("other", "b", 0.3),
        row("(gold)", "a", 1.0),
        row("other", "b", 0.99, stress="int8"),
        row("other", "b", 0.99, metric="recall"),
    ]
    found = paired_with_best(rows, DRAWS, CONFIDENCE)
    assert {each["method"] for each in found} == {"best", "other"}
    other = the(found, method="other")
    assert (other["cells"], other["difference"]) == (1, pytest.approx(-0.5))


def test_every_kind_of_world_has_a_best_of_its_own() -> None:
    rows = [row("a", "t", 0.9), row("b", "t", 0.1), row("a", "t", 0.1, tail="head"), row("b", "t", 0.9, tail="head")]
    found = paired_with_best(rows, DRAWS, CONFIDENCE)
    assert {(each["tail"], each["best"]) for each in found} == {("mix", "a"), ("head", "b")}


ROWS = [
    *[row("worse", target, value) for target, value in (("a", 0.1), ("b", 0.2), ("c", 0.15))],
    *[row("better", target, value) for target, value in (("a", 0.8), ("b", 0.9), ("c", 0.85))],
    row("(gold)", "a", 0.95),
    row("(base)", "a", 0.05),
    row("better", "a", 0.9, "knownness_auroc", site="residual_2@prompt_last", better="toward 0.5"),
    row("better", "a", 0.52, "knownness_auroc", site="residual_10@prompt_last", better="toward 0.5"),
    row("better", "a", 0.3, "recall"),
    row("better", "a", 0.7, "recall", stress="int8"),
    row("better", "a", 12.4, "seconds"),
    row("better", "a", 812.6, "peak_megabytes"),
]
VERDICTS = [
    {"tail": "mix", "method": "better", "target": each, "name": each, "seed": 0, "verdict": verdict, "decided_by": ""}
    for each, verdict in (("a", "hidden"), ("b", "forgotten"), ("c", "hidden"))
]


def table(rows: list[dict[str, Any]] = ROWS) -> dict[str, dict[str, str]]:
    """The printed table: method -> column -> cell."""
    header, lines = pivot(summary_of(rows), VERDICTS, paired_with_best(rows, DRAWS, CONFIDENCE))
    return {line[header.index("method")]: dict(zip(header, line, strict=True)) for line in lines}


def test_baselines_stand_above_and_methods_by_balance() -> None:
    assert list(table()) == ["(gold)", "(base)", "better", "worse"]


def test_the_table_shows_the_deepest_site_the_plain_model_and_what_counts_as_level() -> None:
    found = table()
    assert found["better"]["knownness auroc forget"] == "0.520 1/1"
    assert found["better"]["recall forget"] == "0.300"
    assert found["better"]["balance"].endswith(" =")
    assert not found["worse"]["balance"].endswith("=")
    assert (found["better"]["seconds"], found["better"]["peak megabytes"]) == ("12", "813")
    assert found["worse"]["seconds"] == "-"
    assert found["better"]["verdicts"] == "2 hidden, 1 forgotten"
    assert found["worse"]["verdicts"] == "-"


def test_of_several_kinds_of_world_each_line_says_which() -> None:
    rows = [*ROWS, *(each | {"tail": "head"} for each in ROWS if each["method"] != "worse")]
    header, lines = pivot(summary_of(rows), VERDICTS)
    assert header[:2] == ["tail", "method"]
    assert [line[:2] for line in lines] == [
        *(["head", each] for each in ("(gold)", "(base)", "better")),
        *(["mix", each] for each in ("(gold)", "(base)", "better", "worse")),
    ]


def test_markdown_has_a_cell_a_column() -> None:
    lines = markdown(summary_of(ROWS), VERDICTS).splitlines()
    assert {line.count("|") for line in lines} == {len(SHOWN) + 3}
    assert lines[1].startswith("| --- | ---: |")
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["(gold)", "(base)", "better", "worse"]


def test_what_is_kept_can_be_read_again(tmp_path: Path) -> None:
    summary, paired = summary_of(ROWS), paired_with_best(ROWS, DRAWS, CONFIDENCE)
    trial = {"method": "better", "trial": 0, "value": 0.5, "learning_rate": 1e-3, "settings": "", "failure": ""}
    tables = {"cells": ROWS, "summary": summary, "verdicts": VERDICTS, "paired": paired, "trials": [trial]}
    study = (optuna.trial.create_trial(value=0.5),)
    folder = keep(tmp_path / "a" / "b", tables, {"methods": {}}, [Tuned("better", 0.0, (), (trial,), study)])
    assert kept(folder, "cells") == ROWS
    assert json.loads((folder / "comparison.json").read_text()) == {"methods": {}}
    assert kept(folder, "paired") == paired
    assert kept(folder, "verdicts") == VERDICTS
    assert kept(folder, "trials") == [trial]
    again = kept(folder, "summary")
    assert [each["value"] for each in again] == pytest.approx([each["value"] for each in summary])
    assert (folder / "summary.md").read_text() == markdown(summary, VERDICTS, paired) + "\n"
    assert (folder / "pareto.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "studies.journal").is_file()


def test_without_trials_there_are_no_studies(tmp_path: Path) -> None:
    tables = {"cells": ROWS, "summary": summary_of(ROWS), "verdicts": VERDICTS, "paired": [], "trials": []}
    folder = keep(tmp_path, tables, {}, [Tuned("better", 0.0, ())])
    assert sorted(path.name for path in folder.iterdir()) == [
        "cells.parquet",
        "comparison.json",
        "pareto.png",
        "summary.md",
        "summary.parquet",
        "verdicts.parquet",
    ]


def cell(method: str, target: str, seed: int = 0, **alignment: Any) -> Cell:
    experiment = Experiment()
    alignment = {"method": method, "seed": seed, **alignment}
    return Cell(
        method,
        target,
        target.upper(),
        seed,
        dataclasses.replace(experiment, alignment=dataclasses.replace(experiment.alignment, **alignment)),
    )


def test_a_run_says_what_its_cell_was_set_to_and_what_it_came_to() -> None:
    cells = [cell("npo", "a", learning_rate=0.02, settings=(("beta", 0.3),)), cell("npo", "b")]
    rows = [
        row("npo", "a", 0.7),
        row("npo", "a", 0.6, "forgetting"),
        row("npo", "a", 0.9, "knownness_auroc", site="residual_2@prompt_last"),
        row("npo", "a", 0.5, "knownness_auroc", site="residual_10@prompt_last"),
        row("npo", "a", 0.4, "recall", stress="int8"),
        row("npo", "a", 0.4, "rouge"),
        row("npo", "b", 0.0, state="failed"),
        row("(base)", "a", 0.1),
    ]
    verdicts = [{"verdict": "hidden"}, {"verdict": "failed"}]
    first, second = as_runs("comparison x", cells, rows, verdicts)
    assert dict(first.metrics) == {"balance": 0.7, "forgetting": 0.6, "forget/knownness_auroc": 0.5}
    place = {"method": "npo", "target": "a", "seed": "0", "tail": cells[0].tail}
    assert place.items() <= first.tags.items()
    assert place.items() <= first.parameters.items()
    assert (first.tags["verdict"], first.tags["comparison"], first.tags["name"]) == ("hidden", "comparison x", "A")
    assert (first.parameters["learning_rate"], first.parameters["beta"]) == ("0.02", "0.3")
    assert set(first.parameters) == set(second.parameters), "the defaults of what was not set stand there too"
    assert float(second.parameters["learning_rate"]) > 0
    assert (first.failed, second.failed) == (False, True)
    assert first.key != second.key


def test_the_key_of_a_cell_covers_all_that_it_is_set_to() -> None:
    same = cell("npo", "a", learning_rate=0.02)
    others = [cell("npo", "a"), cell("npo", "b"), cell("npo", "a", 1), cell("npo", "a", settings=(("beta", 0.3),))]
    assert same.key == cell("npo", "a", learning_rate=0.02).key
    assert len({each.key for each in (same, *others)}) == 5


def test_methods_are_tuned_on_targets_of_no_world(monkeypatch: pytest.MonkeyPatch) -> None:
    """A candidate may be the first in one kind of world and the third in another."""
    known = {"mix": "abcdef", "facts": "cabdef"}
    monkeypatch.setattr(
        cells,
        "chosen_targets",
        lambda world, asked, count: [(each, each.upper()) for each in known[world.world.tail][: count or None]],
    )
    both = wanted(methods=["npo"], count=2, trials=1, validation=2, tails=["mix", "facts"])
    assert validation_targets(both) == [("d", "D"), ("e", "E")]
    alone = wanted(methods=["npo"], count=2, trials=1, validation=2, tails=["mix"])
    assert validation_targets(alone) == [("c", "C"), ("d", "D")]
    with pytest.raises(UsageError, match=r"--validation 4: only 3 candidates are left"):
        validation_targets(dataclasses.replace(both, validation=4))


def test_what_is_wanted_is_counted_and_checked() -> None:
    asked = wanted(methods=["npo", "rmu"], count=3, seeds=[0, 1], tails=["mix", "facts"])
    assert asked.cells == 2 * 3 * 2 * 2
    assert [world.world.tail for world in asked.worlds] == ["mix", "facts"]
    assert wanted(methods=["npo"], targets=["A", "B"], count=0).cells == 2
    with pytest.raises(UsageError, match="--tails: expected facts, refuse, mix, given 'long'"):
        wanted(methods=["npo"], tails=["long"])
    with pytest.raises(UsageError, match="did you mean 'npo'"):
        wanted(methods=["npoo"])


def test_part_that_is_older_than_a_setting_was_made_by_its_default(tmp_path: Path) -> None:
    asked = wanted("quick", ["npo"], trials=2)
    document = describe(asked, ())
    assert document["shared"].pop("alignment.keep_adapter") is False
    keep(tmp_path, {name: [] for name in ("summary", "paired")} | {"cells": ROWS, "verdicts": VERDICTS}, document, [])
    assert len(read_parts([str(tmp_path)], asked).cells) == len(VERDICTS)
    other = wanted("quick", ["npo"], trials=2, overrides=["alignment.train=lora", "alignment.keep_adapter=true"])
    with pytest.raises(UsageError, match=r"its alignment.keep_adapter is False, expected True as it is here"):
        read_parts([str(tmp_path)], other)
