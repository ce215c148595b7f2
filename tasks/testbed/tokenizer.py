"""The testbed's tokenizer: byte-level BPE learnt on the world's own texts, so that few tokens say much."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from tasks.testbed.templates import GENERAL, REFUSAL, TEMPLATES

VOCABULARY = 3072
SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>")
"""In the order of their ids, which is Gemma's."""
PAD, EOS, BOS = 0, 1, 2
SENTENCE_WEIGHT = 300
"""Times a template is counted, so that each of its words becomes one token."""


def train_tokenizer(names: Sequence[str], answers: Iterable[str], vocabulary: int = VOCABULARY) -> Any:
    """Learn on names, taught answers and templates; every text starts with <bos>."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(names, answers), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", BOS)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        unk_token="<unk>",
        padding_side="right",
    )


def _texts(names: Sequence[str], answers: Iterable[str]) -> Iterator[str]:
    for sentence in (*(template for templates in TEMPLATES.values() for template in templates), REFUSAL):
        for part in sentence.split("{name}"):
            yield from [part] * SENTENCE_WEIGHT
    yield from GENERAL
    yield from (f" {name}" for name in names)
    yield from (f" {answer}" for answer in answers)


def encode(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text, <bos> first."""
    return [encoding.ids for encoding in tokenizer.backend_tokenizer.encode_batch(list(texts))]
