"""What a number of entities costs on one device: arithmetic on a model's shape, an estimate and no measurement.

    extraction   N · tokens · 2 P(≤ L) / rate           P(≤ L): weights of the matrices of the blocks that are run
    statistics   N · rows · 2 D K / rate                every latent's pre-activation
    host         N · planning / workers                 tokenising, the prefix tree, positions
    states       N · rows · 2 D bytes                   bfloat16, one site
    latents      N · rows · active · 6 bytes            (row, latent, value), compressed

Attention scores, norms and the embedding are left out: names are short, and what is left out is in the rate that is reached.
"""

from __future__ import annotations

from dataclasses import dataclass

TOKENS = 3.4
"""Nodes of the prefix tree an entity, its state at the name's last token being wanted."""
PLANNING = 30e-6
"""Seconds of one processor core an entity."""
ENTRY_BYTES = 6.0
"""Of a compressed entry of the sparse table."""


@dataclass(frozen=True)
class Shape:
    """A model, the block after which it is read, and the autoencoder it is read through."""

    name: str
    layers: int
    width: int
    """D."""
    heads: int
    key_value_heads: int
    head_width: int
    feed_forward: int
    layer: int
    """L: the site is the residual stream after this block, counted from 0."""
    latents: int
    """K."""
    gated: bool = True
    """Three matrices in a feed-forward part, or two."""

    @property
    def block_weights(self) -> int:
        """Weights of the matrices of one block."""
        attention = self.width * self.head_width * (2 * self.heads + 2 * self.key_value_heads)
        return attention + (3 if self.gated else 2) * self.width * self.feed_forward

    @property
    def weights_run(self) -> int:
        """P(≤ L)."""
        return self.block_weights * (self.layer + 1)


SHAPES = (
    Shape("gpt2", 12, 768, 12, 12, 64, 3072, 8, 24576, gated=False),
    Shape("qwen3-1.7b", 28, 2048, 16, 8, 128, 6144, 14, 32768),
    Shape("gemma-2-2b", 26, 2304, 8, 4, 256, 9216, 9, 16384),
    Shape("llama-3.1-8b", 32, 4096, 32, 8, 128, 14336, 15, 32768),
    Shape("gemma-2-9b", 42, 3584, 16, 8, 256, 14336, 21, 16384),
)
"""Configurations of published models; the block is about the middle one, the latents those of a published autoencoder
or near them."""


@dataclass(frozen=True)
class Device:
    """What computes."""

    rate: float = 395e12
    """Floating-point operations a second that are reached: half of what large bfloat16 products reach on an H200."""
    workers: int = 4
    """Processor cores that plan."""


@dataclass(frozen=True)
class Cost:
    """Seconds, and bytes on disk."""

    extraction: float
    statistics: float
    host: float
    """Beside the device's seconds where processes plan while it computes; the longer of the two counts."""
    states: float
    latents: float


def reading_seconds(shape: Shape, tokens: float, rate: float) -> float:
    """Of a pass up to the block over so many tokens, at so many operations a second."""
    return 2 * tokens * shape.weights_run / rate


def cost_of(
    shape: Shape, entities: float, device: Device = Device(), *, rows: float = 1.0, active: float = 80.0
) -> Cost:
    """What the states and latents of so many entities at one site cost.

    rows    distinct states an entity that are kept.
    active  latents that fire at one.
    """
    return Cost(
        extraction=reading_seconds(shape, entities * TOKENS, device.rate),
        statistics=entities * rows * 2 * shape.width * shape.latents / device.rate,
        host=entities * PLANNING / device.workers,
        states=entities * rows * 2 * shape.width,
        latents=entities * rows * active * ENTRY_BYTES,
    )
