"""Fine-tuning on all of the target's facts: a model that knows them again. No attack, but a control of what is measured.

    minimise the mean loss of the answers to every fact about the target, in the training templates

Source:     ours.
Defaults:   ours: enough that the facts of a forgotten target are answered again on held-out templates.
Departs:    nothing is said to be taught, since here the taught facts are what is to be found.
Traps:      it says nothing about what was hidden: any model can be taught. A measure that does not see the difference
            to the model before sees nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from storage.records import setting
from tasks.evaluation.stress import Stress, StressMaterial, Taught, teach_facts
from tasks.models.load import LoadedModel


@dataclass(frozen=True)
class Retaught(Stress):
    steps: int = setting(60, minimum=1)
    learning_rate: float = setting(5e-4, minimum=1e-8, maximum=1.0)

    def apply(self, loaded: LoadedModel, material: StressMaterial) -> Taught:
        facts = material.rows_of(material.having("target"))
        taught = teach_facts(loaded, material, facts, steps=self.steps, rate=self.learning_rate)
        return Taught((), taught.losses)
