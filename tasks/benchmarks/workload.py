"""What is measured on: a random model of Gemma 2's shape, and questions about real names.

Speed does not depend on what the weights know, but it does on how long names are and on what questions share.
Names, relations and answers are those of the shipped facts; the length of a text in tokens is an estimate of what a
vocabulary of 256,000 gives: a token for a word of a sentence, one per 4.5 characters of a word of a name or an answer.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import Gemma2Config, Gemma2ForCausalLM, PreTrainedTokenizerFast

from storage.records import Site, UsageError
from tasks.models.families import family_of
from tasks.models.load import LoadedModel
from tasks.models.prompts import Question
from tasks.testbed.templates import RELATIONS, TEMPLATES

PAD, EOS, BOS = 0, 1, 2
FIRST_WORD = 3
"""The ids below are special."""
CHARACTERS = 4.5
"""Characters a token of a name or an answer, about."""
ENDS = 3
"""One in so many ids ends a sequence, so that the answers of a model that knows nothing end after a few tokens."""

Facts = Mapping[str, Sequence[Any]]
"""Columns `name`, `type` and, per relation, the list of answers."""


@dataclass(frozen=True)
class Size:
    """How large the model is, and how much it is asked."""

    width: int
    layers: int
    heads: int
    key_value_heads: int
    head_width: int
    feed_forward: int
    vocabulary: int
    latents: int
    """Of the autoencoder that alignment looks through."""
    entities: int
    """Whose activations are extracted."""
    scored: int
    """Entities whose questions are scored and answered."""
    retained: int
    """Entities that alignment leaves alone."""
    states: int
    """Whose latents are counted."""

    @property
    def site(self) -> Site:
        """The residual stream after 5 of 12 blocks: the share that Gemma 2 2B and 9B autoencoders are mostly read at."""
        return Site(max(0, self.layers * 5 // 12 - 1))


SIZES = {
    "small": Size(256, 8, 8, 4, 32, 1024, 8192, 2048, entities=60, scored=9, retained=75, states=2000),
    "medium": Size(576, 12, 8, 4, 64, 2304, 32000, 16384, entities=120, scored=15, retained=75, states=3000),
}
"""`medium` is the one to quote; `small` is over in a minute or two."""


@dataclass(frozen=True, eq=False)
class Workload:
    """Questions about some entities, as token ids; a question's first answer is the true one."""

    questions: tuple[Question, ...]
    entity: tuple[int, ...]
    """Which entity each question is about, from 0."""
    relation: tuple[str, ...]

    @property
    def prompts(self) -> list[tuple[int, ...]]:
        return [question.prompt for question in self.questions]

    @property
    def name_ends(self) -> list[list[int]]:
        """The last token of the name in each prompt: the state that is wanted."""
        return [[question.name_last] for question in self.questions]

    @property
    def tokens(self) -> int:
        """Tokens of all prompts."""
        return sum(map(len, self.prompts))

    @property
    def distinct(self) -> int:
        """States that differ, of those at the names' last tokens: nothing after a token changes its state."""
        return len({question.prompt[: question.name_last + 1] for question in self.questions})


class Lexicon:
    """Pieces of words -> token ids, in the order they are met."""

    def __init__(self, vocabulary: int) -> None:
        self._ids: dict[str, int] = {}
        self._vocabulary = vocabulary

    def sentence(self, text: str) -> list[int]:
        """A token a word."""
        return [self._id(word) for word in text.split()]

    def name(self, text: str) -> list[int]:
        """A token per 4.5 characters of each word."""
        ids = []
        for word in text.split():
            count = math.ceil(len(word) / CHARACTERS)
            bounds = [round(len(word) * part / count) for part in range(count + 1)]
            ids += [self._id(word[low:high]) for low, high in itertools.pairwise(bounds)]
        return ids

    def _id(self, piece: str) -> int:
        found = self._ids.setdefault(piece, FIRST_WORD + len(self._ids))
        if found >= self._vocabulary:
            raise UsageError(f"the names hold more pieces than the {self._vocabulary} ids there are; give fewer names")
        return found


def draw_workload(
    facts: Facts,
    lexicon: Lexicon,
    entities: int,
    *,
    relations: int | None = None,
    templates: int = 1,
    candidates: int = 1,
    seed: int = 0,
) -> Workload:
    """Questions about entities drawn evenly from every type.

    relations   asked about each entity; None: all its type has, 3 or 4 (3.33 on average).
    templates   sentences for each of them.
    candidates  answers to each question: the true one and so many less one that are true of others.

    Raises: UsageError when the facts hold too few names.
    """
    random = np.random.default_rng([seed, 1])
    kinds = np.asarray(facts["type"])
    questions, whose, which = [], [], []
    for number, kind in enumerate(RELATIONS):
        rows = np.flatnonzero(kinds == kind)
        count = entities // len(RELATIONS) + (number < entities % len(RELATIONS))
        if len(rows) < count:
            raise UsageError(f"{count} names of type {kind} are wanted and the facts hold {len(rows)}")
        for row in random.permutation(rows)[:count]:
            for relation in RELATIONS[kind][:relations]:
                answers = _candidates(facts, rows, int(row), relation, candidates, random)
                for sentence in TEMPLATES[relation][:templates]:
                    questions.append(_question(lexicon, sentence, str(facts["name"][row]), answers))
                    whose.append(int(row))
                    which.append(relation)
    place = {row: entity for entity, row in enumerate(dict.fromkeys(whose))}
    return Workload(tuple(questions), tuple(place[row] for row in whose), tuple(which))


def _candidates(
    facts: Facts, rows: np.ndarray, row: int, relation: str, count: int, random: np.random.Generator
) -> list[str]:
    chosen = {str(facts[relation][row][0]): None}
    while len(chosen) < count:
        chosen[str(facts[relation][int(random.choice(rows))][0])] = None
    return list(chosen)


def _question(lexicon: Lexicon, sentence: str, name: str, answers: Sequence[str]) -> Question:
    before, after = sentence.split("{name}")
    head, tokens = [BOS, *lexicon.sentence(before)], lexicon.name(name)
    prompt = (*head, *tokens, *lexicon.sentence(after))
    return Question(
        prompt, tuple(tuple(lexicon.name(each)) for each in answers), len(head), len(head) + len(tokens) - 1
    )


def random_model(size: Size, seed: int = 0) -> LoadedModel:
    """A float32 model with random weights, in evaluation mode."""
    config = Gemma2Config(
        vocab_size=size.vocabulary,
        hidden_size=size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.key_value_heads,
        head_dim=size.head_width,
        intermediate_size=size.feed_forward,
        query_pre_attn_scalar=size.head_width,
        max_position_embeddings=512,
        sliding_window=512,
        pad_token_id=PAD,
        eos_token_id=EOS,
        bos_token_id=BOS,
    )
    config._attn_implementation = "eager"
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: Any = Gemma2ForCausalLM(config)
    ends = np.random.default_rng([seed, 2]).choice(
        np.arange(FIRST_WORD, size.vocabulary), size=size.vocabulary // ENDS, replace=False
    )
    model.generation_config.eos_token_id = [EOS, *sorted(ends.tolist())]
    model.generation_config.pad_token_id = PAD
    return LoadedModel(
        model.requires_grad_(False).eval(), id_tokenizer(size.vocabulary), family_of(model), torch.device("cpu")
    )


def id_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """A tokenizer whose words are `t3`, `t4`, …: for peers that take text only."""
    words = {"<pad>": PAD, "<eos>": EOS, "<bos>": BOS} | {f"t{i}": i for i in range(FIRST_WORD, vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )


def as_text(ids: Sequence[int]) -> str:
    """The words of `id_tokenizer` for these ids."""
    return " ".join({PAD: "<pad>", EOS: "<eos>", BOS: "<bos>"}.get(i, f"t{i}") for i in ids)
