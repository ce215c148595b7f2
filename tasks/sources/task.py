"""Door of the world stage for facts of a source: the user's own file, or a public data set."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from storage.artifacts import folder_of
from storage.records import Statements, UsageError, World
from storage.tables import read_table, write_table
from tasks import catalogue
from tasks.caching import new_artifact, stage
from tasks.sources.settings import SourceSettings

if TYPE_CHECKING:
    from tasks.sources.source import Source

logger = logging.getLogger("sae_unlearn")

KINDS = "sources/kinds"
BUILT_IN = "wikidata"
NEUTRAL = Path(__file__).with_name("neutral.txt")


def pinned(settings: SourceSettings) -> tuple[SourceSettings, str]:
    """The settings with a hub's revision as the commit it stands for now, and the digest of all local files in use.

    Both go to `gather_world`: they are what its result depends on beside the code.

    Raises: UsageError for a file that is not there, a path that is wanted and not given, or an unknown data set.
    """
    source = _source(settings)
    local = _local(settings, source)
    if source.repository and local is None:
        from tasks.models.hub import commit_of

        commit = commit_of(source.repository, settings.revision or source.revision, "dataset")
        settings = dataclasses.replace(settings, revision=commit)
    elif settings.revision:
        raise UsageError(
            f'[data] revision: "{settings.revision}" is a data set\'s on the hub, and {settings.source} is read from '
            "a local file; remove one of the two"
        )
    return settings, _content(settings, local)


def in_built_in_facts(name: str) -> bool:
    """Whether the facts that come with the project are about somebody of this very name."""
    names = read_table(catalogue.TASKS / _source(SourceSettings(source=BUILT_IN)).built_in, columns=["name"])["name"]
    return name in set(names)


@stage("world")
def gather_world(settings: SourceSettings, content: str, stated: Statements | None = None) -> World:
    """A world of a source's facts, in the tables of the testbed's: `entities`, `questions`, `general`, as Parquet.

    Of the neutral sentences every other one is in `general_held_out.parquet`, which no loss sees.
    settings, content  as `pinned` gives them: other files make another world.
    stated             what the model stated, where the source is `statements`.
    `passages.parquet` (entity, text) is there where the source has free text, `source.json` says where all came from.

    Raises: UsageError for rows that cannot be used, or when the files have changed since they were pinned.
    """
    from tasks.sources.world import build_world, neutral_sentences

    source = _source(settings)
    local = _local(settings, source)
    if _content(settings, local) != content:
        raise UsageError(f"the files of [data] {settings.source} changed while the run was starting; run again")
    if stated is not None:
        local = folder_of(stated.artifact) / "facts.jsonl"
    elif local is None:
        from tasks.models.hub import fetch_files

        local = fetch_files(source.repository, settings.revision, source.files, "dataset")
    gathered = source.read(local)
    for reason, rows in gathered.left_out.items():
        logger.info("%-13s %d questions left out: %s", "world", rows, reason)
    if not gathered.rows:
        raise UsageError(f"{settings.source} has no question that can be used ({_reasons(gathered.left_out)})")
    limit = settings.entities or source.entities
    entities, questions, warnings = build_world(gathered.rows, settings, limit=limit, ranked=source.ranked)
    for warning in (*gathered.warnings, *warnings):
        logger.warning("%-13s %s", "world", warning)
    general = neutral_sentences(_general(settings).read_text(encoding="utf-8"), entities)
    kept = set(entities["entity"])
    passages = sorted({(row.entity, text) for row in gathered.rows for text in row.passages if row.entity in kept})
    origin = {
        "source": settings.source,
        "repository": source.repository,
        "revision": settings.revision,
        "licence": source.licence,
        "content": content,
        "left_out": dict(gathered.left_out),
        "warnings": [*gathered.warnings, *warnings],
    }
    with new_artifact() as build:
        write_table(build.folder / "entities.parquet", entities)
        write_table(build.folder / "questions.parquet", questions)
        write_table(build.folder / "general.parquet", {"text": general[::2]})
        write_table(build.folder / "general_held_out.parquet", {"text": general[1::2]})
        if passages:
            texts = {"entity": [entity for entity, _ in passages], "text": [text for _, text in passages]}
            write_table(build.folder / "passages.parquet", texts)
        (build.folder / "source.json").write_text(json.dumps(origin, indent=1, sort_keys=True) + "\n")
    return World(
        build.artifact,
        source=f"{settings.source} {(settings.revision or (stated.artifact.content if stated else content))[:12]}",
        entities=len(entities["entity"]),
        questions=len(questions["question"]),
    )


def _source(settings: SourceSettings) -> Source:
    made: Source = catalogue.load(KINDS, settings.source)()
    return made


def _local(settings: SourceSettings, source: Source) -> Path | None:
    """The file or folder that is read, or None for the hub's. Raises: UsageError."""
    if settings.path and source.stated:
        raise UsageError(
            f"[data] path: {settings.source} are the model's own and read from no file; remove path, or give source = "
            '"facts_file"'
        )
    if settings.path:
        path = Path(settings.path).expanduser().resolve()
        if not path.exists():
            raise UsageError(f'[data] path: "{settings.path}" is not there; give a file that is')
        if path.is_dir() != bool(source.repository):
            wanted = "a folder with the data set's files" if source.repository else "a file"
            raise UsageError(f'[data] path: {settings.source} wants {wanted}, "{settings.path}" is none')
        return path
    if source.built_in:
        return catalogue.TASKS / source.built_in
    if not source.repository and not source.stated:
        raise UsageError(f'[data] path: {settings.source} reads a file; give one, e.g. path = "facts.jsonl"')
    return None


def _general(settings: SourceSettings) -> Path:
    path = Path(settings.general).expanduser().resolve() if settings.general else NEUTRAL
    if not path.is_file():
        raise UsageError(f'[data] general: "{settings.general}" is no file; give a text file, one sentence a line')
    try:
        path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"[data] general: {path.name} is no UTF-8 at byte {error.start + 1}; save it in that encoding"
        ) from None
    return path


def _content(settings: SourceSettings, local: Path | None) -> str:
    """Digest of what is read from here: the source's file or files, and the neutral sentences."""
    names = {} if local is None else {str(path.relative_to(local)): path for path in _files(local)}
    read = [(name, hashlib.sha256(path.read_bytes()).hexdigest()) for name, path in names.items()]
    read.append(("general", hashlib.sha256(_general(settings).read_bytes()).hexdigest()))
    return hashlib.sha256(json.dumps(read).encode()).hexdigest()


def _files(path: Path) -> list[Path]:
    """The file, or those of a folder, hidden ones left out, in the order of their names."""
    if path.is_file():
        return [path]
    found = (each for each in path.rglob("*") if each.is_file())
    return sorted(each for each in found if not any(part.startswith(".") for part in each.relative_to(path).parts))


def _reasons(left_out: object) -> str:
    return ", ".join(f"{rows} rows: {reason}" for reason, rows in dict(left_out).items())  # type: ignore[call-overload]
