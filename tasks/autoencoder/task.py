"""Door of the autoencoder stage: a sparse autoencoder for each stored site."""

from __future__ import annotations

import logging

from storage.artifacts import folder_of
from storage.records import ActivationRef, SaeRef
from storage.tables import read_table, write_table
from tasks.autoencoder.settings import AutoencoderSettings
from tasks.caching import new_artifact, stage

logger = logging.getLogger("sae_unlearn")


@stage("autoencoder", tags=("gpu",))
def train_autoencoders(activations: ActivationRef, settings: AutoencoderSettings) -> SaeRef:
    """Train one autoencoder a site; `quality.parquet` states how well each reconstructs rows it has not seen."""
    from tasks.autoencoder.training import train_autoencoder
    from tasks.models.states import from_stored

    parts = sorted(folder_of(activations.artifact).glob("part-*.parquet"))
    rows = []
    with new_artifact() as build:
        for site in activations.sites:
            states = from_stored(read_table(parts, columns=[site.name])[site.name])
            hook = f"blocks.{site.layer}.hook_resid_post"
            quality = train_autoencoder(states, hook, settings, build.folder / site.name)
            logger.info(
                "autoencoder   %s: explains %.2f of the variance with %.1f active latents, %.0f %% dead",
                *(site.name, quality["explained_variance"], quality["active"], 100 * quality["dead"]),
            )
            rows.append({"site": site.name, **quality})
        write_table(build.folder / "quality.parquet", {name: [row[name] for row in rows] for name in rows[0]})
    return SaeRef(build.artifact, activations.sites, settings.latents)
