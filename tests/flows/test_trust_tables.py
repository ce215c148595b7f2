"""The two tables of `trust`, from readings made up so that the answer is known."""

from __future__ import annotations

import math
from typing import Any

from flows.trust import HOLDS, agreement_table, agreements, metric_table, summarise, verdict_table
from tasks.report.figures.trust import draw_trust


def _readings() -> list[dict[str, Any]]:
    """Metric `sharp` tells models apart and survives stress; `dull` does neither."""
    rows = []
    for target in ("Q1", "Q2"):
        for seed in (0, 1):
            for specimen, holds in [*HOLDS.items(), ("overtrained", False)]:
                for under in ("", "int8", "relearned_facts"):
                    where = {"specimen": specimen, "target": target, "name": target, "seed": seed, "stress": under}
                    where |= {"site": "", "better": "lower", "state": "ok"}
                    rows.append(where | {"metric": "sharp", "value": float(holds)})
                    rows.append(where | {"metric": "dull", "value": float(under == "relearned_facts" and holds)})
    return rows


def test_metrics_are_ranked_by_how_well_they_tell_models_apart() -> None:
    sharp, dull = summarise(_readings())
    assert (sharp["metric"], dull["metric"]) == ("sharp", "dull")
    assert (sharp["faithful"], dull["faithful"]) == (1.0, 0.5)
    assert (sharp["holding"], sharp["lacking"]) == (12, 4)
    assert (sharp["robust"], dull["robust"]) == (1.0, 0.0)


def test_an_overtrained_model_counts_on_neither_side() -> None:
    rows = [row for row in _readings() if row["specimen"] in ("overtrained", "gold")]
    assert math.isnan(summarise(rows)[0]["faithful"])


def test_tables_and_figure_show_every_metric() -> None:
    metrics = summarise(_readings())
    assert metric_table(metrics).count("\n") == 1 + len(metrics)
    counts = [{"specimen": "gold", "verdict": "forgotten", "count": 3, "right": True},
              {"specimen": "gold", "verdict": "hidden", "count": 1, "right": False}]  # fmt: skip
    assert "| gold | forgotten | 3 forgotten, 1 hidden | 3/4 |" in verdict_table(counts)
    assert draw_trust(metrics).startswith(b"\x89PNG")


def test_metrics_that_agree_are_told() -> None:
    rows = _readings()
    twin = [row | {"metric": "uds_null"} for row in rows if row["metric"] == "sharp"]
    own = [row | {"metric": "uds"} for row in rows if row["metric"] == "sharp"]
    found = agreements([*own, *twin])
    assert (found[0]["correlation"], found[0]["models"]) == (1.0, 16)
    assert all(math.isnan(row["correlation"]) for row in found[1:])
    assert "| 16 | 1.00 |" in agreement_table(found)
