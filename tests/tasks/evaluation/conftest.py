"""Observations of made-up models on a made-up world, for tests of metrics: what each knows and how it speaks is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tasks import catalogue
from tasks.evaluation.metric import Case, Measurement, Tables

WIDTH = 8
KNOWN = np.eye(WIDTH)[0] * 4
RELATIONS = ("team", "year_of_birth")
ROLES = (
    {"target": "target", "near": "neighbour"}
    | {f"kept{i}": "retain_held_out" for i in range(12)}
    | {f"reference{i}": "unknown_reference" for i in range(20)}
    | {f"unknown{i}": "unknown_held_out" for i in range(20)}
)
SPLIT_OF = {"target": "forget", "neighbour": "neighbours", "retain_held_out": "retain"}
SOME = ("target", "near", *(f"kept{i}" for i in range(6)))
SAMPLES = 4
Row = tuple[str, str, str, str, str, int]


def rows() -> Iterator[Row]:
    """(set, variant, target, entity, relation, template) of every question."""
    for relation in RELATIONS:
        for entity in ROLES:
            target = "target" if entity == "target" else ""
            yield from (("base", f"template_{t}", target, entity, relation, t) for t in (0, 1))
            yield from (("paraphrase", f"template_{t}", target, entity, relation, t) for t in (6, 7))
        for entity in SOME:
            target = "target" if entity == "target" else ""
            yield "cloze", "dash", target, entity, relation, 0
            yield from (("choice", variant, target, entity, relation, 6) for variant in ("shuffled", "reversed"))
            yield from (("attack", v, target, entity, relation, t) for v in ("role_play", "alias") for t in (6, 7))
            hops = "multi_hop" if entity == "target" else "multi_hop_beside"
            if entity != "near":
                yield from ((hops, f"comparison_{answer}", target, entity, relation, 0) for answer in ("yes", "no"))
                yield hops, "another", target, entity, relation, 1
        yield from (("same_answer", "template_6", "target", f"kept{i}", relation, 6) for i in range(4))
        for variant in ("keyword_insertion", "concatenation"):
            yield "combined", variant, "target", "target", relation, 6
            yield from (("combined", variant, "target", f"kept{i}", relation, 6) for i in range(4))


def canonical(entity: str, relation: str) -> str:
    """An answer of the entity's own, in letters that no other has."""
    place = list(ROLES).index(entity)
    return str(1900 + place) if relation == "year_of_birth" else f"The {chr(65 + place % 26) * 4}{place // 26 * 'oo'}"


def tables(
    *,
    forgotten: bool,
    order: int = 0,
    leaks: Sequence[str] = (),
    lost: Sequence[str] = (),
    said: str = "",
    salt: int = 0,
) -> Tables:
    """A model that knows everyone who is known, or everyone but the target.

    leaks: sets that still bring out what was forgotten; lost: sets or splits of which nothing is known;
    said: what it says about the target instead of an answer; salt: another draw of what is noise.
    """
    asked = list(rows())
    count = len(asked)
    kind, variant, target, entity, relation = (
        np.array(each, dtype=object) for each in list(zip(*asked, strict=True))[:5]
    )
    template = np.array([row[5] for row in asked])
    question = np.arange(count)
    split = np.array([SPLIT_OF.get(ROLES[e], ROLES[e]) for e in entity], dtype=object)
    known = ~np.array([each.startswith("unknown") for each in split])
    known &= ~(forgotten & (split == "forget") & ~np.isin(kind, leaks))
    known &= ~(np.isin(kind, lost) | np.isin(split, lost))
    right = [canonical(e, r) for e, r in zip(entity, relation, strict=True)]
    instead = np.where((split == "forget") & (said != ""), said, "No idea")
    generator = np.random.default_rng(3)
    answers = {
        "question": question, "set": kind, "variant": variant, "split": split, "target": target, "entity": entity,
        "relation": relation, "template": template, "log_probability": np.where(known, -0.1, -6.0) * 2,
        "tokens": np.full(count, 2), "rank": np.where(known, 1.0, 100.0), "hit": known,
        "generated": np.where(known, np.array(right, dtype=object), instead.astype(object)),
        "ended": np.full(count, True), "unknown_style": ~known,
    }  # fmt: skip
    noise = np.random.default_rng(10 + salt)
    paraphrased = np.flatnonzero(kind == "paraphrase")
    plain = np.isin(kind, ("base", "paraphrase"))
    vectors = (generator.normal(size=(count, WIDTH)) + known[:, None] * KNOWN).astype(np.float32)
    spread = np.full((count, 4), -9.0)
    spread[question, np.where(known, 0, 1)] = 0.0
    both = np.concatenate([paraphrased, paraphrased])
    states = {"question": question[both], "entity": entity[both], "residual_0": vectors[both],
              "position": np.array(["name_last"] * len(paraphrased) + ["prompt_last"] * len(paraphrased), dtype=object)}  # fmt: skip
    distributions = {name: answers[name][paraphrased] for name in ("question", "entity", "split")}
    distributions["log_probabilities"] = spread[paraphrased].astype(np.float16)
    drawn = np.repeat(np.flatnonzero((kind == "paraphrase") & (split == "forget")), SAMPLES)
    samples = {"question": drawn, "sample": np.tile(np.arange(SAMPLES), len(drawn) // SAMPLES),
               "text": answers["generated"][drawn], "hit": known[drawn]}  # fmt: skip
    general = {"question": question[:6], "entity": entity[:6], "nll": np.full(6, 2.0), "tokens": np.full(6, 2)}
    relearning = {"step": np.array([0, 0, 5, 5]), "entity": np.array(["target"] * 4, dtype=object),
                  "part": np.array(["taught", "scored"] * 2, dtype=object), "hit": np.array([not forgotten] * 4)}  # fmt: skip
    made = {
        "answers": answers, "states": states, "distributions": distributions, "general": general, "samples": samples,
        "options": _options(question, known, right, noise), "tokens": _tokens(question[plain], known[plain], noise),
        "population": dict(states), "relearning": relearning,
    }  # fmt: skip
    return Tables(**{name: shuffled(table, order) for name, table in made.items()})


def _options(question: np.ndarray, known: np.ndarray, right: list[str], noise: np.random.Generator) -> dict[str, Any]:
    """Two accepted and three wrong answers each; who knows prefers the right one, the others none."""
    offered = ["right", "alias", "wrong", "wrong", "wrong"]
    each = np.repeat(question, len(offered))
    option = np.tile(np.arange(len(offered)), len(question))
    loss = np.where(known[each], np.where(option == 0, 0.1, 4.0), 6.0) + noise.uniform(-0.05, 0.05, len(each))
    text = [f"{right[q]}{('', ' again', ' not', ' never', ' no more')[o]}" for q, o in zip(each, option, strict=True)]
    return {"question": each, "option": option, "text": np.array(text, dtype=object), "accepted": option < 2,
            "log_probability": -2 * loss, "tokens": np.full(len(each), 2)}  # fmt: skip


def _tokens(question: np.ndarray, known: np.ndarray, noise: np.random.Generator) -> dict[str, Any]:
    """Two tokens an answer; who does not know may still guess the last one."""
    each, position = np.repeat(question, 2), np.tile([0, 1], len(question))
    right = np.repeat(known, 2)
    loss = np.where(right, 0.1, 6.0) + noise.uniform(-0.05, 0.05, len(each))
    return {"question": each, "position": position, "token": np.full(len(each), 7), "log_probability": -loss,
            "mean": np.full(len(each), -3.0), "deviation": np.full(len(each), 1.5), "hit": right | (position == 1)}  # fmt: skip


def shuffled(table: dict[str, Any], order: int) -> dict[str, Any]:
    """The rows of a table in another order; 0 leaves them."""
    count = len(next(iter(table.values())))
    every = np.random.default_rng(order).permutation(count) if order else np.arange(count)
    return {name: column[every] for name, column in table.items()}


def case(order: int = 0, gold: Tables | bool = True, draws: int = 200, **changes: Tables) -> Case:
    """A model that knows, one that has forgotten, and the twin that never knew; `changes` replace them or add others."""
    models = {"base": tables(forgotten=False, order=order), "unlearned": tables(forgotten=True, order=order, salt=1)}
    if gold:
        models["gold"] = gold if isinstance(gold, Tables) else tables(forgotten=True, order=order, salt=2)
    return Case(models | changes, ROLES, dict.fromkeys(ROLES, "player"), draws=draws)


def one(name: str, where: Case, split: str, model: str, site: str = "") -> Measurement:
    """The one measurement of a metric at a place."""
    found = [
        each
        for each in catalogue.load("evaluation/metrics", name)().measure(where)
        if (each.split, each.model, each.site) == (split, model, site)
    ]
    assert len(found) == 1, f"{name} has {len(found)} measurements of {model} on {split} at '{site}'"
    return found[0]


@pytest.fixture(scope="session")
def made() -> SimpleNamespace:
    """`tables`, `case`, `one`, `canonical` and `roles`: see above."""
    functions: dict[str, Callable[..., Any]] = {"tables": tables, "case": case, "one": one, "canonical": canonical}
    return SimpleNamespace(**functions, roles=ROLES)
