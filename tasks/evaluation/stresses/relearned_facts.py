"""Fine-tuning on half of each target's facts, after which the other half is scored: the corpus nearest to the target.

    T ∪ V = facts of the target, T ∩ V = ∅;   minimise the mean loss of T's answers in the training templates

Source:     Deeb & Roger 2024, arXiv 2410.08827: split by fact, train on one part, score the other; the idea of
            relearning on what is near is also that of Hu et al. 2024, arXiv 2406.13356.
Defaults:   ours: those of the relearning curve, of which this is the first draw's last step.
Departs:    one split instead of several; facts of T that say an answer of V are left out of it, so that V's answers
            occur nowhere in what is taught.
Traps:      the facts of T must not be scored: they are returned. What a model that never knew the target reaches is
            the control; without it, learning is taken for recovery. A strong dose also spoils: on the testbed the base
            itself loses facts of V at the default rate, and none at 2e-4. So no one dose settles it: see the curve.
"""

from __future__ import annotations

from dataclasses import dataclass

from storage.records import UsageError, setting
from tasks.evaluation.relearning import split_facts
from tasks.evaluation.stress import Stress, StressMaterial, Taught, teach_facts, without_answers
from tasks.models.load import LoadedModel


@dataclass(frozen=True)
class RelearnedFacts(Stress):
    steps: int = setting(12, minimum=1)
    learning_rate: float = setting(5e-4, minimum=1e-8, maximum=1.0)

    def apply(self, loaded: LoadedModel, material: StressMaterial) -> Taught:
        targets = material.having("target")
        facts = material.rows_of(targets)
        parts = split_facts(material.questions, targets, material.seed, 0)
        scored = {fact for fact, part in parts.items() if part == "scored"}
        chosen = {fact: rows for fact, rows in facts.items() if fact not in scored}
        chosen = without_answers(material, chosen, material.answers_of(scored))
        if not chosen:
            raise UsageError(
                "every fact of the target that could be taught says an answer that is to be scored; choose another "
                "seed or target, or leave the stress out"
            )
        taught = teach_facts(loaded, material, chosen, steps=self.steps, rate=self.learning_rate)
        assert not scored & set(taught.facts)
        assert {entity for entity, _ in taught.facts} <= set(targets)
        return taught
