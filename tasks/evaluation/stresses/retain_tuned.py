"""Light fine-tuning on retained entities of every type: what happens to a model that is used on, without an attack.

    minimise the mean loss of the answers about `entities` retained entities, at a fifth of an attack's rate

Source:     fine-tuning on benign data after unlearning, as in Łucki et al. 2024, arXiv 2409.18025.
Defaults:   ours.
Departs:    question rows instead of running text; every fact that says an answer about a target is left out.
Traps:      retained entities that are scored (`retain_held_out`) are not among the taught.
"""

from __future__ import annotations

from dataclasses import dataclass

from storage.records import setting
from tasks.evaluation.stress import Stress, StressMaterial, Taught, facts_of_others, teach_facts
from tasks.models.load import LoadedModel


@dataclass(frozen=True)
class RetainTuned(Stress):
    entities: int = setting(64, minimum=1)
    """Whose facts are taught; fewer where there are fewer."""
    steps: int = setting(24, minimum=1)
    learning_rate: float = setting(1e-4, minimum=1e-8, maximum=1.0)

    def apply(self, loaded: LoadedModel, material: StressMaterial) -> Taught:
        facts = facts_of_others(material, material.having("retain"), self.entities)
        return teach_facts(loaded, material, facts, steps=self.steps, rate=self.learning_rate)
