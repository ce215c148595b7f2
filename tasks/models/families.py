"""The model families that are supported, as data: where each keeps its parts and what it tolerates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from storage.records import UsageError

BeginningRule = Literal["always", "never", "tokenizer"]


@dataclass(frozen=True)
class Family:
    """One architecture. Module paths are relative to the module named in the docstring of each field."""

    name: str
    block: str
    """Class name of a decoder block; the decoder is the module that holds a list of them."""
    model_types: tuple[str, ...]
    """`config.model_type` values, the nested text part of a multimodal model included."""
    blocks: str = "layers"
    """List of blocks, in the decoder."""
    final_norm: str = "norm"
    """Norm after the last block, in the decoder."""
    embeddings: str = "embed_tokens"
    """Token embeddings, in the decoder."""
    mlp_output: str = "mlp"
    """What is added to the residual for the feed-forward part, in a block: the post-norm where there is one."""
    attention_output: str = "self_attn"
    """What is added to the residual for attention, in a block: the post-norm where there is one."""
    down_projection: str = "mlp.down_proj"
    """The last linear map of the feed-forward part, in a block."""
    attention: str = "sdpa"
    """Attention implementation asked of transformers."""
    ancestor_mask: bool = True
    """Whether a 4-D attention mask and `position_ids` decide alone what a token sees (still tested at run time)."""
    beginning: BeginningRule = "tokenizer"
    """Whether the beginning-of-sequence token is prepended; `tokenizer`: where the tokenizer does so itself."""


# With norms after each part, what is added to the residual is the norm's output.
_MLP, _ATTENTION = "post_feedforward_layernorm", "post_attention_layernorm"

FAMILIES: tuple[Family, ...] = (
    Family(
        "gemma2",
        "Gemma2DecoderLayer",
        ("gemma2",),
        mlp_output=_MLP,
        attention_output=_ATTENTION,
        attention="eager",  # sdpa has no soft-capping: transformers refuses it here
        beginning="always",
    ),
    Family(
        "gemma3",
        "Gemma3DecoderLayer",
        ("gemma3_text", "gemma3"),
        mlp_output=_MLP,
        attention_output=_ATTENTION,
        beginning="always",
    ),
    Family("llama", "LlamaDecoderLayer", ("llama",), beginning="always"),
    Family("mistral", "MistralDecoderLayer", ("mistral",), beginning="always"),
    Family("qwen2", "Qwen2DecoderLayer", ("qwen2",), beginning="never"),
    Family("qwen3", "Qwen3DecoderLayer", ("qwen3",), beginning="never"),
    Family("phi3", "Phi3DecoderLayer", ("phi3",)),
    Family("olmo2", "Olmo2DecoderLayer", ("olmo2",), mlp_output=_MLP, attention_output=_ATTENTION),
    Family(
        "gpt2",
        "GPT2Block",
        ("gpt2",),
        blocks="h",
        final_norm="ln_f",
        embeddings="wte",
        attention_output="attn",
        down_projection="mlp.c_proj",
        beginning="always",  # the tokenizer adds none, yet published autoencoders were trained with it
    ),
    Family(
        "gpt_neox",
        "GPTNeoXLayer",
        ("gpt_neox",),
        final_norm="final_layer_norm",
        embeddings="embed_in",
        attention_output="attention",
        down_projection="mlp.dense_4h_to_h",
    ),
)


def family_of_type(model_type: str) -> Family:
    """The family of a `config.model_type`.

    Raises: UsageError for an architecture that is not in the table.
    """
    for family in FAMILIES:
        if model_type in family.model_types:
            return family
    known = ", ".join(family.name for family in FAMILIES)
    raise UsageError(
        f"model architecture {model_type!r} is not supported; known: {known}; "
        "add a row to tasks/models/families.py, or use a model of a known family"
    )


def family_of(model: nn.Module) -> Family:
    """The family of a loaded model, by its configuration.

    Raises: UsageError for an architecture that is not in the table.
    """
    config: Any = getattr(model, "config", None)
    return family_of_type(str(getattr(config, "model_type", type(model).__name__)))


def decoder_of(model: nn.Module, family: Family) -> nn.Module:
    """The text decoder: the module that holds the list of blocks, however deeply nested.

    Raises: UsageError when there is none, or more than one.
    """
    found = list(_decoders(model, family))
    if len(found) != 1:
        raise UsageError(
            f"{type(model).__name__} holds {len(found)} lists of {family.block}, expected one; "
            f"is it a model of the family {family.name}?"
        )
    return found[0]


def linear_weights(decoder: nn.Module) -> dict[str, Float[Tensor, "O I"]]:
    """Module name -> weight of every linear layer of a decoder, one row an output.

    The weights are views: what is written into one changes the model. Neither the embeddings nor the head, which lies
    outside the decoder, are among them.
    """
    found: dict[str, Tensor] = {}
    for name, module in decoder.named_modules():
        if isinstance(module, nn.Linear):
            found[name] = module.weight
        elif isinstance(module, Conv1D):  # gpt2's linear layer, which keeps its weight the other way round
            found[name] = module.weight.T
    return found


def _decoders(model: nn.Module, family: Family) -> Iterator[nn.Module]:
    for module in model.modules():
        blocks = getattr(module, family.blocks, None)
        if isinstance(blocks, nn.ModuleList) and len(blocks) and type(blocks[0]).__name__ == family.block:
            yield module
