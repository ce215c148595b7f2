"""How much of an answer a model's states have lost, layer by layer, beside a model or a name that never knew it.

With d_l the loss of the model's state after block l (nats per token) and d°_l that of a reference, per question:

    erasure = Σ_KE d°_l · clip(d_l / d°_l, 0, 1) / Σ_KE d°_l,     KE = {l : d°_l > τ}, τ = 0.05 nats

[0, 1]: 0 intact, 1 as erased as in the reference; a question whose KE is empty has none. The last layer is left out:
what leaves it is the answer itself, which behaviour is scored by.

Source:   UDS, arXiv 2605.24614.
Departs:  the last layer; public code patches a normed state there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from tasks.evaluation.intervals import interval
from tasks.evaluation.metric import Case, Measurement, mean_measurement

TAU = 0.05
"""Nats per token from which on a layer is said to hold the answer."""
LEAST_UNKNOWN = 8
"""Fewer unknown entities do not stand for knowing nothing."""


def erasure(
    lost: Float[np.ndarray, "*B L"], reference: Float[np.ndarray, "*B L"], tau: float = TAU
) -> Float[np.ndarray, "*B"]:
    """Weighted share [0, 1] of the reference's loss; NaN where no layer of the reference loses more than tau."""
    weight = np.where(reference > tau, reference, 0.0)
    share = np.divide(lost, weight, out=np.zeros(np.broadcast_shapes(lost.shape, weight.shape)), where=weight > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (weight * np.clip(share, 0.0, 1.0)).sum(-1) / weight.sum(-1)


@dataclass(frozen=True, eq=False)
class Layers:
    """Traces of one kind: a row a question, a column a layer."""

    question: np.ndarray
    target: np.ndarray
    entity: np.ndarray
    value: Float[np.ndarray, "Q L"]

    def of(self, questions: np.ndarray) -> Layers:
        """The given questions, all of which must be there, in their order."""
        place = {int(question): row for row, question in enumerate(self.question)}
        rows = [place[int(question)] for question in questions]
        return Layers(self.question[rows], self.target[rows], self.entity[rows], self.value[rows])


def layers_of(traces: Mapping[str, Any], kind: str, split: str = "forget") -> Layers:
    """Traces of one kind and split.

    Raises: ArithmeticError for a value that is no number.
    """
    rows = np.flatnonzero((np.asarray(traces["kind"]) == kind) & (np.asarray(traces["split"]) == split))
    rows = rows[np.lexsort((traces["layer"][rows], traces["question"][rows]))]
    questions, first = np.unique(traces["question"][rows], return_index=True)
    value = _finite(np.asarray(traces["value"], dtype=float)[rows], kind).reshape(len(questions), -1)
    return Layers(
        questions, np.asarray(traces["target"])[rows][first], np.asarray(traces["entity"])[rows][first], value
    )


def unknown_layers(traces: Mapping[str, Any], kind: str, questions: np.ndarray) -> Float[np.ndarray, "Q U L"]:
    """Traces of the unknown entities on the given questions; NaN where an entity was not asked one of them."""
    rows = np.flatnonzero(np.asarray(traces["kind"]) == kind)
    names, which = np.unique(np.asarray(traces["entity"])[rows].astype(str), return_inverse=True)
    value = _finite(np.asarray(traces["value"], dtype=float)[rows], kind)
    layer = np.asarray(traces["layer"])[rows]
    place = {int(question): row for row, question in enumerate(questions)}
    cube = np.full((len(questions), len(names), int(layer.max()) + 1 if len(rows) else 0), np.nan)
    for question, name, at, each in zip(traces["question"][rows], which, layer, value, strict=True):
        if int(question) in place:
            cube[place[int(question)], name, at] = each
    return cube


def _finite(values: np.ndarray, kind: str) -> np.ndarray:
    if not np.isfinite(values).all():
        raise ArithmeticError(f"{int((~np.isfinite(values)).sum())} of {len(values)} traces ({kind}) are not finite")
    return values


def losses(case: Case, model: str, kind: str) -> Layers | None:
    """d_l of a model: the drop by patching, or what its lens reads less than the base model's; None without traces.

    kind  `patched` or `lens`.
    """
    traces, base = case.models[model].traces, case.models["base"].traces
    if traces is None or base is None:
        return None
    own = layers_of(traces, kind)
    if kind == "patched":
        return own
    whole = layers_of(base, kind).of(own.question)
    return Layers(own.question, own.target, own.entity, whole.value - own.value)


def twin_of(case: Case, model: str) -> str | None:
    """The gold twin that a model is compared with: under the same stress where it was traced so."""
    for name in (f"gold+{model.partition('+')[2]}", "gold"):
        if name in case.models and case.models[name].traces is not None:
            return name
    return None


def _missing(model: str, site: str) -> Measurement:
    return Measurement("forget", model, np.nan, np.nan, np.nan, 0, site, "missing_reference")


def erasure_by_gold(case: Case, kind: str, site: str = "") -> Iterator[Measurement]:
    """Erasure of every model that was traced, but gold, with the gold twin's loss for the reference."""
    for model in case.models:
        if model.partition("+")[0] == "gold":
            continue
        own, twin = losses(case, model, kind), twin_of(case, model)
        if own is None and "+" in model:
            continue
        reference = losses(case, twin, kind) if twin else None
        if own is None or reference is None:
            yield _missing(model, site)
            continue
        shared = np.intersect1d(own.question, reference.question)
        mine, theirs = own.of(shared), reference.of(shared)
        scores = erasure(mine.value[:, :-1], theirs.value[:, :-1])
        kept = np.isfinite(scores)
        yield mean_measurement(case, "forget", model, scores[kept], mine.target[kept], site=site)


def erasure_by_unknown(case: Case, kind: str, site: str = "") -> Iterator[Measurement]:
    """Erasure of every model that was traced, with the mean loss of unknown entities' states for the reference.

    The interval resamples questions (targets, where there are several) and unknown entities. `degenerate` with fewer
    than eight of these.
    """
    base = case.models["base"].traces
    null = {"patched": "null", "lens": "null_lens"}[kind]
    known = base is not None and bool((np.asarray(base["kind"]) == null).any())
    for model in case.models:
        own = losses(case, model, kind)
        if own is None and "+" in model:
            continue
        if own is None or base is None or not known:
            yield _missing(model, site)
            continue
        cube = unknown_layers(base, null, own.question)
        if kind == "lens":
            cube = layers_of(base, kind).of(own.question).value[:, None] - cube
        yield _by_unknown(case, model, own, cube[:, :, :-1], site)


def _by_unknown(case: Case, model: str, own: Layers, cube: np.ndarray, site: str) -> Measurement:
    present = np.isfinite(cube).all(-1) if cube.shape[-1] else np.zeros(cube.shape[:2], dtype=bool)
    filled = np.where(present[..., None], cube, 0.0)
    lost = own.value[:, :-1]

    def scores(weight: np.ndarray) -> np.ndarray:  # [draws, U] -> [draws, Q]
        with np.errstate(divide="ignore", invalid="ignore"):
            count = np.einsum("du,qu->dq", weight, present.astype(float))
            mean = np.einsum("du,qul->dql", weight, filled) / count[..., None]
        return erasure(np.broadcast_to(lost, mean.shape), mean)

    whole = scores(np.ones((1, cube.shape[1])))[0]
    kept = np.isfinite(whole)
    if not kept.any():
        return Measurement("forget", model, np.nan, np.nan, np.nan, 0, site, "degenerate")
    generator = np.random.default_rng(case.seed)
    unknown = generator.multinomial(cube.shape[1], np.full(cube.shape[1], 1 / cube.shape[1]), case.draws)
    names, which = np.unique(own.target[kept].astype(str), return_inverse=True)
    which = np.arange(int(kept.sum())) if len(names) == 1 else which
    clusters = int(which.max()) + 1
    weight = generator.multinomial(clusters, np.full(clusters, 1 / clusters), case.draws)[:, which].astype(float)
    drawn = scores(unknown.astype(float))[:, kept]
    weight = np.where(np.isfinite(drawn), weight, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        means = (weight * np.nan_to_num(drawn)).sum(1) / weight.sum(1)
    low, high = interval(means[np.isfinite(means)], case.confidence)
    state = "ok" if present[kept].sum(1).min() >= LEAST_UNKNOWN else "degenerate"
    return Measurement("forget", model, float(whole[kept].mean()), low, high, int(kept.sum()), site, state)
