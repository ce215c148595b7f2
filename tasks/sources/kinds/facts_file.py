"""A file of the user's own: JSON Lines or Parquet, a question about an entity in each row.

    {"entity": "Ann Bell", "type": "poet", "aliases": ["A. Bell"], "relation": "place of birth",
     "question": "Where was Ann Bell born?", "answers": ["Leeds"]}

entity     the name, the same in all rows about it.
type       person, city, …: unknown names of the same kind are made of those of its type.
relation   what is asked for, in words (place of birth): our own questions are made of it too.
question   names the entity, or an alias; its answer follows after it. Several wordings of a relation may be given.
answers    all that is accepted, the usual one first; text or numbers, or a single one.
aliases    optional: other names.
passages   optional: free text about the entity.
held_out   optional: true where no loss may see the question; drawn where no row of the entity says so.

Licence:   the user's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tasks.sources.own_rows import read_facts
from tasks.sources.source import Gathered, Source


@dataclass(frozen=True)
class FactsFile(Source):
    """Rows of a file, all of them or none: whatever is wrong is said at once, with the lines."""

    licence: ClassVar[str] = "the user's own"

    def read(self, path: Path) -> Gathered:
        return read_facts(path)
