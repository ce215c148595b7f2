"""The attack: fine-tune on half of a target's facts and watch the other half. What comes back was only hidden."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from storage.records import UsageError
from tasks.evaluation.observing import answer_columns
from tasks.models.forward import logits_of, run_decoder
from tasks.models.load import LoadedModel
from tasks.models.scoring import score_answers
from tasks.models.train import Loss, minimise, trainable_parameters
from tasks.models.worlds import encode_world


def split_facts(relations: Mapping[str, Sequence[str]], seed: int) -> dict[tuple[str, str], str]:
    """(entity, relation) -> `taught` or `scored`: half of each target's relations, drawn, are taught back.

    Raises: UsageError for a target with fewer than two relations.
    """
    parts = {}
    for place, (entity, kinds) in enumerate(sorted(relations.items())):
        names = sorted(set(kinds))
        if len(names) < 2:
            raise UsageError(f"relearning needs at least two relations of '{entity}' and the world has {len(names)}")
        order = np.random.default_rng([seed, place]).permutation(names)
        for name in names:
            parts[entity, name] = "taught" if name in order[: len(names) // 2] else "scored"
    return parts


def relearn_curve(
    loaded: LoadedModel, questions: Mapping[str, Any], targets: set[str], *, steps: int, learning_rate: float, seed: int
) -> dict[str, list[Any]]:
    """Train the model in place on the taught half (training templates); score all held-out questions of the targets
    after every step and before the first."""
    rows = [row for row, entity in enumerate(questions["entity"]) if entity in targets]
    relations: dict[str, list[str]] = {}
    for row in rows:
        relations.setdefault(questions["entity"][row], []).append(questions["relation"][row])
    parts = split_facts(relations, seed)
    part = {row: parts[questions["entity"][row], questions["relation"][row]] for row in rows}
    taught = [row for row in rows if part[row] == "taught" and not questions["held_out"][row]]
    asked = [row for row in rows if questions["held_out"][row]]
    encoded = encode_world(loaded, questions, asked)
    table: dict[str, list[Any]] = {name: [] for name in ("step", "entity", "question", "relation", "part")}
    table |= {name: [] for name in ("log_probability", "tokens", "hit")}

    def look(step: int, _parts: Mapping[str, float] | None = None) -> None:
        scores = score_answers(loaded, [each.prompt for each in encoded], [each.answers for each in encoded])
        columns = answer_columns(scores, len(asked))
        for place, row in enumerate(asked):
            table["step"].append(step)
            for name in ("entity", "question", "relation"):
                table[name].append(questions[name][row])
            table["part"].append(part[row])
            for name in ("log_probability", "tokens", "hit"):
                table[name].append(columns[name][place].item())

    look(0)
    ids, labels = _teaching_rows(loaded, questions, taught)
    parameters = trainable_parameters(loaded.model, frozen=[loaded.embeddings])
    generator = np.random.default_rng(seed)
    size = min(32, len(taught))

    def loss_at(_step: int) -> Loss:
        chosen = torch.from_numpy(generator.permutation(len(taught))[:size]).to(loaded.device)
        _, output = run_decoder(loaded, ids[chosen])  # causal: padding on the right reaches no scored position
        wanted = labels[chosen] >= 0
        logits = logits_of(loaded, output.last_hidden_state[wanted]).float()
        loss = cross_entropy(logits, labels[chosen][wanted])
        return Loss(loss, {"taught": loss})

    minimise(parameters, loss_at, steps=steps, learning_rate=learning_rate, decay=0.0, after_step=look)
    return table


def _teaching_rows(
    loaded: LoadedModel, questions: Mapping[str, Any], rows: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and next-token labels, [B, T], padded on the right; a label of -1 is not scored."""
    end = loaded.end_ids[0]
    pairs = [(question.prompt, question.answers[0]) for question in encode_world(loaded, questions, rows)]
    length = max(len(prompt) + len(answer) + 1 for prompt, answer in pairs)
    padding = loaded.tokenizer.pad_token_id or 0
    ids = torch.full((len(pairs), length), padding)
    labels = torch.full((len(pairs), length), -1)
    for row, (prompt, answer) in enumerate(pairs):
        sequence = (*prompt, *answer, end)
        ids[row, : len(sequence)] = torch.tensor(sequence)
        labels[row, len(prompt) - 1 : len(sequence) - 1] = torch.tensor((*answer, end))
    return ids.to(loaded.device), labels.to(loaded.device)
