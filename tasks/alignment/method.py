"""What an unlearning method is: a frozen dataclass with a loss, or an edit. Loop, data and hooks are not its business.

B rows, S state positions, A answer positions, R unknown references, D width, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from jaxtyping import Float, Int
from torch import Tensor, nn

from storage.records import Site
from tasks.alignment.examples import Rows
from tasks.models.load import LoadedModel
from tasks.models.sae import Autoencoder
from tasks.models.train import Loss

if TYPE_CHECKING:
    from tasks.models.intervention import Intervention

__all__ = ["Batch", "Edit", "Forward", "Given", "Group", "Loss", "Method", "Start", "Trained"]

GROUPS = ("forget", "retain", "general", "refusal", "alternative")
"""forget       questions about the target with their true answers
retain       questions about known entities that are no neighbours of it, with theirs
general      sentences that name no entity: the first half is the prompt, the second the answer
refusal      the forget questions of the step, each answered with a refusal
alternative  the forget questions of the step, each answered with one or more false answers, a question's side by side
"""


@dataclass(frozen=True, eq=False)
class Forward:
    """What a network computed on some rows."""

    states: Mapping[Site, Float[Tensor, "B S D"]]
    log_probabilities: Float[Tensor, "B A V"] | None
    """Next-token distribution at the answer positions, nats."""
    final: Float[Tensor, "B A D"] | None = None
    """States after the final norm there, where the distributions are to be made of them later."""


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
    unknown_answers: Float[Tensor, "B A V"] | None = None
    """log of the mean next-token probability over the R unknown entities, the row's own answer forced (forget only)."""
    index: Int[Tensor, " B"] | None = None
    """Each row's place among all rows of this kind in `Start.groups`."""
    restored: Forward | None = None
    """What the student answers when its states at the last site are those of the starting model (forget rows only)."""


Batch = Mapping[str, Group]
"""The groups of a step, by name (see GROUPS): those that the method's `needs` name."""


@dataclass(frozen=True, eq=False)
class Given:
    """What does not change from step to step, the step's number apart."""

    sites: tuple[Site, ...]
    autoencoders: Mapping[Site, Autoencoder]
    latents: Mapping[Site, Mapping[str, list[int]]]
    """Site -> `known` / `unknown` -> selected latents."""
    scale: Mapping[Site, Float[Tensor, " D"]]
    """Variance of each coordinate over the retain states of the starting model."""
    seed: int
    steps: int = 1
    step: int = 0
    """From 0."""
    prepared: Any = None
    """What the method's `prepare` returned; it may be changed in place from step to step."""


@dataclass(frozen=True, eq=False)
class Start:
    """What may be looked at before the first step: the starting model and every row that will be drawn."""

    student: LoadedModel
    """Still the starting model, not yet set to train."""
    groups: Batch
    """Every row that will be drawn, with the starting model's states as those of both `student` and `reference`; whoever
    wants its answers runs the rows."""
    given: Given
    run: Callable[..., Forward]
    """run(rows, sites, states=True, answers=True) -> Forward of the student as it is, gradients as torch is set."""


class Method(ABC):
    """A way to make a model forget. Subclasses are final frozen dataclasses; shared mathematics is in `terms.py`.

    needs       group -> which of `states` (at the sites), `answers` (distributions), `reference states`,
                `reference answers` and, of forget rows, `unknown answers` and `restored answers` are read; the rest is
                not computed.
    search      setting -> (low, high), or a tuple of choices: what tuning tries, `learning_rate` among them; ranges
                are searched on a logarithmic scale where low > 0.
    """

    needs: ClassVar[Mapping[str, frozenset[str]]]
    search: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    @property
    def reads(self) -> Mapping[str, frozenset[str]]:
        """`needs`, less what these settings give no weight."""
        return self.needs

    @property
    def references(self) -> int:
        """How many unknown, and how many known, entities it wants as references."""
        return 0

    @property
    def alternatives(self) -> int:
        """False answers beside each forget question of a step; one is drawn anew each time, more are all there are."""
        return 1

    def sites(self, given: tuple[Site, ...], depth: int) -> tuple[Site, ...]:
        """The sites whose states it reads, of those that have an autoencoder, or others of a model so deep."""
        return given


class Trained(Method):
    """A method with a loss.

    learning_rate  used where the experiment gives none; chosen on validation targets of the testbed.
    trains         `weights` (all but the embeddings), `down_projections` (the last linear map of each feed-forward
                   part), `lora` (adapters on every linear map, merged at the end) or `edit` (of what `prepare` attached
                   to the student; the weights stay).
    reach          how many blocks train, the last site's being the uppermost; 0 for all blocks of the model.
    """

    learning_rate: ClassVar[float] = 1e-3
    trains: ClassVar[str] = "weights"
    reach: ClassVar[int] = 0

    def prepare(self, start: Start) -> Any:
        """What is measured once before the first step; each loss finds it as `given.prepared`."""
        return None

    @abstractmethod
    def loss(self, batch: Batch, given: Given) -> Loss:
        """The loss of one step."""

    def shape_gradients(self, parameters: Mapping[str, nn.Parameter], given: Given) -> None:
        """Change the gradients in place, after the backward pass and before they are clipped."""

    def finish(self, parameters: Mapping[str, nn.Parameter], before: Mapping[str, Tensor], given: Given) -> None:
        """Change the trained parameters after the last step; `before` holds what they were."""


class Edit(Method):
    """A method without training."""

    @abstractmethod
    def edit(self, start: Start) -> Intervention | None:
        """Change the weights in place, or say what to do at every pass from now on, or neither."""
