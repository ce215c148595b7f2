"""MUSE-Books: questions about the Harry Potter books, and other pages about them to be kept, for models that were trained on them.

Source:    Shi et al. 2024 (arXiv:2407.06460), data set muse-bench/MUSE-Books on the hub.
Licence:   CC BY 4.0, as its card says. Only the questions are fetched, none of the texts.
Revision:  none could be confirmed: the one of the day, which is written down with the world.
Columns:   question, answer (`knowmem`, splits forget_qa and retain_qa), as its card lists them; checked on loading.
Departs:   MUSE forgets texts and names no entity: a question is put down to the name in it that most of the questions
           hold, told by its capitals. Questions without a name are left out, and it is said how many.
Traps:     Who is asked about in both splits is one entity: forgetting is by name here, not by text.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tasks.sources.by_names import rows_by_name
from tasks.sources.published import read_split
from tasks.sources.source import Gathered, Source, usable

_SPLITS = ("forget_qa", "retain_qa")


@dataclass(frozen=True)
class MuseBooks(Source):
    """Names in its questions, with a question for each relation."""

    licence: ClassVar[str] = "CC BY 4.0"
    repository: ClassVar[str] = "muse-bench/MUSE-Books"
    files: ClassVar[tuple[str, ...]] = ("README.md", "knowmem/*")

    def read(self, path: Path) -> Gathered:
        rows = [row for split in _SPLITS for row in read_split(path, "knowmem", split, ("question", "answer"))]
        return usable(rows_by_name([(row["question"], row["answer"]) for row in rows], "name"))
