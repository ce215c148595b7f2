"""What a stress is: a change to a model, made in place, after which it is observed again like any other.

What was removed stays away; what was only hidden may come back. The same stress is put on base and gold, so that what
it does to any model is not taken for an effect of unlearning.
"""

from __future__ import annotations

import dataclasses
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from storage.records import UsageError
from tasks import catalogue
from tasks.evaluation.relearning import teach
from tasks.models.families import linear_weights
from tasks.models.load import LoadedModel
from tasks.models.placement import check_held

Fact = tuple[str, str]
"""(entity, relation)."""
FOLDER = "evaluation/stresses"


@dataclass(frozen=True, eq=False)
class StressMaterial:
    """What a stress may draw on."""

    questions: Mapping[str, Any]
    """The world's questions, as columns."""
    roles: Mapping[str, str]
    """Entity -> its part in the unlearning."""
    types: Mapping[str, str]
    """Entity -> type."""
    seed: int

    def having(self, role: str) -> list[str]:
        """The entities of a role, sorted."""
        return sorted(entity for entity, part in self.roles.items() if part == role)

    def target_types(self) -> set[str]:
        return {self.types[entity] for entity in self.having("target")}

    def rows_of(self, entities: Collection[str]) -> dict[Fact, list[int]]:
        """Fact -> its questions in the training templates, for the given entities."""
        found: dict[Fact, list[int]] = {}
        wanted = set(entities)
        for row, entity in enumerate(self.questions["entity"]):
            if entity in wanted and not self.questions["held_out"][row]:
                found.setdefault((entity, self.questions["relation"][row]), []).append(row)
        return found

    def answers_of(self, facts: Iterable[Fact]) -> set[str]:
        """Every accepted answer to the given facts."""
        wanted = set(facts)
        pairs = zip(self.questions["entity"], self.questions["relation"], strict=True)
        return {text for row, fact in enumerate(pairs) if fact in wanted for text in self.questions["answers"][row]}


@dataclass(frozen=True)
class Taught:
    """What a stress itself taught, which shows nothing about what the model had kept: to be left out of the scores."""

    facts: tuple[Fact, ...] = ()
    losses: tuple[float, ...] = ()
    """Loss of every step, nats a token; empty where nothing was trained."""


class Stress(ABC):
    """A change to a model. Subclasses are final frozen dataclasses, one a file of `stresses`."""

    @abstractmethod
    def apply(self, loaded: LoadedModel, material: StressMaterial) -> Taught:
        """Change the model in place.

        Raises: UsageError where the world holds nothing that the stress could use.
        """


def make_stressed(
    loaded: LoadedModel,
    name: str,
    settings: Iterable[tuple[str, Any]],
    questions: Mapping[str, Any],
    roles: Mapping[str, str],
    types: Mapping[str, str],
    seed: int,
) -> Taught:
    """Put the stress of that name on the model, in place.

    Raises: UsageError for an unknown stress or setting, or a stress that cannot be made here; ArithmeticError for
    weights that are no numbers.
    """
    kind, given = catalogue.load(FOLDER, name), dict(settings)
    known = sorted(entry.name for entry in dataclasses.fields(kind))
    for key in given:
        if key not in known:
            remedy = catalogue.did_you_mean(key, known) if known else "it has none: remove it"
            raise UsageError(f"stress '{name}' has no setting '{key}'; {remedy}")
    check_held(dict(loaded.model.named_parameters()), f"the stress '{name}'")
    taught: Taught = kind(**given).apply(loaded, StressMaterial(questions, roles, types, seed))
    loaded.model.requires_grad_(False)
    wrong = [key for key, value in loaded.model.named_parameters() if not bool(torch.isfinite(value).all())]
    if wrong:
        raise ArithmeticError(f"after the stress '{name}' {len(wrong)} weights are no numbers, such as {wrong[0]}")
    return taught


@torch.no_grad()
def change_weights(loaded: LoadedModel, change: Callable[[Float[Tensor, "O I"]], Tensor]) -> None:
    """Replace the weight of every linear layer of the decoder, one row an output, by what `change` makes of it.

    Biases, norms, embeddings and the head stay as they are. The result is stored in the weight's own type.
    """
    for weight in linear_weights(loaded.decoder).values():
        weight.copy_(change(weight))


def teach_facts(
    loaded: LoadedModel, material: StressMaterial, facts: Mapping[Fact, Sequence[int]], *, steps: int, rate: float
) -> Taught:
    """Fine-tune on the facts' rows, in place."""
    rows = sorted(row for several in facts.values() for row in several)
    losses = teach(loaded, material.questions, rows, steps=steps, learning_rate=rate, seed=material.seed)
    return Taught(tuple(sorted(facts)), tuple(losses))


def without_answers(
    material: StressMaterial, facts: Mapping[Fact, Sequence[int]], withheld: Collection[str]
) -> dict[Fact, list[int]]:
    """The facts that do not say a withheld answer: one that occurs, as whole words, in what would be taught."""
    if not withheld:
        return {fact: list(rows) for fact, rows in facts.items()}
    ordered = "|".join(re.escape(text) for text in sorted(withheld))
    pattern = re.compile(rf"(?<!\w)(?:{ordered})(?!\w)", re.IGNORECASE)
    answers = material.questions["answers"]
    return {
        fact: list(rows) for fact, rows in facts.items() if not any(pattern.search(answers[row][0]) for row in rows)
    }


def facts_of_others(
    material: StressMaterial, entities: Sequence[str], count: int, *, first: Sequence[str] = ()
) -> dict[Fact, list[int]]:
    """Facts of `count` entities (fewer where there are fewer), those of `first` before the rest, drawn by the seed;
    left out are facts that say any answer about a target.

    Raises: UsageError when none is left.
    """
    generator = np.random.default_rng(material.seed)
    drawn = [str(entity) for group in (first, entities) for entity in generator.permutation(sorted(group))][:count]
    targets = set(material.having("target"))
    assert not targets & set(drawn)
    withheld = material.answers_of(material.rows_of(targets))
    facts = without_answers(material, material.rows_of(drawn), withheld)
    if not facts:
        raise UsageError(
            "the world holds no fact of other entities that this stress could teach; leave the stress out, or raise "
            "`retain` in [entities]"
        )
    return facts
