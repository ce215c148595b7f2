"""What a model will need, from its configuration alone: parameters, bytes and operations, before any weight is read.

transformers itself builds the model on the device `meta`, which holds shapes and no numbers, so parameters are exact for
every family. Bytes of what is computed on the way are formulas, held to what passes of small models really keep
(`tests/tasks/models/test_estimate.py`). T tokens, D width, F inner width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from tasks.models.families import decoder_of, family_of, linear_weights
from tasks.models.load import DTYPES, quiet, read_configuration

FLOAT = 4
"""Bytes of a float32 number."""
ROW = 64
"""Nodes of a row of a plan (`tasks.models.plan.ROW`): what a token can attend to."""


@dataclass(frozen=True)
class Shape:
    """A model without its numbers."""

    family: str
    layers: int
    width: int
    """D."""
    vocabulary: int
    """V."""
    heads: int
    keys: int
    """Numbers that a token's keys, or its values, take in a block."""
    norms: int
    """Norms of a block."""
    maps: tuple[tuple[int, int], ...]
    """(inputs, outputs) of every linear map of a block."""
    down: int
    """Parameters of a block's down-projection."""
    block: int
    """Parameters of a block."""
    embeddings: int
    """Parameters of the embeddings, of positions too."""
    head: int
    """Parameters of the head; 0 where it is the embeddings."""
    total: int
    """Parameters of all, a tied head counted once."""
    eager: bool
    """Whether attention scores are held."""

    @property
    def trainable(self) -> int:
        """Parameters of all but the embeddings and the head."""
        return self.total - self.embeddings - self.head

    def cut(self, blocks: int) -> int:
        """Parameters of the lowest blocks, with the embeddings and the last norm and without the head."""
        rest = self.total - self.head - self.layers * self.block
        return rest + blocks * self.block

    def adapters(self, rank: int) -> int:
        """Parameters of adapters on every linear map of a block."""
        return rank * sum(inputs + outputs for inputs, outputs in self.maps)


def shape_of(location: str | Path, revision: str = "") -> Shape:
    """The shape of a model in a folder or on a hub; only `config.json` is read.

    Raises: UsageError for a configuration that cannot be had or read, or of a family that is not known.
    """
    config, family = read_configuration(location, revision)
    with quiet(), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, attn_implementation=family.attention, trust_remote_code=False)
    decoder = decoder_of(model, family_of(model))
    blocks = getattr(decoder, family.blocks)
    text = config.get_text_config()
    embedded = [each for each in decoder.modules() if isinstance(each, nn.Embedding)]
    head, tokens = model.get_output_embeddings(), decoder.get_submodule(family.embeddings)
    return Shape(
        family=family.name,
        layers=len(blocks),
        width=int(text.hidden_size),
        vocabulary=int(text.vocab_size),
        heads=int(text.num_attention_heads),
        keys=_keys(text),
        norms=sum("Norm" in type(each).__name__ for each in blocks[0].modules()),
        maps=tuple((each.shape[1], each.shape[0]) for each in linear_weights(blocks[0]).values()),
        down=_count(blocks[0].get_submodule(family.down_projection)),
        block=_count(blocks[0]),
        embeddings=sum(map(_count, embedded)),
        head=0 if head.weight is tokens.weight else _count(head),
        total=_count(model),
        eager=family.attention == "eager",
    )


def _keys(config: Any) -> int:
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(heads * size)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def size_of(dtype: str) -> int:
    """Bytes of a number of the type."""
    return DTYPES[dtype].itemsize


def pass_bytes(shape: Shape, tokens: int, width: int) -> int:
    """Most that a pass without gradients holds at once beside weights and results, `width` bytes a number."""
    inner = max(outputs for _, outputs in shape.maps)
    scores = shape.heads * ROW * (width + FLOAT) if shape.eager else 0
    return tokens * (4 * width * shape.width + max(4 * width * inner, scores) + ROW * (width + 1))


def kept_bytes(shape: Shape, tokens: int, width: int, *, checkpointing: bool = False, adapters: bool = False) -> int:
    """What a pass keeps for the backward pass: of every block, or with checkpointing of one, and each block's input."""
    each = tokens * _kept_in_a_block(shape, width, adapters)
    if not checkpointing:
        return shape.layers * each
    return each + shape.layers * tokens * shape.width * width


def _kept_in_a_block(shape: Shape, width: int, adapters: bool) -> int:
    """Bytes a token: norms compute in float32 and keep what they read and write; maps what they write, which is read by
    what follows; an activation and its gate twice the widest of these."""
    norms = shape.norms * shape.width * (2 * FLOAT + width)
    maps = (sum(outputs for _, outputs in shape.maps) + 2 * max(outputs for _, outputs in shape.maps)) * width
    scores = shape.heads * ROW * (2 * width + FLOAT) if shape.eager else 0
    lowered = sum(inputs for inputs, _ in shape.maps) * FLOAT if adapters and width < FLOAT else 0
    return norms + maps + scores + lowered


def distribution_bytes(shape: Shape, positions: int, width: int) -> int:
    """Logits, their float32 copy, its log-softmax and the rows' own copy, with the gradients of two of them."""
    return positions * shape.vocabulary * (width + 5 * FLOAT)


def training_bytes(trained: int, width: int) -> int:
    """Beside the weights: gradients and Adam's two moments, a step's temporary, and copies where weights have 16 bits.

    Adapters, which are no weights of the model, have themselves as their copies.
    """
    return trained * FLOAT * (4 if width == FLOAT else 5)


def autoencoder_bytes(width: int, latents: int) -> int:
    """An autoencoder in float32: encoder, decoder, their biases and thresholds."""
    return FLOAT * (2 * width * latents + 2 * latents + width)


def operations(shape: Shape, tokens: float, *, blocks: int | None = None, heads: float = 0) -> float:
    """Floating-point operations of a forward pass: two a parameter and token; `heads`: positions whose logits are wanted."""
    maps = sum(inputs * outputs for inputs, outputs in shape.maps)
    return 2.0 * (tokens * (shape.layers if blocks is None else blocks) * maps + heads * shape.vocabulary * shape.width)
