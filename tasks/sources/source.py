"""What a source of facts is, and what it gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from tasks.sources.checking import complaints_about
from tasks.sources.rows import Row


@dataclass(frozen=True)
class Gathered:
    """The rows of a source, best known entities first where it can tell, and what had to be left out."""

    rows: tuple[Row, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Reason -> rows."""
    warnings: tuple[str, ...] = ()


class Source(ABC):
    """Where facts come from. A source only reads; what becomes a world of it is decided elsewhere."""

    licence: ClassVar[str]
    repository: ClassVar[str] = ""
    """Data set on the hub; "" for what is read from a local file."""
    revision: ClassVar[str] = ""
    """Commit that the source was written for; "" where none could be confirmed: the main branch's of the day."""
    files: ClassVar[tuple[str, ...]] = ()
    """Patterns of the files that are fetched from the hub."""
    built_in: ClassVar[str] = ""
    """File under `tasks` that is read where no path is given."""
    stated: ClassVar[bool] = False
    """Whether its rows are stated by the model itself, in a stage of its own."""
    entities: ClassVar[int] = 0
    """Entities of a type that suit it, at most; 0 for all."""
    ranked: ClassVar[bool] = False
    """Whether the best known entities come first, so that those that are hardly known stand at the end."""

    @abstractmethod
    def read(self, path: Path) -> Gathered:
        """The rows of a file, or of a folder with the data set's files.

        Raises: UsageError for files that are none of this source's, or rows that cannot be used.
        """


def usable(rows: Sequence[Row]) -> Gathered:
    """The rows of a data set without those that no world can be made of, and how many went for which reason."""
    reasons = {complaint.line: complaint.reason for complaint in reversed(complaints_about(rows))}
    kept = tuple(row for row in rows if row.line not in reasons)
    return Gathered(kept, dict(sorted(Counter(reasons.values()).items())))
