"""What an experiment on a model of one's own will need, stage by stage, before anything is loaded: bytes and time.

An estimate. Parameters are exact; how many questions are asked is that of the built-in facts; the rest are the formulas
of `tasks.models.estimate.memory`. Memory is that of the device, host memory and what libraries take for themselves left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.experiment import Experiment
from flows.models import HUB_ID
from storage.records import UsageError

if TYPE_CHECKING:
    from tasks.models.estimate.shape import Shape

THROUGHPUT = 200.0
"""Tera-operations a second that the device really reaches; an H100's bfloat16 peak is five times this."""
BANDWIDTH = 1.5e12
"""Bytes a second that it reads."""
BUDGET = 16384
"""Tokens in a batch on an accelerator, about: `tasks.models.forward.usual_budget` of a wide model."""
HEAD_NUMBERS = 2**25
"""Logits that scoring holds at once."""
UNNAMED_LATENTS = 2**15
"""Taken for the width of a published autoencoder whose name does not say it."""

HELD_OUT, READ = 4_680, 11_700
"""Of the built-in facts: held-out questions about entities that may be known, and those whose states are read."""
ASKED, OPTIONS = 3_400, 2.7
"""Questions that the evaluation asks about a target and beside it, and answers scored of each."""
TOKENS, SHARED, STATES = 14, 0.44, 7
"""A question's tokens, the share of them that is run (equal beginnings once), and its tokens from the name on."""
CHAT = 10
"""Tokens that a chat template puts around a question, about."""
ANSWER, LONGEST = 4, 10
"""Tokens of an answer with the end after it, mean and most."""
TARGET_QUESTIONS = 24
"""Training questions about a target."""
TAUGHT = 32
"""Questions a step of relearning."""
DECODED = 8
"""Tokens of a decoded answer, about."""
CHECKED = 10_000
"""States that a published autoencoder is checked on, at three sites."""


@dataclass(frozen=True)
class StageEstimate:
    """One stage, each time it runs."""

    stage: str
    times: int
    weights: int
    """Bytes of models and autoencoders."""
    training: int
    """Bytes of gradients, optimiser and float32 copies of what trains."""
    held: int
    """Bytes of states and distributions that are collected or kept as reference."""
    working: int
    """Bytes of what a pass holds."""
    disk: int
    """Bytes written."""
    operations: float
    """Floating-point operations."""
    seconds: float
    """At the stated throughput, or at the memory's bandwidth where that is slower."""

    @property
    def peak(self) -> int:
        return self.weights + self.training + self.held + self.working


def estimate(experiment: Experiment, throughput: float = THROUGHPUT) -> dict[str, Any]:
    """What `run --dry-run` says of a model other than the testbed's; its `config.json` is all that is read.

    throughput  tera-operations a second that the device reaches.

    Raises: UsageError for a configuration that cannot be had or read, or layers that the model does not have.
    """
    from tasks.models.estimate.shape import shape_of

    name = experiment.model.name
    hub_id = None if Path(name).expanduser().exists() else HUB_ID.fullmatch(name)
    shape = shape_of(*((name, "") if hub_id is None else (hub_id["name"], hub_id["revision"] or "")))
    depth = max(experiment.activations.layers)
    if depth >= shape.layers:
        raise UsageError(f"[activations] layers: expected blocks from 0 to {shape.layers - 1}, given {depth}; lower it")
    stages = list(_stages(experiment, shape, throughput))
    most = max(stages, key=lambda each: each.peak)
    return {
        "model": name,
        "family": shape.family,
        "parameters": shape.total,
        "layers": shape.layers,
        "width": shape.width,
        "dtype": experiment.model.dtype,
        "placement": experiment.model.placement,
        "throughput_tflops": throughput,
        "peak_bytes": most.peak,
        "peak_stage": most.stage,
        "disk_bytes": sum(each.times * each.disk for each in stages),
        "seconds": sum(each.times * each.seconds for each in stages),
        "stages": [vars(each) | {"peak": each.peak} for each in stages],
    }


def _stages(experiment: Experiment, shape: Shape, throughput: float) -> Iterator[StageEstimate]:
    from tasks.models.estimate import memory as of

    size = of.size_of(experiment.model.dtype)
    whole, layers = shape.total * size, experiment.activations.layers
    length, state = _length(experiment), shape.width * of.FLOAT
    logits = 3 * of.FLOAT * HEAD_NUMBERS
    latents = [_latents(source, experiment) for source in experiment.autoencoder.sources]
    latents = latents or [experiment.autoencoder.latents] * len(layers)
    autoencoders = sum(of.autoencoder_bytes(shape.width, each) for each in latents)
    models, stressed = 2, 2 * len(experiment.stresses.stresses)

    def stage(
        name: str, operations: float, passes: float = 1, *, times: int = 1, weights: int = whole, training: int = 0,
        held: int = 0, working: int = 0, disk: int = 0,
    ) -> StageEstimate:  # fmt: skip
        seconds = max(operations / (throughput * 1e12), passes * weights / BANDWIDTH)
        return StageEstimate(name, times, weights, training, held, working, disk, operations, seconds)

    def read(questions: float, **more: Any) -> float:
        return of.operations(shape, questions * length * SHARED, **more)

    budget = of.pass_bytes(shape, BUDGET, size)
    yield stage("entities", read(HELD_OUT, heads=HELD_OUT * ANSWER), working=budget + logits)

    lower = max(layers) + 1
    stored = READ * STATES * shape.width * (2 if experiment.activations.dtype == "bfloat16" else of.FLOAT) * len(layers)
    shard = min(READ, experiment.activations.shard_sequences) * STATES * state * len(layers)
    small = of.pass_bytes(shape, experiment.activations.token_budget, size)
    yield stage(
        "activations", read(READ, blocks=lower), weights=shape.cut(lower) * size, held=shard, working=small, disk=stored
    )
    if experiment.autoencoder.sources:
        largest = max(of.autoencoder_bytes(shape.width, each) for each in latents)
        yield stage(
            "autoencoder",
            of.operations(shape, CHECKED * len(latents)),
            weights=whole + largest,
            held=3 * CHECKED * state,
            working=max(budget, of.FLOAT * 4096 * max(latents)),
            disk=autoencoders,
        )
    else:
        rows = experiment.autoencoder.steps * experiment.autoencoder.batch_size * len(layers)
        yield stage(
            "autoencoder",
            12.0 * rows * shape.width * max(latents),
            weights=autoencoders // len(layers),
            training=3 * autoencoders // len(layers),
            held=READ * STATES * state,
            disk=autoencoders,
        )
    yield _alignment(experiment, shape, whole, autoencoders, throughput)

    answers = read(ASKED * OPTIONS, heads=ASKED * OPTIONS * ANSWER) + of.operations(shape, ASKED * DECODED)
    decoding = 256 * (length + 16) * shape.layers * 2 * size * shape.keys
    every = HELD_OUT * 2 * shape.layers * state
    general = 1200 * shape.vocabulary * 2
    yield stage(
        "observations", answers, ASKED / 256 * 16, times=models + stressed, working=budget + decoding + logits,
        held=general + 2 * ASKED * shape.layers * state, disk=general + ASKED * shape.layers * state,
    )  # fmt: skip
    yield stage("population", read(HELD_OUT), times=models, held=every, working=budget, disk=every // 2)
    yield _relearning(experiment, shape, whole, throughput, models)
    traced = 400 * shape.layers * OPTIONS
    yield stage(
        "traces", of.operations(shape, traced * 8 * ANSWER), times=models + stressed, weights=2 * whole,
        held=4 * 2**27, working=budget,
    )  # fmt: skip
    yield stage(
        "gradients", 3 * of.operations(shape, 150 * (length + ANSWER)), 3 * 150, times=models,
        training=shape.layers * shape.block * size, working=of.kept_bytes(shape, length + ANSWER, size),
    )  # fmt: skip
    if stressed:
        largest_map = max(inputs * outputs for inputs, outputs in shape.maps)
        yield stage("stressed", 0.0, 4, times=stressed, working=3 * of.FLOAT * largest_map, disk=whole)


def _alignment(experiment: Experiment, shape: Shape, whole: int, autoencoders: int, throughput: float) -> StageEstimate:
    """The training run; the method says what it reads and, where the experiment does not, what trains."""
    from tasks import catalogue
    from tasks.models.estimate import memory as of

    settings, size = experiment.alignment, of.size_of(experiment.model.dtype)
    method: Any = catalogue.load("alignment/methods", settings.method)(**dict(settings.settings))
    own: str = getattr(method, "trains", "nothing")  # an edit has no such thing
    kind = own if settings.train == "own" or own == "nothing" else settings.train
    some: int = len(settings.layers) or getattr(method, "reach", 0)
    blocks = some or shape.layers
    trained = {
        "nothing": 0,
        "lora": blocks * shape.adapters(settings.lora_rank),
        "down_projections": blocks * shape.down,
        "weights": blocks * shape.block if some else shape.trainable,
    }[kind]
    beside = of.training_bytes(trained, of.FLOAT if kind == "lora" else size) + (
        of.FLOAT * trained if kind == "lora" else 0
    )
    length, parts, sites = _length(experiment), settings.accumulation, len(experiment.activations.layers)
    rows = {"forget": settings.forget_rows, "retain": settings.retain_rows, "general": settings.general_rows,
            "refusal": settings.forget_rows, "alternative": settings.forget_rows * method.alternatives}  # fmt: skip
    targets = max(1, len(experiment.roles.targets))
    drawn = {name: settings.steps * count if name == "retain" else min(TARGET_QUESTIONS * targets, settings.steps * count)
             for name, count in rows.items()}  # fmt: skip
    held, tokens, positions, passes, frozen = 0, 0.0, 0.0, 0.0, 0.0
    for name, needs in method.reads.items():
        answers = drawn[name] * LONGEST
        held += answers * shape.width * size * ("reference answers" in needs)
        held += answers * shape.vocabulary * of.FLOAT * ("unknown answers" in needs)
        held += drawn[name] * STATES * sites * shape.width * of.FLOAT * ("reference states" in needs)
        answered = ("answers" in needs) + ("restored answers" in needs)
        run = rows[name] * (length + ANSWER) * max(1, answered)
        tokens, positions = tokens + run, positions + rows[name] * ANSWER * answered
        frozen += rows[name] * ANSWER * ("reference answers" in needs)
        passes += max(1, answered)
    held += 2 * drawn["forget"] * method.references * STATES * sites * shape.width * of.FLOAT
    kept = of.kept_bytes(
        shape, round(tokens / parts), size, checkpointing=settings.checkpointing, adapters=kind == "lora"
    )
    working = kept + of.distribution_bytes(shape, round(positions / parts), size)
    working += of.FLOAT * shape.vocabulary * round(frozen / parts)
    each = of.operations(shape, tokens, heads=positions) * (4 if settings.checkpointing else 3)
    before = of.operations(shape, sum(drawn.values()) * (length + ANSWER) * (1 + method.references / 10))
    operations = settings.steps * (each + of.operations(shape, 0, heads=frozen)) + before
    reading = settings.steps * (parts * passes * 3 * whole + 2 * beside) / BANDWIDTH
    seconds = max(operations / (throughput * 1e12), reading)
    return StageEstimate("alignment", 1, whole + autoencoders, beside, held, working, whole, operations, seconds)


def _relearning(experiment: Experiment, shape: Shape, whole: int, throughput: float, models: int) -> StageEstimate:
    """The attack: the starting weights are kept beside those that it trains."""
    from tasks.models.estimate import memory as of

    settings, size = experiment.relearning, of.size_of(experiment.model.dtype)
    steps = settings.relearning_steps * settings.relearning_draws * len(settings.relearning_rates)
    rank = settings.relearning_rank
    trained = shape.layers * shape.adapters(rank) if rank else shape.trainable
    beside = of.training_bytes(trained, of.FLOAT if rank else size) + (of.FLOAT * trained if rank else 0)
    tokens = TAUGHT * (_length(experiment) + ANSWER)
    working = of.kept_bytes(shape, tokens, size, checkpointing=settings.relearning_checkpointing, adapters=bool(rank))
    working += of.distribution_bytes(shape, TAUGHT * ANSWER, size)
    operations = steps * 4.0 * of.operations(shape, tokens, heads=TAUGHT * ANSWER)
    seconds = max(operations / (throughput * 1e12), steps * (4 * whole + 2 * beside) / BANDWIDTH)
    return StageEstimate("relearning", models, whole, beside, whole, working, 0, operations, seconds)


def _length(experiment: Experiment) -> int:
    """Tokens of a question."""
    return TOKENS + CHAT * experiment.model.chat


def _latents(source: str, experiment: Experiment) -> int:
    """How many latents an autoencoder has by its name (`width_16k`, `w32k`), or about how many such have."""
    found = re.search(r"(?:width_|-w)(\d+)(k|m)\b", source.replace("_l0", " l0"))
    if found:
        return int(found[1]) * (1024 if found[2] == "k" else 2**20)
    return UNNAMED_LATENTS
