"""The types that flow between stages: small, frozen, made of the standard library only.

A record holds strings, numbers, tuples and other records; never a path, a tensor or a set.
A record with an `artifact` is a promise that its files are on disk: it is made only after
their manifest is.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any


class UsageError(ValueError):
    """Something the user gave is wrong; the message is one line: what, expected, given, remedy."""


def setting(
    default: Any,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[Any, ...] = (),
    plugin: str = "",
    runtime: bool = False,
) -> Any:
    """A field of a settings dataclass that can be given in an experiment file.

    minimum, maximum  inclusive bounds, refused outside.
    choices           the allowed values.
    plugin            the value names a file under this folder of `tasks` (its code enters the key).
    runtime           the value cannot change a result (a device, a batch size): not in the key.
    """
    metadata = {
        "minimum": minimum,
        "maximum": maximum,
        "choices": choices,
        "plugin": plugin,
        "runtime": runtime,
    }
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Artifact:
    """A sealed folder `<home>/artifacts/<stage>/<key>`; `content` is the digest of its files."""

    stage: str
    key: str
    content: str


@dataclass(frozen=True)
class Site:
    """A place in the network whose activation is read: `residual` is the stream after block `layer`."""

    layer: int
    part: str = "residual"

    @property
    def name(self) -> str:
        """Column and file name, e.g. `residual_1`."""
        return f"{self.part}_{self.layer}"


@dataclass(frozen=True)
class Statements:
    """What a model says by itself of somebody: `facts.jsonl`."""

    artifact: Artifact
    statements: int


@dataclass(frozen=True)
class World:
    """Entities and the questions about them: `entities.parquet`, `questions.parquet`."""

    artifact: Artifact
    source: str
    entities: int
    questions: int


@dataclass(frozen=True)
class ModelRef:
    """A causal language model: in an artifact's folder, on a hub (id and revision) or in a local folder.

    `revision` is a commit for a hub model and the digest of the files for a local folder.
    """

    source: str
    """`artifact`, `hub` or `folder`."""
    location: str
    """Folder inside the artifact, hub id, or absolute folder."""
    revision: str = ""
    artifact: Artifact | None = None
    dtype: str = "float32"
    """In which it is run and saved again."""
    chat: bool = False
    """Whether it is asked by its chat template."""
    placement: str = setting("one", runtime=True)
    """Where its weights are put when it is loaded; see `tasks.models.placement`."""


@dataclass(frozen=True)
class Testbed:
    """The base model that knows the world, and its gold twin that never saw the candidate targets."""

    artifact: Artifact
    base: ModelRef
    gold: ModelRef
    known_recall: float
    """Exact match of the base model on held-out templates of known entities [0, 1]."""
    never_seen_recall: float
    gold_target_recall: float


@dataclass(frozen=True)
class Asking:
    """How a model is asked, and so when an answer of its is right: for the labels, recall, relearning and the stop rule."""

    manner: str
    """`exact`: to the letter, and then the end; `said`: in the model's own words."""
    tokens: int = 0
    """Longest answer that is decoded in its own words; 0 where none is."""


@dataclass(frozen=True)
class Answers:
    """What the model answered when asked about the entities: `answers.parquet`; `entities.parquet`: who was asked about."""

    artifact: Artifact
    entities: int
    asking: Asking


@dataclass(frozen=True)
class EntitySet:
    """Which entities the model knows, by its answers: `entities.parquet`."""

    artifact: Artifact
    known: int
    unknown: int
    dropped: int
    asking: Asking


@dataclass(frozen=True)
class ForgetSet:
    """Who is to be forgotten and the part every other entity plays: `roles.parquet`."""

    artifact: Artifact
    targets: tuple[str, ...]
    """Names, as asked for."""
    asking: Asking


@dataclass(frozen=True)
class QuestionSet:
    """All that is asked about a forget set, straight, sideways and under attack: `questions.parquet`."""

    artifact: Artifact
    questions: int
    asking: Asking


@dataclass(frozen=True)
class ActivationRef:
    """Activations at the entity's tokens and after: Parquet shards, one column a site (`part-*`, `rest-*`)."""

    artifact: Artifact
    sites: tuple[Site, ...]
    rows: int
    width: int


@dataclass(frozen=True)
class SaeRef:
    """One sparse autoencoder a site, in sae-lens' format, in the folder `<site.name>/`."""

    artifact: Artifact
    sites: tuple[Site, ...]
    latents: int


@dataclass(frozen=True)
class LatentStats:
    """Which latents fire where, sparsely: `active-*.parquet`, a file a shard, and `rows-*.parquet`, what each row is."""

    artifact: Artifact


@dataclass(frozen=True)
class LatentSelection:
    """Which latents stand for known and for unknown: `selection.parquet`."""

    artifact: Artifact
    known: int
    unknown: int


@dataclass(frozen=True)
class UnlearnedModel:
    """What alignment made: the model, and `training.parquet`, its loss curve."""

    artifact: Artifact
    model: ModelRef
    method: str


@dataclass(frozen=True)
class ReloadedModel:
    """That the saved model, read in a fresh process, scores as it did in the run: `reloading.parquet`."""

    artifact: Artifact
    questions: int
    apart: float
    """Largest difference of an answer's log-probability, nats a token."""
    reader: str
    """`plain transformers`, or, for a model with an edit at every pass, `tasks.models.load`."""


@dataclass(frozen=True)
class StressedModel:
    """A model after a stress: the model, `taught.parquet`, the facts that the stress itself taught, and `training.parquet`."""

    artifact: Artifact
    model: ModelRef
    stress: str


@dataclass(frozen=True)
class Observations:
    """What one model said and thought on every question, per example, so that scores need no model."""

    artifact: Artifact


@dataclass(frozen=True)
class Observed:
    """All that was observed of one model, and what it is called: `base`, `unlearned`, `gold` or `<model>+<stress>`."""

    name: str
    observations: Observations
    population: Observations | None = None
    """States of all known and unknown entities."""
    relearning: Observations | None = None
    """How the target's facts come back."""
    traces: Observations | None = None
    """How far its states carry the answers."""
    gradients: Observations | None = None
    """How strongly its weights would move to make the answers likelier."""
    latents: Observations | None = None
    """Its states as an autoencoder's latents."""
    utility: Observations | None = None
    """What it achieves on benchmark tasks, where some were asked for."""
    stress: Artifact | None = None
    """Where a model under stress comes from: `taught.parquet` there names the facts that the stress itself taught."""


@dataclass(frozen=True)
class Score:
    """One number of the evaluation, with its interval, direction and failure state."""

    metric: str
    split: str
    value: float
    low: float
    high: float
    count: int
    better: str
    """`lower`, `higher`, or `toward <reference>`."""
    state: str = "ok"
    """`ok`, `degenerate`, `missing_reference` or `saturated`."""


@dataclass(frozen=True)
class Scorecard:
    """The scores of one unlearned model beside base and gold: `scores.parquet`."""

    artifact: Artifact


@dataclass(frozen=True)
class Verdict:
    """What the scores come to, and the measures that decided it: `verdict.parquet`."""

    artifact: Artifact
    verdict: str
    """`forgotten`, `hidden`, `damaged`, `collapsed`, `not forgotten` or `inconclusive`."""


@dataclass(frozen=True)
class Report:
    """The page a person reads: `report.html` and `figures/*.png`."""

    artifact: Artifact


@dataclass(frozen=True)
class ReleasedModel:
    """What can be given away: `model/` with its card, and `published.md`, the card that goes with it to a hub."""

    artifact: Artifact
    model: ModelRef


@dataclass(frozen=True)
class TrackedRun:
    """Where the run stands in MLflow."""

    artifact: Artifact
    run_id: str
    experiment: str
    model_version: str


def to_document(value: Any) -> Any:
    """A record as JSON that names every class, for `from_document` to read back."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {entry.name: to_document(getattr(value, entry.name)) for entry in dataclasses.fields(value)}
        return {"record": type(value).__name__, **fields}
    if isinstance(value, tuple):
        return [to_document(item) for item in value]
    return value


def from_document(document: Any) -> Any:
    """The record that `to_document` wrote; lists come back as tuples."""
    if isinstance(document, dict):
        fields = {name: from_document(item) for name, item in document.items() if name != "record"}
        return globals()[document["record"]](**fields)
    if isinstance(document, list):
        return tuple(from_document(item) for item in document)
    return document


def artifacts_in(value: Any) -> list[Artifact]:
    """Every artifact that a record refers to, itself included."""
    if isinstance(value, Artifact):
        return [value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [found for entry in dataclasses.fields(value) for found in artifacts_in(getattr(value, entry.name))]
    if isinstance(value, tuple):
        return [found for item in value for found in artifacts_in(item)]
    return []
