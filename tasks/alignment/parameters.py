"""Which of a model's parameters train: all weights, the down-projections, or adapters; in which blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from storage.records import Site, UsageError
from tasks.alignment.method import Trained
from tasks.alignment.settings import AlignmentSettings
from tasks.models.adapters import Keeping, adapted
from tasks.models.intervention import edit_parameters
from tasks.models.load import LoadedModel
from tasks.models.placement import check_held


@contextmanager
def training_parameters(
    student: LoadedModel,
    method: Trained,
    sites: Sequence[Site],
    settings: AlignmentSettings,
    keep: Keeping | None = None,
) -> Iterator[dict[str, nn.Parameter]]:
    """The parameters that are to train, by name; everything else is frozen, and all of it is at the end.

    Adapters are there for the time of the context and, when it ends well, kept where `keep` says and merged into the
    weights. The embeddings, of positions and of the output too, stay as they are, because names and answers share their
    pieces.

    Raises: UsageError for a block the model does not have, weights that are offloaded, or any choice where the method
    trains no weights.
    """
    if method.trains == "edit":
        with _of_the_edit(student, settings) as parameters:
            yield parameters
        return
    kind = method.trains if settings.train == "own" else settings.train
    blocks = _blocks(student, method, sites, settings.layers)
    student.model.requires_grad_(False)
    try:
        if kind == "lora":
            with adapted(
                student, blocks, rank=settings.lora_rank, alpha=settings.lora_alpha, seed=settings.seed, keep=keep
            ) as parameters:
                yield parameters
        else:
            chosen = dict(_chosen(student, kind, blocks))
            check_held(chosen, "training weights")
            for parameter in chosen.values():
                parameter.requires_grad_(True)
            yield chosen
    finally:
        student.model.requires_grad_(False)


@contextmanager
def _of_the_edit(student: LoadedModel, settings: AlignmentSettings) -> Iterator[dict[str, nn.Parameter]]:
    if settings.train != "own" or settings.layers:
        given = f"train = '{settings.train}'" if settings.train != "own" else f"layers = {list(settings.layers)}"
        raise UsageError(
            f"[alignment] {given}: method '{settings.method}' trains an edit and leaves the model's weights as they are; "
            "expected train = 'own' and no layers, leave both out"
        )
    student.model.requires_grad_(False)
    parameters = edit_parameters(student.model)
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    try:
        yield parameters
    finally:
        for parameter in parameters.values():
            parameter.requires_grad_(False)


def all_weights(student: LoadedModel) -> dict[str, nn.Parameter]:
    """Name -> parameter of all that can train: all but the embeddings. Raises: UsageError where one is offloaded."""
    chosen = dict(_chosen(student, "weights", None))
    check_held(chosen, "taking gradients of weights")
    return chosen


def _blocks(
    student: LoadedModel, method: Trained, sites: Sequence[Site], asked: Sequence[int]
) -> frozenset[int] | None:
    """The blocks that train; None for all of the model, what lies outside the blocks included."""
    depth = len(student.blocks)
    if asked:
        if max(asked) >= depth:
            raise UsageError(
                f"[alignment] layers: expected blocks from 0 to {depth - 1}, given {max(asked)}; the model has {depth}"
            )
        return frozenset(asked)
    if not method.reach:
        return None
    last = max(site.layer for site in sites)
    return frozenset(range(max(0, last - method.reach + 1), last + 1))


def _chosen(student: LoadedModel, kind: str, blocks: frozenset[int] | None) -> Iterator[tuple[str, nn.Parameter]]:
    """Name -> parameter of those that train, in the model's own order."""
    modules = [each for each in student.model.modules() if isinstance(each, nn.Embedding)]
    modules.append(student.model.get_output_embeddings())
    embeddings = {id(parameter) for module in modules for parameter in module.parameters()}
    down = student.family.down_projection
    owners = {}
    for number, block in enumerate(student.blocks):
        for name, parameter in block.named_parameters():
            if kind == "weights" or name.startswith(f"{down}."):
                owners[id(parameter)] = number
    for name, parameter in student.model.named_parameters():
        if id(parameter) in embeddings:
            continue
        if id(parameter) in owners:
            if blocks is None or owners[id(parameter)] in blocks:
                yield name, parameter
        elif kind == "weights" and blocks is None:
            yield name, parameter
