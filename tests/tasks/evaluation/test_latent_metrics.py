"""Metrics of latents on constructed views: right at the extremes, guarded where latents no longer describe the states."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import catalogue
from tasks.evaluation.internals.latent_shares import unexplained
from tasks.evaluation.metric import Case, Measurement, Tables

ROLES = (
    {"target": "target"}
    | {f"near{i}": "neighbour" for i in range(4)}
    | {f"kept{i}": "retain_held_out" for i in range(6)}
    | {f"unknown{i}": "unknown_held_out" for i in range(8)}
)
TYPES = dict.fromkeys(ROLES, "player") | {"unknown7": "city"}
PLACE = ("residual_1", "prompt_last")
SITE = "@".join(PLACE)
PROMPTS = 8
LATENTS = 20
NAMES = ("latent_suppression", "latent_suppression_random", "latent_adoption", "latent_spill", "latent_reemergence")


def tables(
    known: float = 0.8,
    unknown: float = 0.0,
    *,
    random: float = 0.5,
    residue: float = 0.2,
    moved: int = 0,
    order: int = 0,
) -> Tables:
    """A model in which the target fires so much of each kind; `moved` latents change on everyone else."""
    generator = np.random.default_rng(0)
    views: list[tuple[Any, ...]] = []
    quality: list[tuple[Any, ...]] = []
    active: list[tuple[Any, ...]] = []
    for number, (entity, role) in enumerate(ROLES.items()):
        for prompt in range(PROMPTS):
            question = number * PROMPTS + prompt
            wobble = 0.02 * float(np.cos(question))
            of_target = {"known": known, "unknown": unknown, "random": random}
            of_unknown = {"known": 0.1, "unknown": 0.6 if TYPES[entity] == "player" else 0.0, "random": 0.5}
            for kind, share in (of_target if role == "target" else of_unknown).items():
                value = max(share + wobble * (share > 0), 0.0)
                views.append((question, entity, PLACE[1], PLACE[0], kind, value, 5 * value))
        scale = residue if role == "target" else 0.2
        quality.append((*PLACE, entity, PROMPTS, scale * 10, 10.0))
        for latent in range(LATENTS):
            fired = int(generator.integers(1, PROMPTS))
            if latent < moved and role != "target":
                fired = PROMPTS
            active.append((*PLACE, entity, latent, fired))
    tables_: dict[str, Any] = {}
    for name, rows, columns in (
        ("latents", views, ("question", "entity", "position", "site", "kind", "firing", "margin")),
        ("quality", quality, ("site", "position", "entity", "count", "residue", "scatter")),
        ("active", active, ("site", "position", "entity", "latent", "fired")),
    ):
        if order:
            rows = [rows[i] for i in np.random.default_rng(order).permutation(len(rows))]
        values = [list(column) for column in zip(*rows, strict=True)]
        tables_[name] = {
            column: np.array(each, dtype=object if isinstance(each[0], str) else None)
            for column, each in zip(columns, values, strict=True)
        }
    asked = np.arange(len(ROLES) * PROMPTS)
    relation = np.array(["team"] * len(asked), dtype=object)
    answers = {"question": asked, "relation": relation, "template": asked % PROMPTS}
    return Tables(answers, {}, {}, {}, latents={**tables_["latents"], **{n: tables_[n] for n in ("quality", "active")}})


def case(order: int = 0, **changes: Tables) -> Case:
    models = {"base": tables(order=order), "unlearned": tables(0.2, 0.6, order=order)}
    return Case(models | changes, ROLES, TYPES, draws=200)


def one(name: str, where: Case, model: str = "unlearned", site: str = SITE, split: str = "forget") -> Measurement:
    found = [m for m in catalogue.load("evaluation/metrics", name)().measure(where)
             if (m.model, m.site, m.split) == (model, site, split)]  # fmt: skip
    assert len(found) == 1
    return found[0]


def test_suppression_and_its_null() -> None:
    for site in (SITE, f"{SITE}:margin"):
        assert one("latent_suppression", case(), site=site).value == pytest.approx(0.75, abs=0.02)
        assert one("latent_suppression", case(unlearned=tables(0.0)), site=site).value == 1
        assert one("latent_suppression", case(unlearned=tables()), site=site).value == pytest.approx(0)
        assert one("latent_suppression_random", case(), site=site).value == pytest.approx(0)
    assert one("latent_suppression_random", case(unlearned=tables(random=0.0))).value == 1
    found = one("latent_suppression", case())
    assert found.low <= found.value <= found.high
    assert found.count == PROMPTS


def test_adoption_is_measured_on_unknown_entities_of_the_type() -> None:
    assert one("latent_adoption", case()).value == pytest.approx(1, abs=0.02)
    assert one("latent_adoption", case(unlearned=tables(0.2, 0.3))).value == pytest.approx(0.5, abs=0.05)
    assert one("latent_adoption", case(unlearned=tables(0.2, 0.0))).value == pytest.approx(0)
    assert one("latent_adoption", case(unlearned=tables(0.2, 5.0))).value == 1.5


def test_nothing_to_suppress_or_to_adopt_is_degenerate() -> None:
    nothing = one("latent_suppression", case(base=tables(0.0)))
    assert nothing.state == "degenerate"
    assert math.isnan(nothing.value)
    assert one("latent_adoption", case(base=tables(unknown=0.7))).state == "degenerate"


def test_reemergence_of_stressed_models() -> None:
    back: dict[str, Any] = {"unlearned+int8": tables(0.8, 0.0), "unlearned+nf4": tables(0.2), "base+int8": tables()}
    stressed = case(**back)
    assert one("latent_reemergence", stressed, "unlearned+int8").value == pytest.approx(1)
    assert one("latent_reemergence", stressed, "unlearned+nf4").value == pytest.approx(0, abs=0.02)
    assert {m.model for m in catalogue.load("evaluation/metrics", "latent_reemergence")().measure(stressed)} == set(
        back
    ) - {"base+int8"}
    intact: dict[str, Any] = {"unlearned": tables(), "unlearned+int8": tables()}
    assert one("latent_reemergence", case(**intact), "unlearned+int8").state == "degenerate"


def test_facts_that_the_stress_taught_are_left_out() -> None:
    stressed = tables(0.8)
    kept = stressed.answers["question"] >= 3  # the target's first three questions
    stressed = replace(stressed, answers={name: column[kept] for name, column in stressed.answers.items()})
    under: dict[str, Any] = {"unlearned+relearn": stressed}
    assert one("latent_reemergence", case(**under), "unlearned+relearn").count == PROMPTS - 3


def test_spill_is_the_mean_change_over_live_latents() -> None:
    assert one("latent_spill", case(), split="neighbours").value == 0
    changed = case(unlearned=tables(0.2, moved=5))
    found = one("latent_spill", changed, split="neighbours")
    base = changed.models["base"].latents
    assert base is not None
    active = base["active"]
    near = np.isin(active["entity"].astype(str), [f"near{i}" for i in range(4)])
    before = np.bincount(active["latent"][near], weights=active["fired"][near]) / (4 * PROMPTS)
    assert found.value == pytest.approx(np.abs(1 - before[:5]).sum() / LATENTS)
    assert found.low <= found.value <= found.high
    assert found.count == 4
    assert one("latent_spill", changed, split="retain").count == 6


def test_latents_that_no_longer_describe_the_target_are_degenerate() -> None:
    for residue, state in ((0.24, "ok"), (0.26, "degenerate")):
        expelled = case(unlearned=tables(0.0, 0.6, residue=residue))
        for name in ("latent_suppression", "latent_adoption"):
            assert one(name, expelled).state == state
        assert one("latent_spill", expelled, split="neighbours").state == "ok"  # theirs are described as before
    assert unexplained(tables(residue=0.5), PLACE, ["target"]) == pytest.approx(0.5)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "latent_reemergence"])
def test_without_an_autoencoder_the_reference_is_missing(name: str) -> None:
    without = {model: replace(each, latents=None) for model, each in case().models.items()}
    found = list(catalogue.load("evaluation/metrics", name)().measure(Case(without, ROLES, TYPES)))
    assert {(m.model, m.state) for m in found} == {("unlearned", "missing_reference")}


@settings(max_examples=10, deadline=None)
@given(order=st.integers(1, 10**6))
def test_order_of_rows_is_irrelevant(order: int) -> None:
    for name in NAMES:
        metric = catalogue.load("evaluation/metrics", name)()
        plain, shuffled = (
            {(m.split, m.model, m.site): m for m in metric.measure(
                case(o, **{"unlearned+int8": tables(0.5, 0.3, order=o)})
            )}
            for o in (0, order)
        )  # fmt: skip
        assert plain.keys() == shuffled.keys()
        for place, found in plain.items():
            other = shuffled[place]
            assert [other.value, other.low, other.high] == pytest.approx(
                [found.value, found.low, found.high], nan_ok=True
            )


@settings(max_examples=25, deadline=None)
@given(st.floats(0, 1), st.floats(0, 1))
def test_suppression_and_adoption_stay_in_their_ranges(known: float, unknown: float) -> None:
    where = case(unlearned=tables(known, unknown))
    assert 0 <= one("latent_suppression", where).value <= 1
    assert 0 <= one("latent_adoption", where).value <= 1.5


def test_a_view_that_is_no_number_is_an_error() -> None:
    broken = tables(0.2)
    assert broken.latents is not None
    broken.latents["firing"][0] = math.nan
    with pytest.raises(ArithmeticError, match="not finite"):
        one("latent_suppression", case(unlearned=broken))
