"""A sparse autoencoder in sae-lens' format; importing that library takes seconds, so it waits until one is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from storage.records import UsageError


@dataclass(frozen=True, eq=False)
class Autoencoder:
    """A frozen autoencoder: K latents over a residual stream of width D.

    With x' = x - b_dec (where the configuration says so): pre-activation z = x' W_enc + b_enc, times the norm of the
    latent's decoder row where the configuration says so; activation f(z) with f JumpReLU, top-k or ReLU.
    """

    sae: Any
    """A sae_lens inference SAE."""

    @property
    def width(self) -> int:
        """D."""
        return int(self.sae.cfg.d_in)

    @property
    def latents(self) -> int:
        """K."""
        return int(self.sae.cfg.d_sae)

    @property
    def architecture(self) -> str:
        """`standard`, `jumprelu`, `topk`, …"""
        return str(self.sae.cfg.architecture())

    @property
    def threshold(self) -> Float[Tensor, " K"] | None:
        """Pre-activation above which a latent fires; None where the k largest fire instead."""
        if hasattr(self.sae, "threshold"):
            return self.sae.threshold.detach()
        if self.architecture == "topk":
            return None
        return torch.zeros(self.latents, device=self.sae.W_enc.device, dtype=self.sae.W_enc.dtype)

    @property
    def largest(self) -> int:
        """How many latents fire at most where no threshold decides; K where one does."""
        return int(self.sae.cfg.k) if self.threshold is None else self.latents

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.sae.W_enc.device

    @property
    def decoder_rows(self) -> Float[Tensor, "K D"]:
        """W_dec: the direction each latent writes."""
        return self.sae.W_dec

    def encode(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B K"]:
        """Activations, zero where a latent does not fire: no gradient reaches those."""
        return self.sae.encode(x)

    def decode(self, activations: Float[Tensor, "*B K"]) -> Float[Tensor, "*B D"]:
        """The reconstruction."""
        return self.sae.decode(activations)

    def pre_activations(
        self, x: Float[Tensor, "*B D"], latents: Int[Tensor, " k"] | slice | None = None
    ) -> Float[Tensor, "*B k"]:
        """What the threshold is compared with, for all latents or the given ones: a gradient reaches every one.

        Raises: UsageError for gated autoencoders, which decide by a second encoder.
        """
        weight, bias = self.encoder_columns(latents)
        return torch.nn.functional.linear(self.sae.process_sae_in(x), weight.T, bias)  # adds in place

    def encoder_columns(
        self, latents: Int[Tensor, " k"] | slice | None = None
    ) -> tuple[Float[Tensor, "D k"], Float[Tensor, " k"]]:
        """W_enc and b_enc of all latents or the given ones, with the decoder's norm multiplied in where it counts.

        Raises: UsageError for gated autoencoders.
        """
        if getattr(self.sae, "b_enc", None) is None:
            raise UsageError(
                f"a {self.architecture} autoencoder has no single pre-activation; use a jumprelu, topk or standard one"
            )
        pick = slice(None) if latents is None else latents
        weight, bias = self.sae.W_enc[:, pick], self.sae.b_enc[pick]
        if getattr(self.sae.cfg, "rescale_acts_by_decoder_norm", False):
            norm = self.sae.W_dec[pick].norm(dim=-1)
            return weight * norm, bias * norm
        return weight, bias


def load_sae(folder: str | Path, *, device: str = "cpu") -> Autoencoder:
    """Read a folder that holds `cfg.json` and `sae_weights.safetensors`; float32, frozen.

    Raises: UsageError for a folder without them, or one that cannot be read.
    """
    folder = Path(folder)
    for name in ("cfg.json", "sae_weights.safetensors"):
        if not (folder / name).is_file():
            raise UsageError(f"{folder} holds no {name}; give a folder that sae-lens' save_model wrote")
    from sae_lens import SAE

    try:
        sae = SAE.load_from_disk(str(folder), device=device, dtype="float32")
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(f"the autoencoder in {folder} cannot be read ({first}); train or fetch it again") from error
    return Autoencoder(sae.eval().requires_grad_(False))
