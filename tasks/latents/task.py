"""Doors of the latents stage (which latents fire where) and of the selection stage (which stand for knownness)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from storage.artifacts import folder_of
from storage.records import ActivationRef, EntitySet, ForgetSet, LatentSelection, LatentStats, SaeRef, UsageError, World
from storage.tables import named_query, read_table, row_count, write_table, write_whole_table
from tasks.caching import new_artifact, stage
from tasks.latents.settings import LatentSettings


@stage("latents", tags=("gpu",))
def measure_latents(world: World, activations: ActivationRef, sae: SaeRef) -> LatentStats:
    """Encode the stored activations at the name's last token, the last prompt token and in neutral text.

    Shard by shard, so that memory is flat and a second try makes only what is missing: `active-*.parquet` (site, latent,
    row, value) holds the latents that are on, sorted by site and latent; `rows-*.parquet` what each row is. No label
    enters: a new labelling of entities is a new question to these tables and encodes nothing again.
    """
    import numpy as np

    missing = [site.name for site in sae.sites if site not in activations.sites]
    if missing:
        raise UsageError(
            f"the autoencoders are for {', '.join(site.name for site in sae.sites)} and no states were stored at "
            f"{', '.join(missing)}; set activations.layers = {[site.layer for site in sae.sites]}"
        )

    from tasks.latents.statistics import encode_sparse
    from tasks.models.load import pick_device
    from tasks.models.sae import load_sae
    from tasks.models.states import from_stored

    entities = read_table(folder_of(world.artifact) / "questions.parquet", columns=["entity"])["entity"]
    device = str(pick_device())
    autoencoders = {site.name: load_sae(folder_of(sae.artifact) / site.name, device=device) for site in sae.sites}
    first = 0
    with new_artifact(resumable=True) as build:
        for shard in sorted(folder_of(activations.artifact).glob("*-*.parquet")):
            rows, active = (build.folder / f"{name}-{shard.name}" for name in ("rows", "active"))
            if not active.exists():
                kept, columns = _rows(read_table(shard, columns=["question", "after_name", "before_end"]), entities)
                found = []
                for name, autoencoder in autoencoders.items():
                    states = from_stored(read_table(shard, columns=[name])[name][kept])
                    row, latent, value = encode_sparse(autoencoder, states)
                    found.append({"site": [name] * len(row), "latent": latent, "row": row + first, "value": value})
                write_whole_table(rows, {"row": np.arange(first, first + len(kept), dtype=np.int32)} | columns)
                write_whole_table(active, {name: np.concatenate([each[name] for each in found]) for name in found[0]})
            first += row_count(rows)
    return LatentStats(build.artifact)


def _rows(index, entities):  # type: ignore[no-untyped-def]
    """Which rows of a shard are encoded, and what each of them is."""
    import numpy as np

    general = index["question"] < 0
    kept = np.flatnonzero(general | (index["before_end"] == 0) | (index["after_name"] == 0))
    position = np.where(general, "general", np.where(index["before_end"] == 0, "prompt_last", "name_last"))[kept]
    question = index["question"][kept]
    entity = np.where(question < 0, "", entities[question])
    return kept, {"position": position.astype(object), "question": question, "entity": entity.astype(object)}


@stage("selection")
def select_latents(
    latents: LatentStats, entities: EntitySet, forget_set: ForgetSet, settings: LatentSettings
) -> LatentSelection:
    """Choose latents on the fit half of the entities, the targets left out, and report them on the other half."""
    from tasks.latents.statistics import auroc, choose_latents

    labelled = read_table(
        folder_of(entities.artifact) / "entities.parquet", columns=["entity", "type", "label", "half"]
    )
    roles = read_table(folder_of(forget_set.artifact) / "roles.parquet")
    targets = set(roles["entity"][roles["role"] == "target"])
    keep = [i for i, e in enumerate(labelled["entity"]) if e not in targets and labelled["label"][i] != "dropped"]
    groups = {name: labelled[name][keep] for name in labelled}
    with new_artifact() as build:
        write_table(build.folder / "groups.parquet", groups)
        tables = _tables(latents) | {"groups": [build.folder / "groups.parquet"]}
        statistics = named_query("latent_statistics", tables)
        write_table(build.folder / "statistics.parquet", statistics)
        chosen = choose_latents(statistics, settings, sorted(set(groups["type"])))
        selection = build.folder / "selection.parquet"
        _write_chosen(selection, chosen)
        values = named_query("latent_values", tables | {"chosen": [selection]}, ["report"])
        for choice in chosen:
            here = (values["site"] == choice["site"]) & (values["latent"] == choice["latent"])
            known, unknown = (values["value"][here & (values["label"] == label)] for label in ("known", "unknown"))
            area = auroc(known, unknown)
            choice["auroc_report"] = area if choice["kind"] == "known" else 1 - area
        _write_chosen(selection, chosen)
    kinds = [choice["kind"] for choice in chosen]
    return LatentSelection(build.artifact, kinds.count("known"), kinds.count("unknown"))


def _tables(latents: LatentStats) -> dict[str, list[Path]]:
    folder = folder_of(latents.artifact)
    return {name: sorted(folder.glob(f"{name}-*.parquet")) for name in ("rows", "active")}


def _write_chosen(path: Path, chosen: list[dict[str, Any]]) -> None:
    """One row a latent; the columns keep their types when none was chosen."""
    import numpy as np

    text, worth = ("site", "kind", "position"), ("separation_fit", "separation_report", "generic_rate", "auroc_report")
    columns = {}
    for name in ("site", "latent", "kind", "position", *worth):
        values = [choice.get(name, np.nan) for choice in chosen]
        kind: Any = np.int64 if name == "latent" else np.float64
        columns[name] = np.array(values, dtype=(object if values else str) if name in text else kind)
    write_table(path, columns)
