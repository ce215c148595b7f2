"""Door of the autoencoder stage: a sparse autoencoder for each stored site, or one for all of them."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from storage.artifacts import folder_of
from storage.records import ActivationRef, ModelRef, SaeRef, UsageError, World
from storage.tables import read_table, write_table
from storage.weights import loading_of
from tasks.autoencoder.settings import AutoencoderSettings
from tasks.caching import new_artifact, stage
from tasks.models.published_saes.sources import SaeSource

logger = logging.getLogger("sae_unlearn")


@stage("autoencoder", tags=("gpu",))
def train_autoencoders(activations: ActivationRef, settings: AutoencoderSettings) -> SaeRef:
    """Train one autoencoder a site, or one for all of them whose part for each site is saved as if it were its own.

    `quality.parquet` states how well each reconstructs rows it has not seen; for the one of all sites also which share
    of the tokens is routed where (row `route`: the whole, see `tasks.autoencoder.route`).
    """
    import torch

    from tasks.autoencoder.route import train_route
    from tasks.autoencoder.training import hook_name, train_autoencoder
    from tasks.models.states import from_stored

    parts = sorted(folder_of(activations.artifact).glob("part-*.parquet"))
    stored = ((site, from_stored(read_table(parts, columns=[site.name])[site.name])) for site in activations.sites)
    rows: list[dict[str, Any]] = []
    with new_artifact() as build:
        made: Iterable[dict[str, Any]]
        if settings.architecture == "route":
            together = torch.stack([states for _, states in stored], 1)
            made = train_route(together, activations.sites, settings, build.folder)
        else:
            made = (
                {"site": site.name} | train_autoencoder(states, hook_name(site), settings, build.folder / site.name)
                for site, states in stored
            )
        for row in made:
            routed = f"; {row['share']:.0%} of the tokens are routed there" if "share" in row else ""
            logger.info(
                "autoencoder   %s: explains %.2f of the variance with %.1f active latents, %.0f %% dead%s",
                *(row["site"], row["explained_variance"], row["active"], 100 * row["dead"], routed),
            )
            if float(row["explained_variance"]) < settings.explained:
                logger.warning(
                    "autoencoder   %s explains less than autoencoder.explained = %g: its latents say little of the model; "
                    "raise autoencoder.steps or autoencoder.latents, or read more entities",
                    *(row["site"], settings.explained),
                )
            rows.append(row)
        write_table(build.folder / "quality.parquet", {name: [row[name] for row in rows] for name in rows[0]})
    return SaeRef(build.artifact, activations.sites, settings.latents)


def pinned(sources: tuple[str, ...]) -> tuple[SaeSource, ...]:
    """The published autoencoders as they are now: each with the commit, or the digest of its files.

    Raises: UsageError for one that cannot be read as a source, or is not to be had.
    """
    from tasks.models.published_saes.loading import pin_source
    from tasks.models.published_saes.sources import parse_source

    return tuple(pin_source(parse_source(each)) for each in sources)


@stage("autoencoder", tags=("gpu",))
def adopt_autoencoders(
    model: ModelRef, world: World, sources: tuple[SaeSource, ...], settings: AutoencoderSettings
) -> SaeRef:
    """Take published autoencoders into use, once each explains the model's own states.

    They are checked on the world's general sentences and on its prompts. `quality.parquet` says how well each does there,
    what it is and from which commit.

    Raises: UsageError for one that does not fit the model, or a site that two of them are for.
    """
    from tasks.autoencoder.adoption import adopt_autoencoder
    from tasks.models.load import load_model

    loaded = load_model(**loading_of(model), device="auto")
    folder = folder_of(world.artifact)
    texts = [*read_table(folder / "general.parquet")["text"], *read_table(folder / "questions.parquet")["prompt"]]
    rows: list[dict[str, Any]] = []
    with new_artifact() as build:
        adopted: list[Any] = []
        for source in sources:
            made = adopt_autoencoder(source, loaded, model, texts, build.folder, minimum=settings.explained)
            if any(made.site == other.site for other in adopted):
                raise UsageError(
                    f"[autoencoder] sources: {made.source.written} is for {made.site.name}, as another one is; give one a site"
                )
            adopted.append(made)
            for warning in made.warnings:
                logger.warning("autoencoder   %s: %s", made.site.name, warning)
            logger.info(
                "autoencoder   %s: %s explains %.2f of the variance with %.1f active latents, %.0f %% dead",
                *(
                    made.site.name,
                    made.source.written,
                    made.fit.explained_variance,
                    made.fit.active,
                    100 * made.fit.dead,
                ),
            )
            rows.append(
                {
                    "site": made.site.name,
                    "explained_variance": made.fit.explained_variance,
                    "active": made.fit.active,
                    "dead": made.fit.dead,
                    "source": made.source.kind if made.source.on_disk else made.source.written,
                    "revision": made.source.revision,
                    "latents": made.latents,
                }
            )
        write_table(build.folder / "quality.parquet", {name: [row[name] for row in rows] for name in rows[0]})
    adopted.sort(key=lambda each: each.site.layer)
    return SaeRef(build.artifact, tuple(each.site for each in adopted), max(each.latents for each in adopted))
