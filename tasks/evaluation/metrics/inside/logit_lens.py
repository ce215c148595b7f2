"""k_l: mean log p of the answer's tokens when the state after block l goes through the base model's norm, head and soft-cap.

Nats per token, (-∞, 0]; on forget lower is better, on others higher. Site `residual_<l>` per layer, and `max`: the
mean over questions of the best layer of each, so that an answer hidden in any one layer shows. The base model's own
curve is the ceiling; the floor is `null_lens` of the traces, which `lens_erasure` measures by. A model that was not
traced has no row.

Source:   nostalgebraist 2020, "interpreting GPT: the logit lens".
Traps:    the last layer's state is read before the final norm; a twin trained apart has a space of its own, in which
          the base model's head need not read well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from tasks.evaluation.internals.depth import layers_of
from tasks.evaluation.metric import Case, Measurement, Metric, mean_measurement

SPLITS = ("forget", "neighbours")


@dataclass(frozen=True)
class LogitLens(Metric):
    better: ClassVar = {"forget": "lower", "": "higher"}
    reads: ClassVar = frozenset({"traces"})

    def measure(self, case: Case) -> Iterator[Measurement]:
        for model, tables in case.models.items():
            if tables.traces is None:
                continue
            for split in SPLITS:
                found = layers_of(tables.traces, "lens", split)
                clusters = found.target if split == "forget" else found.entity
                for layer in range(found.value.shape[1] if len(found.value) else 0):
                    site = f"residual_{layer}"
                    yield mean_measurement(case, split, model, found.value[:, layer], clusters, site=site)
                best = found.value.max(1) if len(found.value) else found.value
                yield mean_measurement(case, split, model, best, clusters, site="max")
