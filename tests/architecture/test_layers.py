"""The layout itself: who may import whom, where each heavy library lives, how large things may grow."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAYERS = ("flows", "tasks", "storage")
SOURCES = sorted(path for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))
STAGES = sorted(path.name for path in (ROOT / "tasks").iterdir() if (path / "task.py").is_file())
DOORS = sorted((ROOT / "tasks").glob("*/task.py"))

HOMES = {
    "mlflow": ("storage/tracking.py",),
    "duckdb": ("storage/tables.py", "storage/schemas.py"),
    "pyarrow": ("storage/tables.py", "storage/schemas.py"),
    "sae_lens": ("tasks/models/sae.py", "tasks/models/published_saes/", "tasks/autoencoder/"),
    "transformers": ("tasks/models/", "tasks/testbed/"),
    "accelerate": ("tasks/models/",),
    "peft": ("tasks/models/", "storage/weights.py"),
    "prefect": ("flows/", "tasks/caching.py", *(path.relative_to(ROOT).as_posix() for path in DOORS)),
    "lm_eval": ("tasks/evaluation/harness.py",),
    "cyclopts": ("flows/cli.py", "flows/commands/"),
}
HEAVY = ("torch", "transformers", "sae_lens", "mlflow", "peft", "matplotlib", "scipy", "sklearn", "datasets", "lm_eval")
OBSERVERS = ("benchmarks",)
"""Folders of `tasks` that are no stage: they measure stages, beside other libraries, and nothing imports them."""
OBSERVED_FROM = tuple(f"tasks/{name}/" for name in OBSERVERS)
FORBIDDEN = ("utils", "util", "helpers", "helper", "manager", "base", "common", "misc")


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _imports(path: Path, *, at_top: bool = False) -> Iterator[str]:
    """Modules that a file imports, anywhere in it or only when it is itself imported."""
    tree = ast.parse(path.read_text())
    for node in _top_level(tree) if at_top else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield f"{node.module}"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _top_level(tree: ast.Module) -> Iterator[ast.AST]:
    """Nodes that run at import: not the bodies of functions, nor what only a type checker reads."""
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        yield node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        pending += ast.iter_child_nodes(node)


def _starts(module: str, packages: tuple[str, ...]) -> bool:
    return module.split(".")[0] in packages


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_arrow_points_from_flows_to_tasks_to_storage(path: Path) -> None:
    layer = path.relative_to(ROOT).parts[0]
    above = LAYERS[: LAYERS.index(layer)]
    back = [module for module in _imports(path) if _starts(module, above)]
    assert not back, f"{_name(path)} imports {back}: move what it needs down into {layer}, or this up"


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_library_stays_at_home(path: Path) -> None:
    for library, homes in HOMES.items():
        if not _name(path).startswith(homes) and not _name(path).startswith(OBSERVED_FROM):
            strays = [module for module in _imports(path) if _starts(module, (library,))]
            assert not strays, f"{_name(path)} imports {library}; it lives in {', '.join(homes)}: call a function there"


@pytest.mark.parametrize("path", sorted((ROOT / "flows").rglob("*.py")), ids=_name)
def test_flows_touch_no_tensors(path: Path) -> None:
    heavy = [module for module in _imports(path) if _starts(module, HEAVY)]
    assert not heavy, f"{_name(path)} imports {heavy}: flows say what happens, tasks do it"


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_stages_do_not_import_one_another(path: Path) -> None:
    parts = path.relative_to(ROOT).parts
    if parts[0] != "tasks" or len(parts) < 3 or parts[1] in OBSERVERS:
        return
    others = [
        module for module in _imports(path) if module.split(".")[0] == "tasks" and module.split(".")[1:2] != [parts[1]]
    ]
    others = [module for module in others if len(module.split(".")) > 1 and module.split(".")[1] in STAGES]
    assert not others, f"{_name(path)} imports {others}: pass a record, or move what both need to tasks/models"


@pytest.mark.parametrize("path", [path for path in SOURCES if _name(path).startswith("tasks/")], ids=_name)
def test_only_the_door_knows_how_results_are_kept(path: Path) -> None:
    if path in DOORS or path.name in ("caching.py", "catalogue.py") or path.parent.name in OBSERVERS:
        return
    plumbing = [
        module
        for module in _imports(path)
        if module.startswith(("storage.artifacts", "tasks.caching", "storage.tracking"))
    ]
    assert not plumbing, f"{_name(path)} imports {plumbing}: only task.py opens and keeps results"


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_nothing_depends_on_what_only_measures(path: Path) -> None:
    if not _name(path).startswith((*OBSERVED_FROM, "flows/")):
        observers = [
            module for module in _imports(path) if module.startswith(tuple(f"tasks.{name}" for name in OBSERVERS))
        ]
        assert not observers, f"{_name(path)} imports {observers}"


@pytest.mark.parametrize("path", DOORS, ids=_name)
def test_door_imports_nothing_heavy_until_it_is_called(path: Path) -> None:
    heavy = [module for module in _imports(path, at_top=True) if _starts(module, HEAVY)]
    assert not heavy, f"{_name(path)} imports {heavy} at its top: import inside the door function"
    stage = path.parent.name
    own = [
        module
        for module in _imports(path, at_top=True)
        if module.startswith(f"tasks.{stage}.")
        and not module.startswith((f"tasks.{stage}.settings", f"tasks.{stage}.task"))
    ]
    for module in own:
        source = ROOT.joinpath(*module.split(".")).with_suffix(".py")
        if source.is_file():
            inner = [each for each in _imports(source, at_top=True) if _starts(each, HEAVY)]
            assert not inner, (
                f"{_name(path)} imports {module} at its top, and that imports {inner}: import it inside the door"
            )


@pytest.mark.parametrize("path", sorted((ROOT / "tasks").glob("*/settings.py")), ids=_name)
def test_settings_need_only_the_standard_library(path: Path) -> None:
    allowed = {*sys.stdlib_module_names, "storage"}
    strays = [module for module in _imports(path) if module.split(".")[0] not in allowed]
    assert not strays, f"{_name(path)} imports {strays}: the command line reads it for every error message"


def test_command_line_starts_without_heavy_libraries() -> None:
    import subprocess

    code = (
        "import sys, flows.cli, flows.config; flows.config.load_experiment('default'); "
        f"print([name for name in {(*HEAVY, 'prefect', 'duckdb', 'pyarrow', 'numpy')!r} if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]", "a module that every command reads imports something heavy at its top"


def test_modules_and_folders_stay_small() -> None:
    paths = [*SOURCES, *(ROOT / "tests").rglob("*.py")]
    long = {_name(path): lines for path in paths if (lines := len(path.read_text().splitlines())) > 400}
    assert not long, f"over 400 lines: {long}: part the file by what it does"
    folders = {path.parent for path in SOURCES}
    crowded = {
        _name(each): count for each in folders if (count := len([path for path in SOURCES if path.parent == each])) > 16
    }
    assert not crowded, f"over 16 files: {crowded}: part the folder"


def test_names_say_what_things_are() -> None:
    empty = [_name(path) for path in SOURCES if path.stem in FORBIDDEN or path.parent.name in FORBIDDEN]
    assert not empty, f"{empty}: name the file after what it holds"
    documented = [
        _name(path)
        for path in SOURCES
        if path.stat().st_size and ast.get_docstring(ast.parse(path.read_text())) is None
    ]
    assert not documented, f"no docstring that says what the file is: {documented}"


def test_tests_are_no_packages_and_have_names_of_their_own() -> None:
    tests = list((ROOT / "tests").rglob("test_*.py"))
    assert not list((ROOT / "tests").rglob("__init__.py")), "no __init__.py below tests"
    names = [path.name for path in tests]
    assert len(names) == len(set(names)), f"twice: {sorted({name for name in names if names.count(name) > 1})}"


def test_stage_names_are_those_of_the_doors() -> None:
    from flows.stages import STAGES as LISTED
    from tasks.caching import Stage

    doors = {
        value.name
        for path in DOORS
        for value in vars(importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))).values()
        if isinstance(value, Stage)
    }
    assert doors == set(LISTED)


@pytest.mark.parametrize(
    "folder", ["alignment/methods", "alignment/samplers", "evaluation/metrics", "evaluation/stresses", "sources/kinds"]
)
def test_every_plugin_is_one_final_frozen_dataclass(folder: str) -> None:
    import dataclasses
    from abc import ABCMeta

    from tasks import catalogue

    stems = [path.stem for path in (ROOT / "tasks" / folder).rglob("*.py") if path.stem != "__init__"]
    assert sorted(stems) == catalogue.names(folder), "a plugin's name is its file's, and unique"
    for name in stems:
        module = ast.parse(ROOT.joinpath(*catalogue.module_of(folder, name).split(".")).with_suffix(".py").read_text())
        siblings = [each for each in _imported_names(module) if each.startswith(f"tasks.{folder.replace('/', '.')}")]
        assert not siblings, f"{name} imports {siblings}: what two plugins share lives beside their folder"
        plugin = catalogue.load(folder, name)
        assert dataclasses.is_dataclass(plugin), f"{name} must be a dataclass"
        assert plugin.__dataclass_params__.frozen, f"{name} must be frozen"  # type: ignore[attr-defined]
        parents = [each for each in plugin.__mro__[1:] if each.__module__.startswith("tasks.")]
        assert all(isinstance(each, ABCMeta) and not dataclasses.is_dataclass(each) for each in parents), (
            f"{name} is made from a concrete class"
        )
        plugin()


def _imported_names(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_no_path_of_one_machine_in_any_file() -> None:
    kinds = ("*.py", "*.toml", "*.yaml", "*.md", "*.sql", "Makefile", "Dockerfile", "*.sh")
    files = [
        path
        for kind in kinds
        for path in ROOT.rglob(kind)
        if not any(part in (".venv", "build", ".git") for part in path.parts)
    ]
    marks = ("/" + "root/", "/" + "work/", "/" + "opt/", "/" + "home/", "file" + ":///")
    found = {_name(path): mark for path in files for mark in marks if mark in path.read_text(errors="replace")}
    assert not found, f"a path that only one machine has: {found}"
