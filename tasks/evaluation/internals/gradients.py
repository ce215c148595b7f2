"""How strongly the weights would move to make an answer likelier: per-example gradients, summed up and let go.

Per question: g, the gradient of the mean loss of the canonical answer's tokens (nats; the end is not among them) with
respect to the weights of the blocks. Kept are the sum of g² per block (the trace of the empirical Fisher information,
per example) and the mean over parameter tensors of ‖g‖₂.

Source:   Fisher information of the answers, as in Golatkar et al. 2020, arXiv 1911.04933; gradient-norm attack: MUSE-style suites.
Departs:  per example, where public code squares the gradient of a whole batch and counts labels of padding; embeddings
          and head are left out, and dropout is off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from tasks.evaluation.metric import ALL_BLOCKS
from tasks.evaluation.tracing import whole_entities
from tasks.models.forward import logits_of, run_decoder
from tasks.models.load import LoadedModel
from tasks.models.patching import teacher_forced
from tasks.models.placement import check_held
from tasks.models.worlds import encode_world


def rows_for_gradients(questions: Mapping[str, Any], *, others: int, seed: int) -> list[int]:
    """Held-out questions about the targets, and about as many as `others` of neighbours and of unknown entities each,
    whole entities at a time; unknown ones only in relations that the targets are asked."""
    plain = np.flatnonzero(np.asarray(questions["set"]) == "paraphrase")
    split = np.asarray(questions["split"])[plain]
    chosen = plain[split == "forget"].tolist()
    relations = {questions["relation"][row] for row in chosen}
    generator = np.random.default_rng(seed)
    for kind in ("neighbours", "unknown_held_out"):
        rows = [row for row in plain[split == kind] if kind == "neighbours" or questions["relation"][row] in relations]
        chosen += whole_entities(questions, rows, others, generator)
    return sorted(int(row) for row in chosen)


def observe_gradients(loaded: LoadedModel, questions: Mapping[str, Any], rows: Sequence[int]) -> dict[str, Any]:
    """Columns question, entity, split, layer (`ALL_BLOCKS`: all blocks), squared, norm; one row a question and block."""
    check_held(dict(loaded.blocks.named_parameters()), "taking gradients of weights")
    blocks = [[each for each in block.parameters() if each.is_floating_point()] for block in loaded.blocks]
    table: dict[str, list[Any]] = {name: [] for name in ("question", "entity", "split", "layer", "squared", "norm")}
    parameters = [each for block in blocks for each in block]
    before = [each.requires_grad for each in parameters]
    try:
        for each in parameters:
            each.requires_grad_(True)
        encoded = encode_world(loaded, questions, rows)
        answers = [question.answers[0] for question in encoded]
        sequences, positions = teacher_forced([question.prompt for question in encoded], answers)
        for row, sequence, places, answer in zip(rows, sequences, positions, answers, strict=True):
            ids = torch.tensor([sequence], device=loaded.device)
            with torch.enable_grad():
                _, output = run_decoder(loaded, ids)
                logits = logits_of(loaded, output.last_hidden_state[0, places.start :]).float()
                loss = cross_entropy(logits, torch.tensor(answer, device=loaded.device))
                found = torch.autograd.grad(loss, parameters, allow_unused=True)
            sums = [0.0 if each is None else float(each.detach().double().square().sum()) for each in found]
            place = 0
            for layer, block in [*enumerate(blocks), (ALL_BLOCKS, parameters)]:
                mine = sums if layer == ALL_BLOCKS else sums[place : place + len(block)]
                place += 0 if layer == ALL_BLOCKS else len(block)
                line = {name: questions[name][row] for name in ("question", "entity", "split")}
                line |= {"layer": layer, "squared": sum(mine), "norm": float(np.sqrt(mine).mean())}
                for name, value in line.items():
                    table[name].append(value)
    finally:
        for each, flag in zip(parameters, before, strict=True):
            each.requires_grad_(flag)
    return {
        name: np.array(column, dtype=object if name in ("entity", "split") else None) for name, column in table.items()
    }
