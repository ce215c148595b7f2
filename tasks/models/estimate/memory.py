"""Bytes that passes and training steps hold, and the operations they take, as functions of a model's shape.

Formulas, held to within a factor of 1.6 of what passes and steps of small models really hold
(`tests/tasks/models/test_estimate.py`). T tokens, D width, V vocabulary.
"""

from __future__ import annotations

from tasks.models.estimate.shape import Shape
from tasks.models.load import DTYPES
from tasks.models.plan import ROW

FLOAT = 4
"""Bytes of a float32 number."""


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
