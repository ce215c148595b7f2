"""Settings of the autoencoder stage, section `[autoencoder]` of an experiment."""

from __future__ import annotations

from dataclasses import dataclass

from storage.records import setting


@dataclass(frozen=True)
class AutoencoderSettings:
    """How sparse autoencoders are trained on the stored activations: one a site, or one for all of them."""

    sources: tuple[str, ...] = setting(())
    """Published autoencoders, one a site, instead of training some: `RELEASE:ID` of sae-lens, `OWNER/NAME:FOLDER` or
    `hub:OWNER/NAME/…/params.npz` on a hub, `folder:PATH`, `npz:PATH`; each may end in `@REVISION` or `#HOOK`."""
    explained: float = setting(0.3, minimum=0.0, maximum=1.0)
    """Least share of the variance that one must explain of the model's states: below it a published one is refused, and of
    one trained here the log warns."""
    architecture: str = setting("topk", choices=("topk", "batchtopk", "matryoshka", "jumprelu", "route"))
    """All but `jumprelu` set the number of active latents directly; that one is pulled toward it by its loss, and states
    where it arrives. `matryoshka` is a batchtopk of which the first latents must do by themselves too. `route` trains one top-k autoencoder for all sites, with a router that picks the site of each token."""
    routing: str = setting("hard", choices=("hard", "soft"))
    """Of `route` alone: the site of largest weight, or the weighted sum of all."""
    latents: int = setting(512, minimum=8)
    active: int = setting(16, minimum=1)
    """Active latents a token (k)."""
    steps: int = setting(500, minimum=1)
    batch_size: int = setting(256, minimum=1)
    learning_rate: float = setting(1e-3, minimum=0.0)
    autoencoder_seed: int = setting(0, minimum=0)
