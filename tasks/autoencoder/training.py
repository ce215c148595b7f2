"""Train one sparse autoencoder with sae-lens on activations that are already there."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from storage.records import Site
from tasks.autoencoder.settings import AutoencoderSettings
from tasks.models.route_sae import RouteAutoencoder
from tasks.models.sae import Autoencoder, load_sae

HELD_OUT = 0.1
"""Share of the rows kept out of training, for the quality figures."""
NESTED = (8, 4, 2, 1)
"""Of a Matryoshka autoencoder: the latents over the width of each level."""
L0_WARM_UP = 0.25
"""Share of the steps over which JumpReLU's penalty rises."""
INITIAL_THRESHOLD, BANDWIDTH = 0.5, 1.0
"""Of JumpReLU, in units of the normalised states' pre-activations: where thresholds begin, and the width of the band
around one in which a pre-activation moves it."""


def split_rows(
    states: Float[Tensor, "N ..."], generator: torch.Generator
) -> tuple[Float[Tensor, "H ..."], Float[Tensor, "T ..."]]:
    """Rows kept out of training, and those to train on."""
    order = torch.randperm(len(states), generator=generator)
    kept = max(1, int(len(states) * HELD_OUT))
    return states[order[:kept]], states[order[kept:]]


def endless_batches(
    states: Float[Tensor, "N ..."], size: int, generator: torch.Generator
) -> Iterator[Float[Tensor, "B ..."]]:
    """Shuffled batches, pass after pass: sae-lens stops with an error where its data ends."""
    while True:
        order = torch.randperm(len(states), generator=generator)
        for start in range(0, len(order) - size + 1, size):
            yield states[order[start : start + size]]


def hook_name(site: Site) -> str:
    """The site as sae-lens calls it."""
    return f"blocks.{site.layer}.hook_resid_post"


def train_autoencoder(
    states: Float[Tensor, "N D"], hook: str, settings: AutoencoderSettings, folder: Path
) -> dict[str, float]:
    """Train, save in sae-lens' format under `folder`, and measure on rows kept out of training.

    Returns explained variance (1 - FVU, at most 1), L0 (mean active latents a token) and the dead share [0, 1].
    """
    from sae_lens import SAETrainer
    from sae_lens.config import SAETrainerConfig

    generator = torch.Generator().manual_seed(settings.autoencoder_seed)
    held_out, training = split_rows(states, generator)
    size = min(settings.batch_size, len(training))
    schedule = SAETrainerConfig(
        total_training_samples=settings.steps * size,
        train_batch_size_samples=size,
        lr=settings.learning_rate,
        lr_end=settings.learning_rate / 10,
        lr_warm_up_steps=max(1, settings.steps // 20),
        lr_decay_steps=settings.steps // 3,
        n_batches_for_norm_estimate=20,
        device="cpu",
        autocast=False,
        n_checkpoints=0,
        checkpoint_path=None,
        save_final_checkpoint=False,
    )
    with (
        torch.random.fork_rng(),
        contextlib.redirect_stderr(io.StringIO()),
    ):  # sae-lens takes no seed; its bar is always on
        torch.manual_seed(settings.autoencoder_seed)
        trainer = SAETrainer(
            cfg=schedule,
            sae=untrained(settings, states.shape[1], hook),
            data_provider=endless_batches(training, size, generator),
            evaluator=None,
        )
        trainer.fit()
    trainer.sae.save_inference_model(str(folder))
    return measure_quality(load_sae(folder), held_out)


def untrained(settings: AutoencoderSettings, width: int, hook: str) -> Any:
    """A training autoencoder of sae-lens, of the architecture asked for.

    topk, batchtopk      k latents a token, or k a token on average over the batch.
    matryoshka           batchtopk whose first eighth, quarter and half of the latents must reconstruct by themselves too
                         (Bussmann et al. 2025, arXiv 2503.17547).
    jumprelu             a threshold a latent, and a penalty on how far L0 is from k, 2/k · (L0 - k)², as for Gemma Scope 2:
                         the weight of a plain one would have to be searched for. It reaches the encoder too: within a
                         short training thresholds alone do not come far (292 latents stay active where 16 were asked).
    """
    import sae_lens

    kinds: dict[str, tuple[str, dict[str, Any]]] = {
        "topk": ("TopK", {"k": settings.active}),
        "batchtopk": ("BatchTopK", {"k": settings.active}),
        "matryoshka": (
            "MatryoshkaBatchTopK",
            {"k": settings.active, "matryoshka_widths": [settings.latents // part for part in NESTED]},
        ),
        "jumprelu": (
            "JumpReLU",
            {
                "jumprelu_sparsity_loss_mode": "quadratic",
                "target_l0": float(settings.active),
                "l0_warm_up_steps": int(settings.steps * L0_WARM_UP),
                "jumprelu_init_threshold": INITIAL_THRESHOLD,
                "jumprelu_bandwidth": BANDWIDTH,
                "jumprelu_ste_to_input": True,
            },
        ),
    }
    name, own = kinds[settings.architecture]
    config = getattr(sae_lens, f"{name}TrainingSAEConfig")(
        d_in=width, d_sae=settings.latents, normalize_activations="expected_average_only_in", **own
    )
    config.metadata.hook_name = hook
    return getattr(sae_lens, f"{name}TrainingSAE")(config)


@torch.no_grad()
def measure_quality(autoencoder: Autoencoder | RouteAutoencoder, states: Float[Tensor, "N D"]) -> dict[str, float]:
    """Explained variance, active latents a token and dead share [0, 1] on rows kept out of training."""
    latents = autoencoder.encode(states)
    residual = (states - autoencoder.decode(latents)).pow(2).sum()
    spread = (states - states.mean(0)).pow(2).sum()
    return {
        "explained_variance": float(1 - residual / spread),
        "active": float((latents > 0).float().sum(-1).mean()),
        "dead": float(((latents > 0).sum(0) == 0).float().mean()),
    }
