"""What an unlearning method is: a frozen dataclass with a loss. The loop, the data and the hooks are not its business.

B rows, S state positions, A answer positions, R unknown references, D width, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from storage.records import Site
from tasks.alignment.examples import Rows
from tasks.models.sae import Autoencoder
from tasks.models.train import Loss

__all__ = ["Forward", "Given", "Group", "Loss", "Method"]


@dataclass(frozen=True, eq=False)
class Forward:
    """What a network computed on some rows."""

    states: Mapping[Site, Float[Tensor, "B S D"]]
    log_probabilities: Float[Tensor, "B A V"] | None
    """Next-token distribution at the answer positions, nats."""


@dataclass(frozen=True, eq=False)
class Group:
    """Rows of one kind in a batch: what the student made of them, and what the frozen starting model did."""

    rows: Rows
    student: Forward
    reference: Forward | None
    """None where the method does not ask for it."""
    unknown: Mapping[Site, Float[Tensor, "B R S D"]] = field(default_factory=dict)
    """States of R unknown entities in the same sentence, aligned at the name's last token (forget rows only)."""
    known: Mapping[Site, Float[Tensor, "B R S D"]] = field(default_factory=dict)
    """The same of known entities that a retain loss may use."""


@dataclass(frozen=True, eq=False)
class Given:
    """What does not change from step to step."""

    sites: tuple[Site, ...]
    autoencoders: Mapping[Site, Autoencoder]
    latents: Mapping[Site, Mapping[str, list[int]]]
    """Site -> `known` / `unknown` -> selected latents."""
    scale: Mapping[Site, Float[Tensor, " D"]]
    """Variance of each coordinate over the retain states of the starting model."""
    seed: int


class Method(ABC):
    """A way to make a model forget. Subclasses are final frozen dataclasses; shared mathematics is in `terms.py`.

    forget_needs, retain_needs  which of `states` (at the sites), `answers` (distributions), `reference states` and
                                `reference answers` the loss reads in each group; what is not asked for is not computed.
    references                  how many unknown, and how many known, entities it wants as references, 0 for none.
    learning_rate               used where the experiment gives none; chosen on validation targets of the testbed.
    """

    learning_rate: ClassVar[float] = 1e-3

    forget_needs: ClassVar[frozenset[str]]
    retain_needs: ClassVar[frozenset[str]]

    @property
    def references(self) -> int:
        return 0

    @abstractmethod
    def loss(self, forget: Group, retain: Group, given: Given) -> Loss:
        """The loss of one step."""
