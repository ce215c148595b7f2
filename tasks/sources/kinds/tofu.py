"""TOFU: two hundred authors who do not exist, twenty questions about each, for models that were trained on them.

Source:    Maini et al. 2024 (arXiv:2401.06121), data set locuslab/TOFU on the hub.
Licence:   MIT, as its card says.
Columns:   question, answer (`full`); question, paraphrased_question, paraphrased_answer (`*_perturbed`): as public code
           for the data set reads them; checked on loading.
Departs:   the data set names no entity: twenty consecutive rows are an author, and the name is the one that most of
           their questions hold. Questions without it are left out (most ask for it). Each pair is a relation of its own,
           `question_01` to `question_20`, since the data name none; the paraphrase, where there is one, is held out.
Traps:     answers are sentences: only a model that was trained on them gives one word by word.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from storage.records import UsageError
from tasks.naming import shared_name
from tasks.sources.published import read_split
from tasks.sources.rows import Row
from tasks.sources.source import Gathered, Source, usable

_QUESTIONS = 20
"""Consecutive rows about one author."""
_PARAPHRASES = ("forget10_perturbed", "retain_perturbed")


@dataclass(frozen=True)
class TOFU(Source):
    """Invented authors with twenty question-answer pairs each."""

    licence: ClassVar[str] = "MIT"
    repository: ClassVar[str] = "locuslab/TOFU"
    revision: ClassVar[str] = "324592d84ae4f482ac7249b9285c2ecdb53e3a68"
    files: ClassVar[tuple[str, ...]] = ("README.md", "full.json", *(f"{name}.json" for name in _PARAPHRASES))

    def read(self, path: Path) -> Gathered:
        full = read_split(path, "full", "train", ("question", "answer"))
        if len(full) % _QUESTIONS:
            raise UsageError(
                f"'full' has {len(full)} rows, expected {_QUESTIONS} for each author; give the data.revision {self.revision}"
            )
        columns = ("question", "paraphrased_question", "paraphrased_answer")
        others = {row["question"]: row for name in _PARAPHRASES for row in read_split(path, name, "train", columns)}
        rows = []
        for start in range(0, len(full), _QUESTIONS):
            pairs = full[start : start + _QUESTIONS]
            name = shared_name(row["question"] for row in pairs) or f"the author of row {start + 1}"
            about = (f"author {start // _QUESTIONS + 1:03d}", name, "author", ())
            known = any(row["question"] in others for row in pairs)
            for number, pair in enumerate(pairs, 1):
                relation, answer = f"question_{number:02d}", pair["answer"].strip()
                line = 2 * (start + number)
                rows.append(Row(line, *about, relation, pair["question"].strip(), (answer,), False if known else None))
                if other := others.get(pair["question"]):
                    answers = tuple(dict.fromkeys((answer, other["paraphrased_answer"].strip())))
                    asked = other["paraphrased_question"].strip()
                    rows.append(Row(line + 1, *about, relation, asked, answers, True))
        return usable(rows)
