"""Metrics on constructed observations: right at the extremes, blind to the order of rows, loud about bad input."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import catalogue
from tasks.evaluation.distances import jensen_shannon
from tasks.evaluation.intervals import cluster_bootstrap, mean_interval
from tasks.evaluation.metric import COSTLY, Case, Measurement, Tables

FOLDER = "evaluation/metrics"
WIDTH = 8
KNOWN = np.eye(WIDTH)[0] * 4
ROLES = (
    {"target": "target", "near": "neighbour"}
    | {f"kept{i}": "retain_held_out" for i in range(12)}
    | {f"reference{i}": "unknown_reference" for i in range(20)}
    | {f"unknown{i}": "unknown_held_out" for i in range(20)}
)


def tables(*, forgotten: bool, order: int = 0, hits: float = 1.0) -> Tables:
    """A model that knows everyone who is known, or everyone but the target."""
    generator = np.random.default_rng(3)
    entities, relations, templates = [], [], []
    for entity in ROLES:
        for relation in ("team", "year"):
            for template in (6, 7):
                entities.append(entity)
                relations.append(relation)
                templates.append(template)
    count = len(entities)
    entity = np.array(entities, dtype=object)
    known = np.array([not e.startswith(("reference", "unknown")) for e in entities])
    if forgotten:
        known &= entity != "target"
    noise = generator.normal(size=(count, WIDTH))
    states = (noise + known[:, None] * KNOWN).astype(np.float32)
    question = np.arange(count)
    log_p = np.where(known, -0.1, -6.0)
    spread = np.full((count, 4), -9.0)
    spread[np.arange(count), np.where(known, 0, 1)] = 0.0
    answers = {
        "question": question, "entity": entity, "relation": np.array(relations, dtype=object),
        "template": np.array(templates), "log_probability": log_p * 2, "tokens": np.full(count, 2),
        "rank": np.where(known, 1.0, 100.0), "hit": known, "unknown_style": ~known,
    }  # fmt: skip
    every = np.random.default_rng(order).permutation(count) if order else np.arange(count)
    both = np.concatenate([every, every])
    splits = {"target": "forget", "neighbour": "neighbours", "retain_held_out": "retain"}
    split = np.array([splits.get(ROLES[e], ROLES[e]) for e in entities], dtype=object)
    answers |= {
        "set": np.full(count, "paraphrase", dtype=object), "variant": np.full(count, "", dtype=object), "split": split,
        "target": np.full(count, "target", dtype=object), "generated": np.full(count, "word", dtype=object),
        "ended": np.full(count, True),
    }  # fmt: skip
    placed = {"question": question[both], "entity": entity[both], "residual_0": states[both]}
    position = np.array(["name_last"] * count + ["prompt_last"] * count, dtype=object)
    relearned = ["taught", "scored"]
    return Tables(
        {name: column[every] for name, column in answers.items()},
        placed | {"position": position},
        {
            "question": question[every], "entity": entity[every], "split": split[every],
            "log_probabilities": spread[every].astype(np.float16),
        },
        {"question": question[:6], "entity": entity[:6], "nll": np.full(6, 2.0), "tokens": np.full(6, 2)},
        population=placed | {"position": position},
        relearning={
            "step": np.array([0, 0, 5, 5]), "rate": np.full(4, 1e-3), "entity": np.array(["target"] * 4, dtype=object),
            "part": np.array(relearned * 2, dtype=object), "hit": np.array([not forgotten] * 4),
        },
    )  # fmt: skip


def case(order: int = 0, gold: bool = True, **changes: Tables) -> Case:
    models = {"base": tables(forgotten=False, order=order), "unlearned": tables(forgotten=True, order=order)}
    if gold:
        models["gold"] = tables(forgotten=True, order=order)
    return Case(models | changes, ROLES, dict.fromkeys(ROLES, "player"), draws=200)


def one(name: str, where: Case, split: str, model: str, site: str = "") -> Measurement:
    found = [
        m for m in catalogue.load(FOLDER, name)().measure(where) if (m.split, m.model, m.site) == (split, model, site)
    ]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("name", catalogue.names(FOLDER))
def test_order_of_rows_is_irrelevant(name: str) -> None:
    metric = catalogue.load(FOLDER, name)()
    plain, shuffled = ({(m.split, m.model, m.site): m.value for m in metric.measure(case(order))} for order in (0, 7))
    assert plain.keys() == shuffled.keys()
    for place, value in plain.items():
        assert shuffled[place] == pytest.approx(value, rel=1e-5, nan_ok=True)


@pytest.mark.parametrize("name", catalogue.names(FOLDER))
def test_every_metric_states_its_direction(name: str) -> None:
    metric = catalogue.load(FOLDER, name)()
    for split in ("forget", "neighbours", "retain", "general"):
        assert metric.direction(split) in ("lower", "higher") or metric.direction(split).startswith("toward ")


@pytest.mark.parametrize(
    ("name", "split", "site", "base", "unlearned"),
    [
        ("recall", "forget", "", 1.0, 0.0),
        ("recall", "retain", "", 1.0, 1.0),
        ("answer_probability", "forget", "", math.exp(-0.1), math.exp(-6)),
        ("rank", "forget", "", 0.0, 2.0),
        ("refusal_rate", "forget", "", 0.0, 1.0),
        ("relearned_recall", "forget", "", 1.0, 0.0),
        ("perplexity", "general", "", math.e, math.e),
    ],
)
def test_extremes(name: str, split: str, site: str, base: float, unlearned: float) -> None:
    assert one(name, case(), split, "base", site).value == pytest.approx(base)
    assert one(name, case(), split, "unlearned", site).value == pytest.approx(unlearned)


def test_knownness_tells_known_from_forgotten() -> None:
    site = "residual_0@prompt_last"
    base, unlearned = (one("knownness_auroc", case(), "forget", model, site) for model in ("base", "unlearned"))
    assert base.value > 0.95
    assert base.state == "ok"
    assert unlearned.low < 0.5 < unlearned.high


def test_knownness_without_power_is_degenerate() -> None:
    blind = case(base=tables(forgotten=True))
    assert one("knownness_auroc", blind, "forget", "unlearned", "residual_0@prompt_last").state == "degenerate"


def test_typicality_shows_collapse_and_expulsion() -> None:
    site = "residual_0@prompt_last"
    assert one("typicality", case(), "forget", "unlearned", site).value == pytest.approx(1.0, abs=0.25)
    assert one("typicality", case(), "forget", "base", site).value > 1.4
    collapsed = tables(forgotten=True)
    mine = collapsed.states["entity"] == "target"
    collapsed.states["residual_0"][mine] = 0.0
    assert one("typicality", case(unlearned=collapsed), "forget", "unlearned", site).value < 0.4


def test_distance_to_gold_and_its_absence() -> None:
    assert one("js_gold", case(), "forget", "base").value > 0.99
    assert one("js_gold", case(), "forget", "unlearned").value == pytest.approx(0.0, abs=1e-6)
    missing = one("js_gold", case(gold=False), "forget", "unlearned")
    assert missing.state == "missing_reference"
    assert math.isnan(missing.value)


def test_a_number_that_is_not_finite_is_an_error() -> None:
    broken = tables(forgotten=True)
    broken.answers["log_probability"][0] = math.nan
    with pytest.raises(ArithmeticError, match="not finite"):
        list(catalogue.load(FOLDER, "answer_probability")().measure(case(unlearned=broken)))


def test_a_split_without_entities_is_degenerate() -> None:
    alone = tables(forgotten=False)
    alone.answers["split"][alone.answers["split"] == "neighbours"] = "retain"
    assert one("recall", case(base=alone), "neighbours", "base").state == "degenerate"


@given(st.lists(st.floats(-30, 0), min_size=3, max_size=6), st.lists(st.floats(-30, 0), min_size=3, max_size=6))
@settings(max_examples=50, deadline=None)
def test_jensen_shannon_is_a_bounded_symmetric_distance(a: list[float], b: list[float]) -> None:
    width = min(len(a), len(b))
    first, second = np.array([a[:width]]), np.array([b[:width]])
    forward, backward = jensen_shannon(first, second)[0], jensen_shannon(second, first)[0]
    assert 0 <= forward <= 1
    assert forward == pytest.approx(backward, abs=1e-7)
    assert jensen_shannon(first, first)[0] == pytest.approx(0, abs=1e-6)


def test_intervals_cover_at_their_rate() -> None:
    """Means of 30 clusters of 4 correlated rows: a 90% interval holds the truth about nine times in ten."""
    generator = np.random.default_rng(1)
    clusters = [str(i) for i in range(30) for _ in range(4)]
    inside = 0
    for trial in range(200):
        values = np.repeat(generator.normal(size=30), 4) + 0.1 * generator.normal(size=120)
        low, high = mean_interval(values, clusters, draws=400, confidence=0.9, seed=trial)
        inside += low <= 0 <= high
    assert 0.82 <= inside / 200 <= 0.96


def test_both_bootstraps_agree() -> None:
    values, clusters = np.arange(12.0), ["a", "b", "c", "d"] * 3
    quick = mean_interval(values, clusters, draws=4000, confidence=0.9, seed=0)
    slow = cluster_bootstrap(clusters, lambda rows: float(values[rows].mean()), draws=4000, confidence=0.9, seed=1)
    np.testing.assert_allclose(quick, slow, atol=0.3)


@pytest.mark.parametrize("name", catalogue.names(FOLDER))
def test_a_metric_says_which_costly_tables_it_reads(name: str) -> None:
    metric, touched = catalogue.load(FOLDER, name), set()

    class Watched(Tables):
        def __getattribute__(self, table: str):
            touched.update({table} & COSTLY)
            return super().__getattribute__(table)

    models = {"base": False, "gold": True, "unlearned": True, "unlearned+int8": True}
    seen = {model: Watched(**vars(tables(forgotten=forgotten))) for model, forgotten in models.items()}
    touched.clear()
    list(metric().measure(Case(seen, ROLES, dict.fromkeys(ROLES, "player"), draws=100)))
    assert touched == metric.reads
