"""Fine-tuning on facts of retained entities of other types: a corpus that has nothing to do with the target.

    minimise the mean loss of the answers about `entities` retained entities, none of a target's type

Source:     relearning by corpus, Hu et al. 2024, arXiv 2406.13356, and Deeb & Roger 2024, arXiv 2410.08827; the
            farthest of three. What comes back by this was hidden least deep.
Defaults:   steps and rate of the relearning curve; the rest ours.
Departs:    every fact that says an answer about a target is left out.
Traps:      retained entities that are scored (`retain_held_out`) are not among the taught.
"""

from __future__ import annotations

from dataclasses import dataclass

from storage.records import setting
from tasks.evaluation.stress import Stress, StressMaterial, Taught, facts_of_others, teach_facts
from tasks.models.load import LoadedModel


@dataclass(frozen=True)
class RelearnedUnrelated(Stress):
    entities: int = setting(16, minimum=1)
    """Whose facts are taught; fewer where there are fewer."""
    steps: int = setting(12, minimum=1)
    learning_rate: float = setting(5e-4, minimum=1e-8, maximum=1.0)

    def apply(self, loaded: LoadedModel, material: StressMaterial) -> Taught:
        kinds = material.target_types()
        other = [entity for entity in material.having("retain") if material.types[entity] not in kinds]
        facts = facts_of_others(material, other, self.entities)
        return teach_facts(loaded, material, facts, steps=self.steps, rate=self.learning_rate)
