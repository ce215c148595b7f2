"""Erasure by depth: against loops, at its extremes, and by constructed traces whose answer is known."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tasks import catalogue
from tasks.evaluation.internals.depth import TAU, erasure
from tasks.evaluation.metric import Case, Measurement, Tables

LAYERS, QUESTIONS = 4, 6
UNKNOWN = [f"unknown{i}" for i in range(10)]
NAMES = ("logit_lens", "lens_erasure", "uds", "uds_null")


def traces(drop: Any, *, null: Any = None, order: int = 0, unknown: list[str] = UNKNOWN, targets: int = 1) -> dict:
    """Patching drops [L] the same for every question, the lens as if it read as much less; null likewise."""
    lines: list[tuple[Any, ...]] = []
    curve = np.linspace(-4.0, -0.1, LAYERS)
    for question in range(QUESTIONS):
        target = f"target{question % targets}"
        for layer in range(LAYERS):
            about = (question, target, target, "forget", layer)
            lines.append((*about, "patched", drop[layer]))
            lines.append((*about, "lens", curve[layer] - drop[layer]))
            lines.append((question + 100, "near", "", "neighbours", layer, "lens", curve[layer]))
            lines.append((question + 100, "near", "", "neighbours", layer, "patched", 0.0))
            for place, entity in enumerate(unknown if null is not None else ()):
                wobble = 1 + 0.02 * (place - (len(unknown) - 1) / 2)
                about = (question, entity, target, "forget", layer)
                lines.append((*about, "null", null[layer] * wobble))
                lines.append((*about, "null_lens", curve[layer] - null[layer] * wobble))
    lines = [lines[i] for i in (np.random.default_rng(order).permutation(len(lines)) if order else range(len(lines)))]
    columns = [list(column) for column in zip(*lines, strict=True)]
    names = ("question", "entity", "target", "split", "layer", "kind", "value")
    objects = ("entity", "target", "split", "kind")
    return {n: np.array(c, dtype=object if n in objects else None) for n, c in zip(names, columns, strict=True)}


GOLD = np.array([0.5, 1.0, 2.0, 3.0])
NULL = np.array([1.0, 2.0, 4.0, 6.0])


def case(order: int = 0, **changed: Any) -> Case:
    """Models by their drops; None stands for a model that was not traced."""
    drops: dict[str, Any] = {"base": GOLD * 0, "unlearned": GOLD / 2, "gold": GOLD} | changed
    models = {
        name: Tables(
            {}, {}, {}, {},
            traces=None if drop is None else traces(drop, null=NULL if name == "base" else None, order=order),
        )
        for name, drop in drops.items() if drop is not False
    }  # fmt: skip
    return Case(models, {}, {}, draws=300)


def one(name: str, where: Case, model: str, site: str = "", split: str = "forget") -> Measurement:
    found = [m for m in catalogue.load("evaluation/metrics", name)().measure(where)
             if (m.model, m.site, m.split) == (model, site, split)]  # fmt: skip
    assert len(found) == 1
    return found[0]


@settings(max_examples=60, deadline=None)
@given(
    arrays(float, (3, 5), elements=st.floats(-5, 5)),
    arrays(float, (3, 5), elements=st.floats(-5, 5)),
)
def test_erasure_equals_a_loop_and_stays_in_bounds(lost: np.ndarray, reference: np.ndarray) -> None:
    found = erasure(lost, reference)
    for row in range(3):
        layers = [layer for layer in range(5) if reference[row, layer] > TAU]
        if not layers:
            assert math.isnan(found[row])
            continue
        weight = sum(reference[row, layer] for layer in layers)
        total = sum(
            reference[row, layer] * min(max(lost[row, layer] / reference[row, layer], 0), 1) for layer in layers
        )
        assert found[row] == pytest.approx(total / weight)
        assert 0 <= found[row] <= 1
    np.testing.assert_allclose(erasure(reference, reference), np.where(np.isnan(found), np.nan, 1.0))
    np.testing.assert_allclose(erasure(reference * 0, reference), np.where(np.isnan(found), np.nan, 0.0))


@given(
    arrays(float, 4, elements=st.floats(0, 3)),
    arrays(float, 4, elements=st.floats(0, 3)),
    arrays(float, 4, elements=st.floats(0.1, 3)),
)
def test_erasure_grows_with_what_is_lost(lost: np.ndarray, more: np.ndarray, reference: np.ndarray) -> None:
    assert erasure(lost + more, reference) >= erasure(lost, reference) - 1e-12


@pytest.mark.parametrize(("name", "site"), [("uds", ""), ("lens_erasure", "gold")])
def test_beside_gold(name: str, site: str) -> None:
    assert one(name, case(), "base", site).value == pytest.approx(0)
    assert one(name, case(), "unlearned", site).value == pytest.approx(0.5)
    assert one(name, case(unlearned=GOLD * 1.5), "unlearned", site).value == pytest.approx(1)
    assert one(name, case(), "unlearned", site).count == QUESTIONS
    assert not [m for m in catalogue.load("evaluation/metrics", name)().measure(case())
                if (m.model, m.site) == ("gold", site)]  # fmt: skip


@pytest.mark.parametrize(("name", "site"), [("uds_null", ""), ("lens_erasure", "null")])
def test_beside_unknown_entities(name: str, site: str) -> None:
    assert one(name, case(), "base", site).value == pytest.approx(0)
    assert one(name, case(), "gold", site).value == pytest.approx(0.5)
    found = one(name, case(unlearned=NULL), "unlearned", site)
    assert found.value == pytest.approx(1)
    assert found.state == "ok"
    half = one(name, case(unlearned=NULL / 2), "unlearned", site)
    assert half.low < half.value < half.high  # the unknown entities differ, the questions do not


def test_what_happens_at_the_last_layer_alone_is_no_erasure() -> None:
    muted = case(unlearned=np.array([0, 0, 0, 9.0]))
    assert one("uds", muted, "unlearned").value == 0
    assert one("uds_null", muted, "unlearned").value == 0


def test_without_gold_there_is_no_uds_but_there_is_a_null() -> None:
    alone = case(gold=False)
    assert one("uds", alone, "unlearned").state == "missing_reference"
    assert math.isnan(one("uds", alone, "unlearned").value)
    assert one("lens_erasure", alone, "unlearned", "gold").state == "missing_reference"
    assert one("uds_null", alone, "unlearned").state == "ok"


def test_a_gold_that_lost_nothing_gives_no_value() -> None:
    found = one("uds", case(gold=GOLD * 0.01), "unlearned")
    assert (found.state, found.count) == ("degenerate", 0)


def test_few_unknown_entities_are_degenerate() -> None:
    few = case()
    models = dict(few.models)
    models["base"] = Tables({}, {}, {}, {}, traces=traces(GOLD * 0, null=NULL, unknown=UNKNOWN[:7]))
    found = one("uds_null", Case(models, {}, {}, draws=100), "unlearned")
    assert found.state == "degenerate"
    assert found.value == pytest.approx(0.25)


def test_models_under_stress_are_scored_where_they_were_traced() -> None:
    under: dict[str, Any] = {"unlearned+int8": GOLD * 0.25, "unlearned+nf4": None, "gold+int8": GOLD / 2}
    stressed = case(**under)
    assert one("uds", stressed, "unlearned+int8").value == pytest.approx(0.5)  # its twin is stressed too
    found = {m.model for m in catalogue.load("evaluation/metrics", "uds_null")().measure(stressed)}
    assert found == {"base", "unlearned", "gold", "unlearned+int8", "gold+int8"}
    untraced = case(unlearned=None)
    assert one("uds", untraced, "unlearned").state == "missing_reference"


def test_several_targets_are_drawn_as_wholes() -> None:
    models = {
        name: Tables({}, {}, {}, {}, traces=traces(drop, null=NULL, targets=3))
        for name, drop in (("base", GOLD * 0), ("unlearned", GOLD / 2), ("gold", GOLD))
    }
    for name in ("uds", "uds_null"):
        assert one(name, Case(models, {}, {}, draws=100), "unlearned").count == QUESTIONS


def test_the_lens_curve_and_its_best_layer() -> None:
    curve = np.linspace(-4.0, -0.1, LAYERS)
    for layer in range(LAYERS):
        assert one("logit_lens", case(), "base", f"residual_{layer}").value == pytest.approx(curve[layer])
    drop = np.array([0, 0, 0, 9.0])
    hidden = one("logit_lens", case(unlearned=drop), "unlearned", "max")
    assert hidden.value == pytest.approx(curve[2])  # muted at the end, still read below it
    assert one("logit_lens", case(), "base", "max", "neighbours").value == pytest.approx(curve[-1])


@pytest.mark.parametrize("name", NAMES)
def test_order_of_traces_is_irrelevant(name: str) -> None:
    metric = catalogue.load("evaluation/metrics", name)()
    plain, shuffled = ({(m.split, m.model, m.site): m for m in metric.measure(case(order))} for order in (0, 5))
    assert plain.keys() == shuffled.keys()
    for place, found in plain.items():
        other = shuffled[place]
        assert [other.value, other.low, other.high] == pytest.approx([found.value, found.low, found.high])


@pytest.mark.parametrize("name", NAMES)
def test_a_trace_that_is_no_number_is_an_error(name: str) -> None:
    broken = case()
    table = broken.models["unlearned"].traces
    assert table is not None
    table["value"][0:8] = math.nan
    with pytest.raises(ArithmeticError, match="not finite"):
        list(catalogue.load("evaluation/metrics", name)().measure(broken))
