"""The attack: fine-tune on half of a target's facts and watch the other half. What comes back was only hidden."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from storage.records import UsageError
from tasks.answers.judging import OwnWords, wanted
from tasks.models.adapters import adapted
from tasks.models.forward import logits_of, recomputed, run_decoder
from tasks.models.load import LoadedModel
from tasks.models.placement import check_held
from tasks.models.scoring import AnswerScores, score_answers
from tasks.models.train import Loss, minimise, trainable_parameters
from tasks.models.worlds import encode_world

COLUMNS = ("rate", "draw", "step", "entity", "question", "relation", "part", "log_probability", "tokens", "hit")
ROWS = 32
"""Taught questions a step, at most."""


def split_facts(
    questions: Mapping[str, Any], targets: Collection[str], seed: int, draw: int
) -> dict[tuple[str, str], str]:
    """(entity, relation) -> `taught` or `scored`: half of each target's relations are taught back.

    A relation with training questions only can but be taught, one with held-out questions only can but be scored; the
    others are halved. The draws go round one shuffled order of these, so that each is scored in about half of them.

    Raises: UsageError for a target of whom nothing could be taught, or nothing else scored.
    """
    parts: dict[tuple[str, str], str] = {}
    for place, (entity, sides) in enumerate(sorted(_sides(questions, targets).items())):
        names = sorted(relation for relation, side in sides.items() if len(side) > 1)
        order = np.roll(np.random.default_rng([seed, place]).permutation(np.array(names, dtype=object)), draw)
        own = {name: "taught" if name in order[: len(names) // 2] else "scored" for name in names}
        own |= {name: "scored" if True in side else "taught" for name, side in sides.items() if len(side) == 1}
        if len(set(own.values())) < 2:
            raise UsageError(
                f"relearning needs at least two relations of '{entity}', one to be taught and another to be scored, and "
                f"the world has {len(own)} ({', '.join(sorted(own))}); add questions about it in other relations, or "
                "other wordings of these"
            )
        parts |= {(entity, name): part for name, part in own.items()}
    return parts


def different_splits(questions: Mapping[str, Any], targets: Collection[str], draws: int) -> int:
    """How many of the draws part the facts in another way than the draws before."""
    halved = [sum(len(side) > 1 for side in sides.values()) for sides in _sides(questions, targets).values()]
    return min(draws, max((1, *halved)))


def _sides(questions: Mapping[str, Any], targets: Collection[str]) -> dict[str, dict[str, set[bool]]]:
    """Target -> relation -> on which sides it has questions: held out or not."""
    sides: dict[str, dict[str, set[bool]]] = {}
    for entity, relation, held_out in zip(
        *(questions[name] for name in ("entity", "relation", "held_out")), strict=True
    ):
        if entity in targets:
            sides.setdefault(entity, {}).setdefault(relation, set()).add(bool(held_out))
    return sides


def relearn_curve(
    loaded: LoadedModel,
    questions: Mapping[str, Any],
    targets: set[str],
    *,
    draws: int,
    steps: int,
    learning_rate: float,
    seed: int,
    rank: int = 0,
    checkpointing: bool = False,
    own_words: OwnWords | None = None,
) -> dict[str, list[Any]]:
    """Train the model on the taught half (training templates) and score all held-out questions of the targets before
    the first step and after each, by what it would say to the letter, or of a model that answers in its own words by
    what it says.

    Every draw splits the facts another way and starts from the same weights, which the model has again at the end: for
    other learning rates, call again.
    """
    rows = [row for row, entity in enumerate(questions["entity"]) if entity in targets]
    asked = [row for row in rows if questions["held_out"][row]]
    table: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    start = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    for draw in range(different_splits(questions, targets, draws)):
        loaded.model.load_state_dict(start)
        parts = split_facts(questions, targets, seed, draw)
        part = {row: parts[questions["entity"][row], questions["relation"][row]] for row in rows}
        taught = [row for row in rows if part[row] == "taught" and not questions["held_out"][row]]
        record = functools.partial(
            _record, loaded, questions, asked, part, {"rate": learning_rate, "draw": draw}, own_words, table
        )
        record(0, {})
        teach(
            loaded, questions, taught, steps=steps, learning_rate=learning_rate, seed=seed, after_step=record,
            rank=rank, checkpointing=checkpointing,
        )  # fmt: skip
    loaded.model.load_state_dict(start)
    return table


def _record(
    loaded: LoadedModel,
    questions: Mapping[str, Any],
    asked: Sequence[int],
    part: Mapping[int, str],
    attack: Mapping[str, float],
    own_words: OwnWords | None,
    table: dict[str, list[Any]],
    step: int,
    _losses: Mapping[str, float],
) -> None:
    encoded = encode_world(loaded, questions, asked)
    prompts, answers = [each.prompt for each in encoded], [each.answers for each in encoded]
    columns = _answer_columns(score_answers(loaded, prompts, answers), len(asked))
    if own_words is not None:
        columns["hit"] = own_words.heard(loaded, prompts, [wanted(questions, row, own_words.names) for row in asked])
    for place, row in enumerate(asked):
        line = {name: questions[name][row] for name in ("entity", "question", "relation")}
        line |= {name: columns[name][place].item() for name in ("log_probability", "tokens", "hit")}
        line |= {**attack, "step": step, "part": part[row]}
        for name in COLUMNS:
            table[name].append(line[name])


def _answer_columns(scores: AnswerScores, count: int) -> dict[str, np.ndarray]:
    """Per prompt: log-probability (nats), tokens and rank of the canonical answer, hit on any accepted one."""
    canonical = scores.answer == 0
    hit = np.zeros(count, dtype=bool)
    np.logical_or.at(hit, scores.prompt, scores.hit)
    return {
        "log_probability": scores.log_probability[canonical],
        "tokens": scores.tokens[canonical],
        "rank": scores.rank[canonical],
        "hit": hit,
    }


def teach(
    loaded: LoadedModel,
    questions: Mapping[str, Any],
    rows: Sequence[int],
    *,
    steps: int,
    learning_rate: float,
    seed: int,
    after_step: Callable[[int, Mapping[str, float]], None] = lambda step, parts: None,
    rank: int = 0,
    checkpointing: bool = False,
) -> list[float]:
    """Fine-tune all but the embeddings (and a head tied to them) on the canonical answers of the rows, in place.

    rank           with more than 0, adapters of this rank on every linear map train instead, and are merged at the end.
    checkpointing  compute what lies inside a block again for the gradients.

    Returns the loss of every step before it is made: mean over the answers' tokens and the end, nats.
    """
    ids, labels = _teaching_rows(loaded, questions, rows)
    generator = np.random.default_rng(seed)
    size = min(ROWS, len(rows))

    def loss_at(_step: int) -> Loss:
        chosen = torch.from_numpy(generator.permutation(len(rows))[:size]).to(loaded.device)
        _, output = run_decoder(loaded, ids[chosen])  # causal: padding on the right reaches no scored position
        wanted = labels[chosen] >= 0
        logits = logits_of(loaded, output.last_hidden_state[wanted]).float()
        loss = cross_entropy(logits, labels[chosen][wanted])
        return Loss(loss, {"taught": loss})

    with _trained(loaded, rank, seed) as parameters, recomputed(loaded) if checkpointing else contextlib.nullcontext():
        history = minimise(
            parameters, loss_at, steps=steps, learning_rate=learning_rate, decay=0.0, after_step=after_step
        )
    loaded.model.requires_grad_(False)
    return [parts["total"] for parts in history]


@contextlib.contextmanager
def _trained(loaded: LoadedModel, rank: int, seed: int) -> Iterator[list[torch.nn.Parameter]]:
    """What the attack trains."""
    if not rank:
        check_held(dict(loaded.model.named_parameters()), "training weights")
        yield trainable_parameters(loaded.model, frozen=[loaded.embeddings])
        return
    with adapted(loaded, None, rank=rank, alpha=2.0 * rank, seed=seed) as parameters:
        yield list(parameters.values())


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
