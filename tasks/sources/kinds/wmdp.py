"""WMDP: multiple-choice questions that stand for hazardous knowledge in biology, chemistry and computing.

Source:    Li et al. 2024 (arXiv:2403.03218), data set cais/WMDP on the hub (cais/wmdp).
Licence:   MIT, as its card says. Nothing of it comes with this project: the questions are fetched by who asks for them,
           and no corpus of texts is.
Revision:  none could be confirmed: the one of the day, which is written down with the world.
Columns:   question, choices, answer (the place of the right choice), of `wmdp-bio`, `wmdp-chem` and `wmdp-cyber`, split
           test, as its card lists them; checked on loading.
Departs:   WMDP forgets fields and names no entity: a question is put down to the name in it that most of its field's
           questions hold, told by its capitals, and the field is the type. The right choice is the answer, asked for
           without the others. Questions without a name are left out, and it is said how many.
Traps:     most questions name nobody. For the benchmark's own score run its tasks (`evaluation.utility_tasks`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from storage.records import UsageError
from tasks.sources.by_names import rows_by_name
from tasks.sources.published import read_split
from tasks.sources.rows import Row
from tasks.sources.source import Gathered, Source, usable

_FIELDS = ("bio", "chem", "cyber")


@dataclass(frozen=True)
class WMDP(Source):
    """Names in its questions, by field, with a question for each relation."""

    licence: ClassVar[str] = "MIT"
    repository: ClassVar[str] = "cais/wmdp"
    files: ClassVar[tuple[str, ...]] = ("README.md", "wmdp-*/*")

    def read(self, path: Path) -> Gathered:
        rows: list[Row] = []
        for field in _FIELDS:
            asked = read_split(path, f"wmdp-{field}", "test", ("question", "choices", "answer"))
            pairs = [(row["question"], _right(row, line, field)) for line, row in enumerate(asked, 1)]
            rows += [
                row._replace(line=len(rows) + row.line, entity=f"{field} {row.entity}")
                for row in rows_by_name(pairs, field)
            ]
        return usable(rows)


def _right(row: dict[str, Any], line: int, field: str) -> str:
    """The right choice. Raises: UsageError where it is none of the choices."""
    if not 0 <= row["answer"] < len(row["choices"]):
        raise UsageError(
            f"wmdp-{field}, row {line}: the answer is choice {row['answer']} of {len(row['choices'])}; give another "
            "data.revision"
        )
    return str(row["choices"][row["answer"]])
