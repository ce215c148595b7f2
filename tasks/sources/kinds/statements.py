"""The model's own confident statements about somebody of whom no facts are given.

They are asked for by the stage `statements`, which writes them down in the form of `facts_file`: [data] include names
whom, and type says what they are (person, work or place).

Licence:   the model's own words; its licence holds.
Traps:     nothing says that they are true. What is forgotten is what the model says.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tasks.sources.own_rows import read_facts
from tasks.sources.source import Gathered, Source


@dataclass(frozen=True)
class ModelStatements(Source):
    """Rows that a model stated, as they were written down."""

    licence: ClassVar[str] = "the model's own words, which nobody checked"
    stated: ClassVar[bool] = True

    def read(self, path: Path) -> Gathered:
        return read_facts(path)
