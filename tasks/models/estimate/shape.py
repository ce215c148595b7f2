"""How large a model's parts are, from its configuration alone.

transformers itself builds the model on the device `meta`, which holds shapes and no numbers, so that parameters are exact
for every family.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from tasks.models.families import decoder_of, family_of, linear_weights
from tasks.models.load import quiet, read_configuration


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
