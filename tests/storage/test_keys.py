"""What enters a key: values with their class names, and the code that is reached, without its prose."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from storage import keys
from storage.records import Artifact, ModelRef, setting

SOURCES = {
    "tasks/__init__.py": "",
    "tasks/stage/__init__.py": "",
    "tasks/shared.py": """
        LIMIT = 3
        UNUSED = 1

        class Parent:
            def scale(self, x):
                return x * 2

        def deep(x):
            return x + LIMIT

        def unrelated(x):
            return x
    """,
    "tasks/stage/lazy.py": """
        def late(x):
            return x - 1
    """,
    "tasks/stage/pure.py": """
        from tasks import shared
        from tasks.shared import Parent, deep

        class Child(Parent):
            def run(self, x):
                return self.scale(x)

        def nested(x):
            # a comment
            return deep(x)

        def through_module(x):
            return shared.deep(x)
    """,
    "tasks/stage/task.py": """
        from tasks.caching import stage
        from tasks.stage.pure import Child, nested

        @stage("stage")
        def door(x: int) -> int:
            \"\"\"What it is.\"\"\"
            from tasks.stage.lazy import late
            return late(nested(Child().run(x)))
    """,
    "tasks/plugins/__init__.py": "",
    "tasks/plugins/one.py": """
        def loss(x):
            return x
    """,
    "tasks/plugins/two.py": """
        def loss(x):
            return -x
    """,
}
DOOR = "tasks.stage.task:door"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of a few files, which the keys are told is ours."""
    import textwrap

    for name, text in SOURCES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    monkeypatch.setattr(keys, "PROJECT", tmp_path)
    return tmp_path


def _edit(project: Path, name: str, old: str, new: str) -> None:
    path = project / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000))


def test_all_that_the_door_reaches_is_named(project: Path) -> None:
    assert set(keys.code_digests([DOOR])) == {
        "tasks.shared:LIMIT",
        "tasks.shared:Parent",
        "tasks.shared:deep",
        "tasks.stage.lazy:late",
        "tasks.stage.pure:Child",
        "tasks.stage.pure:nested",
        DOOR,
    }


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("tasks/stage/pure.py", "# a comment", "# another comment, longer"),
        ("tasks/stage/task.py", "What it is.", "What it is, said better."),
        ("tasks/stage/task.py", "(x: int) -> int", "(x: float) -> float"),
        ("tasks/stage/task.py", '@stage("stage")', '@stage("stage", tags=("gpu",))'),
        ("tasks/shared.py", "return x + LIMIT", "return (x\n        + LIMIT)"),
        ("tasks/shared.py", "UNUSED = 1", "UNUSED = 2"),
        ("tasks/shared.py", "def unrelated(x):\n    return x", "def unrelated(x):\n    return -x"),
    ],
    ids=["comment", "docstring", "annotation", "door's tags", "layout", "unused constant", "unrelated function"],
)
def test_what_decides_nothing_changes_nothing(project: Path, name: str, old: str, new: str) -> None:
    before = keys.code_digests([DOOR])
    _edit(project, name, old, new)
    assert keys.code_digests([DOOR]) == before


@pytest.mark.parametrize(
    ("name", "old", "new", "changed"),
    [
        ("tasks/shared.py", "return x + LIMIT", "return x - LIMIT", "tasks.shared:deep"),
        ("tasks/shared.py", "LIMIT = 3", "LIMIT = 4", "tasks.shared:LIMIT"),
        ("tasks/shared.py", "return x * 2", "return x * 3", "tasks.shared:Parent"),
        ("tasks/stage/lazy.py", "return x - 1", "return x - 2", "tasks.stage.lazy:late"),
        ("tasks/stage/pure.py", "return self.scale(x)", "return self.scale(-x)", "tasks.stage.pure:Child"),
        ("tasks/stage/task.py", "return late(", "return 2 * late(", DOOR),
    ],
    ids=["nested function", "module constant", "parent class", "lazily imported", "class", "door"],
)
def test_what_decides_changes_its_own_entry(project: Path, name: str, old: str, new: str, changed: str) -> None:
    before = keys.code_digests([DOOR])
    _edit(project, name, old, new)
    after = keys.code_digests([DOOR])
    assert {address for address in before if before[address] != after[address]} == {changed}


def test_function_reached_through_its_module_counts(project: Path) -> None:
    assert "tasks.shared:deep" in keys.code_digests(["tasks.stage.pure:through_module"])


def test_default_argument_counts(project: Path) -> None:
    before = keys.code_digests([DOOR])
    _edit(project, "tasks/stage/lazy.py", "def late(x):", "def late(x, y=1):")
    assert keys.code_digests([DOOR]) != before


def test_plugin_counts_only_where_it_is_named(project: Path) -> None:
    @dataclass(frozen=True)
    class Settings:
        method: str = setting("one", plugin="plugins")

    assert list(keys.plugins_in(Settings())) == [("plugins", "one")]
    with_one, with_two = keys.code_digests([DOOR, "tasks.plugins.one"]), keys.code_digests([DOOR, "tasks.plugins.two"])
    _edit(project, "tasks/plugins/two.py", "return -x", "return -2 * x")
    assert keys.code_digests([DOOR, "tasks.plugins.one"]) == with_one
    assert keys.code_digests([DOOR, "tasks.plugins.two"]) != with_two


def test_class_names_and_values_count_and_runtime_settings_do_not() -> None:
    @dataclass(frozen=True)
    class One:
        rate: float = 0.1
        device: str = setting("auto", runtime=True)

    @dataclass(frozen=True)
    class Two:
        rate: float = 0.1
        device: str = setting("auto", runtime=True)

    assert keys.digest(keys.canonical(One())) != keys.digest(keys.canonical(Two()))
    assert keys.canonical(One(0.2)) != keys.canonical(One())
    assert keys.canonical(One(device="cuda")) == keys.canonical(One())


def test_artifact_counts_by_its_content() -> None:
    one = ModelRef("artifact", "base", artifact=Artifact("testbed", "key1", "content"))
    same = ModelRef("artifact", "base", artifact=Artifact("testbed", "key2", "content"))
    other = ModelRef("artifact", "base", artifact=Artifact("testbed", "key1", "others"))
    assert keys.canonical(one) == keys.canonical(same) != keys.canonical(other)


@pytest.mark.parametrize("value", [{1, 2}, Path("x"), object(), {"a": 1}])
def test_value_without_a_stable_form_is_refused(value: object) -> None:
    with pytest.raises(keys.UnkeyableValue, match="cannot be part of a key"):
        keys.canonical(value)


def test_key_is_the_same_in_every_process() -> None:
    code = (
        "from storage.keys import canonical, code_digests, digest\n"
        "from flows.config import Experiment\n"
        "import dataclasses\n"
        "parts = [canonical(getattr(Experiment(), f.name)) for f in dataclasses.fields(Experiment)]\n"
        "print(digest([parts, code_digests(['tasks.catalogue', 'tasks.models.forward'])]))"
    )
    made = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(made) == 1
