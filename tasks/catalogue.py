"""The folder is the registry: a plugin is one file, and its name is the file's name."""

from __future__ import annotations

import difflib
import importlib
from pathlib import Path
from typing import Any

from storage.records import UsageError

TASKS = Path(__file__).resolve().parent
SHOWN = 15
"""Names that a message lists at most."""


def modules(folder: str) -> dict[str, str]:
    """Plugin name -> module, for every file in or one level below `tasks/<folder>`."""
    root = TASKS / folder
    found: dict[str, str] = {}
    for path in sorted([*root.glob("*.py"), *root.glob("*/*.py")]):
        if path.stem != "__init__":
            found[path.stem] = ".".join(("tasks", *path.relative_to(TASKS).with_suffix("").parts))
    return found


def names(folder: str) -> list[str]:
    """The plugins of a folder, sorted."""
    return sorted(modules(folder))


def module_of(folder: str, name: str) -> str:
    """The plugin's module; raises UsageError with the nearest names when there is none."""
    known = modules(folder)
    if name not in known:
        raise UsageError(
            f"no {_singular(folder.split('/')[-1])} is named '{name}'; {did_you_mean(name, sorted(known))}"
        )
    return known[name]


def _singular(plural: str) -> str:
    return plural.removesuffix("es") if plural.endswith("sses") else plural.removesuffix("s")


def load(folder: str, name: str) -> type[Any]:
    """The plugin's class: the one public class defined in its file."""
    module = importlib.import_module(module_of(folder, name))
    classes = [
        value
        for key, value in vars(module).items()
        if isinstance(value, type) and value.__module__ == module.__name__ and not key.startswith("_")
    ]
    if len(classes) != 1:
        raise TypeError(f"{module.__name__} must define exactly one public class, it defines {len(classes)}")
    return classes[0]


def did_you_mean(given: str, known: list[str]) -> str:
    """A remedy: the nearest names, or the first of those there are."""
    near = difflib.get_close_matches(given, known, n=3, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(repr(name) for name in near)}?"
    more = f" and {len(known) - SHOWN} more" if len(known) > SHOWN else ""
    return f"known: {', '.join(known[:SHOWN])}{more}"
