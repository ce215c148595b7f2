"""Settings of the world stage where its facts come from a source, section `[data]` of an experiment."""

from __future__ import annotations

from dataclasses import dataclass

from storage.records import setting


@dataclass(frozen=True)
class SourceSettings:
    """Where entities and questions come from, for a model that was not trained here."""

    source: str = setting("", plugin="sources/kinds")
    """A source's name; none means the testbed's own world."""
    path: str = setting("", runtime=True)
    """A local file, or a folder with a data set's files. What it holds is in the key, where it lies is not."""
    revision: str = setting("")
    """Branch, tag or commit of a data set on the hub; none means the commit that the source names."""
    entities: int = setting(0, minimum=0)
    """Entities of each type, at most; 0 stands for what suits the source (of a file: all)."""
    include: tuple[str, ...] = setting(())
    """Names that are among them whatever `entities` says."""
    held_out: float = setting(0.4, minimum=0.05, maximum=0.95)
    """Share of an entity's questions that no loss may see: some wordings of each relation, else whole relations."""
    invented: int = setting(0, minimum=0)
    """Invented entities of each type, whom no model knows; 0 for as many as there are real ones, within bounds."""
    frame: str = setting("Question: {question} Answer:")
    """Words around a text that ends in a question mark; `{question}` stands for it. Other texts go on as they are.
    Where [model] chat asks through a template, "{question}" alone is better."""
    general: str = setting("", runtime=True)
    """A text file, one neutral sentence a line, that names none of the entities; none means the one that is here."""
    seed: int = setting(0, minimum=0)
    """Draws the held-out questions and the invented names."""
