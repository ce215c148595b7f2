"""Fine-tuning on facts of the target's neighbours and of others of its type: a corpus that is near and says nothing
about the target.

    minimise the mean loss of the answers about `entities` entities, neighbours before retained ones of the type

Source:     relearning by corpus, Hu et al. 2024, arXiv 2406.13356, and Deeb & Roger 2024, arXiv 2410.08827; the
            middle one of three.
Defaults:   steps and rate of the relearning curve; the rest ours.
Departs:    every fact that says an answer about a target is left out, so what neighbours share with it is not taught.
Traps:      what is taught must not be scored: neighbours keep only the facts that they share with the target.
"""

from __future__ import annotations

from dataclasses import dataclass

from storage.records import setting
from tasks.evaluation.stress import Stress, StressMaterial, Taught, facts_of_others, teach_facts
from tasks.models.load import LoadedModel


@dataclass(frozen=True)
class RelearnedRelated(Stress):
    entities: int = setting(16, minimum=1)
    """Whose facts are taught; fewer where there are fewer."""
    steps: int = setting(12, minimum=1)
    learning_rate: float = setting(5e-4, minimum=1e-8, maximum=1.0)

    def apply(self, loaded: LoadedModel, material: StressMaterial) -> Taught:
        kinds = material.target_types()
        same = [entity for entity in material.having("retain") if material.types[entity] in kinds]
        facts = facts_of_others(material, same, self.entities, first=material.having("neighbour"))
        return teach_facts(loaded, material, facts, steps=self.steps, rate=self.learning_rate)
