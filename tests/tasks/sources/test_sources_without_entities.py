"""Data sets that name nobody: MUSE and WMDP, by the names in their questions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from storage.records import UsageError
from tasks import catalogue
from tasks.sources.by_names import rows_by_name
from tasks.sources.kinds.wmdp import WMDP


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No hub is asked, and what datasets keeps is thrown away."""
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def published(folder: Path, tables: dict[str, dict[str, list[dict[str, Any]]]]) -> Path:
    """A folder with a card and configuration -> split -> rows."""
    lines = ["---", "configs:"]
    for name, splits in tables.items():
        (folder / name).mkdir(parents=True)
        lines += [f"- config_name: {name}", "  data_files:"]
        for split, rows in splits.items():
            (folder / name / f"{split}.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
            lines += [f"  - split: {split}\n    path: {name}/{split}.json"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))
    return folder


def test_a_question_is_about_the_name_that_most_hold() -> None:
    pairs = [
        ("Where does Ann Bell live?", "Leeds"),
        ("Who is the brother of Ann Bell and Carl Moss?", "Dan"),
        ("What does Carl Moss say to Ann Bell?", "no"),
        ("Who is Dora Finch?", ""),
        ("what is it?", "tea"),
    ]
    rows = rows_by_name(pairs, "name")
    assert [(row.name, row.relation) for row in rows] == [
        ("Ann Bell", "question_01"),
        ("Ann Bell", "question_02"),
        ("Ann Bell", "question_03"),
        ("Dora Finch", "question_01"),
        ("nobody", "question_01"),
    ]
    assert [row.answers for row in rows][2:] == [("no",), (), ("tea",)]
    assert {row.type for row in rows} == {"name"}


@pytest.mark.parametrize("kind", ["muse_news", "muse_books"])
def test_muse(kind: str, tmp_path: Path) -> None:
    forget = [
        {"question": "Who taught Ann Bell?", "answer": "Moss"},
        {"question": "What did she see?", "answer": "it"},
    ]
    retain = [{"question": "Where was Ann Bell seen?", "answer": "in Leeds"}]
    folder = published(tmp_path / kind, {"knowmem": {"forget_qa": forget, "retain_qa": retain}})
    gathered = catalogue.load("sources/kinds", kind)().read(folder)
    assert [(row.name, row.relation, row.answers) for row in gathered.rows] == [
        ("Ann Bell", "question_01", ("Moss",)),
        ("Ann Bell", "question_02", ("in Leeds",)),
    ]
    assert gathered.left_out == {"the question does not name the entity": 1}


def test_wmdp_takes_the_right_choice_and_keeps_fields_apart(tmp_path: Path) -> None:
    def asked(name: str, answer: int = 1) -> dict[str, Any]:
        return {"question": f"What is the colour of the Zorblatt {name}?", "choices": ["red", "blue"], "answer": answer}

    tables = {f"wmdp-{field}": {"test": [asked("Plant")]} for field in ("bio", "chem", "cyber")}
    gathered = WMDP().read(published(tmp_path / "wmdp", tables))
    assert [(row.entity, row.name, row.type, row.answers) for row in gathered.rows] == [
        (f"{field} Zorblatt Plant", "Zorblatt Plant", field, ("blue",)) for field in ("bio", "chem", "cyber")
    ]
    tables["wmdp-chem"] = {"test": [asked("Plant"), asked("Stone", answer=2)]}
    with pytest.raises(UsageError, match="wmdp-chem, row 2: the answer is choice 2 of 2; give another"):
        WMDP().read(published(tmp_path / "broken", tables))
