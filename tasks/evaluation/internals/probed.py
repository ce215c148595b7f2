"""How known the target looks to a probe: the frozen one of the starting model, or one of the model's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from tasks.evaluation.internals.calibration import area_among_unknown, powered
from tasks.evaluation.internals.probes import fitted
from tasks.evaluation.metric import Case, Measurement
from tasks.evaluation.probing import Place, places


def probed(case: Case, probes: Mapping[str, str]) -> Iterator[Measurement]:
    """AUROC of the target against unknown entities, every place and model; `degenerate` where the probe is not admitted.

    probes  model -> the model whose population its probe is trained on.
    """
    for place in places(case.models["base"]):
        power = _one(case, "base", "base", place).value
        for model, home in probes.items():
            yield powered(_one(case, model, home, place), power)


def _one(case: Case, model: str, home: str, place: Place) -> Measurement:
    found = fitted(case, home, place)
    if found is None:
        return Measurement("forget", model, np.nan, np.nan, np.nan, 0, place.name, "degenerate")
    measured = area_among_unknown(case, model, place, found.probe.logit)
    return measured if found.admitted else replace(measured, state="degenerate")
