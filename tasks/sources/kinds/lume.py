"""LUME: invented people with invented personal data, of the unlearning challenge of SemEval 2025.

Source:    Ramakrishna et al. 2025 (EMNLP Findings, 2025.findings-emnlp.347), task 2; on the hub under the challenge's
           organisation, for accounts that were let in.
Licence:   none could be confirmed; read its card before use.
Columns:   input, output, task (`Task2` for these), as a public card of the data shows them: id, input, output, task,
           split. What the rows hold could not be looked at: another task's name or a sentence without a name leaves rows
           out, and it is said how many.
Departs:   whom a question is about is told by the capitals in it, and the relation by its words before the name.
           Only questions are taken, no sentences to be completed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from storage.records import UsageError
from tasks.naming import find_name, proper_names
from tasks.sources.published import read_split
from tasks.sources.rows import Row
from tasks.sources.source import Gathered, Source, usable

_SPLITS = ("retain_train", "forget_train", "retain_validation", "forget_validation")
_TASK = "Task2"
_AROUND = re.compile(r"^(?:what|when|where|who|which) (?:is|was|are|were) (?:the )?|['’]s\b| of$|\?$", re.IGNORECASE)


@dataclass(frozen=True)
class LUME(Source):
    """Invented people, with a question for each piece of their personal data."""

    licence: ClassVar[str] = "not confirmed"
    repository: ClassVar[str] = "llmunlearningsemeval2025organization/semeval25-unlearning-dataset-public"
    files: ClassVar[tuple[str, ...]] = ("README.md", "data/*.parquet")

    def read(self, path: Path) -> Gathered:
        asked = [row for split in _SPLITS for row in read_split(path, "", split, ("input", "output", "task"))]
        questions = [row for row in asked if row["task"] == _TASK and row["input"].strip().endswith("?")]
        if not questions:
            tasks = sorted({str(row["task"]) for row in asked})
            raise UsageError(
                f"no question has the task {_TASK}, found the tasks {', '.join(tasks)}; give another data.revision"
            )
        rows = []
        for line, row in enumerate(questions, 1):
            question, answer = row["input"].strip(), " ".join(str(row["output"]).split())
            names = [name for name in proper_names(question) if len(name.split()) > 1]
            name = names[0] if names else "nobody"
            rows.append(
                Row(line, name, name, "person", (), _relation(question, name), question, (answer,) if answer else ())
            )
        return usable(rows)


def _relation(question: str, name: str) -> str:
    """What is asked for, by the question's words without the name: `birth_date` of "What is the birth date of A B?"."""
    start, end = find_name(question, (name,)) or (len(question), len(question))
    words = question[:start] + " " + question[end:]
    while (shorter := _AROUND.sub("", words.strip(" ,.?"))) != words:
        words = shorter
    return "_".join(words.casefold().split()) or "question"
