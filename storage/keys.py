"""Keys: what a result depends on, as one digest and as a document a person can read.

The code part is found without importing anything: from a door function, the syntax trees of all
functions, classes and constants of this project that it reaches by name, prose ignored. So an
edited loss changes the key of what uses it, and a comment changes nothing.
"""

from __future__ import annotations

import ast
import copy
import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from storage.records import Artifact

PROJECT = Path(__file__).resolve().parent.parent
RESULT_PACKAGES = ("tasks",)
"""Packages whose code decides results; `flows` and `storage` only carry them."""


class UnkeyableValue(TypeError):
    """A value that cannot be part of a key."""


def digest(document: Any) -> str:
    """sha256 over canonical JSON, 32 hexadecimal digits."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:32]


def canonical(value: Any) -> Any:
    """The value as JSON that keeps every class name and drops what cannot change a result.

    An artifact counts by its content, so a stage that reproduces the same bytes stops the ripple.
    Raises: UnkeyableValue for a value without a stable form (a set, a path, a tensor).
    """
    if isinstance(value, Artifact):
        return {"artifact": value.content}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            entry.name: canonical(getattr(value, entry.name))
            for entry in dataclasses.fields(value)
            if not entry.metadata.get("runtime")
        }
        return {"class": type(value).__name__, **fields}
    if isinstance(value, list | tuple):
        return [canonical(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise UnkeyableValue(
        f"{type(value).__name__} cannot be part of a key; give a record, a settings class, a tuple, a string or a number"
    )


def plugins_in(value: Any) -> Iterator[tuple[str, str]]:
    """(folder, name) of every plugin that a settings value names; the name `*` for an empty tuple, which means all."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for entry in dataclasses.fields(value):
            item = getattr(value, entry.name)
            if folder := entry.metadata.get("plugin"):
                names = (item or ("*",)) if isinstance(item, tuple) else (item,)
                yield from ((folder, name) for name in names)
            else:
                yield from plugins_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from plugins_in(item)


def code_digests(roots: Iterable[str]) -> dict[str, str]:
    """Digest of each definition reached from `roots`, by its address `package.module:name`.

    A root is such an address, or a module (all its definitions).
    """
    found: dict[str, str] = {}
    pending = list(roots)
    while pending:
        address = pending.pop()
        module_name, _, name = address.partition(":")
        module = _module(module_name)
        if module is None:
            continue
        if not name:
            pending += [f"{module_name}:{defined}" for defined in module.definitions]
            continue
        if name not in module.definitions:
            if target := module.imports.get(name):
                pending.append(target)
            continue
        if address in found:
            continue
        found[address] = module.digests[name]
        pending += module.reached(name)
    return dict(sorted(found.items()))


class _Module:
    """Top-level definitions of one source file and what their names stand for."""

    def __init__(self, name: str, source: str) -> None:
        self.name = name
        self.definitions: dict[str, ast.AST] = {}
        self.imports: dict[str, str] = {}
        tree = ast.parse(source)
        for node in tree.body:
            self._add(node)
        self.digests = {
            name: hashlib.sha256(ast.dump(_without_prose(node)).encode()).hexdigest()[:16]
            for name, node in self.definitions.items()
        }
        self._reached: dict[str, list[str]] = {}

    def _add(self, node: ast.stmt) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            self.definitions[node.name] = node
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                for name in ast.walk(target):
                    if isinstance(name, ast.Name):
                        self.definitions[name.id] = node
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            self.definitions[node.target.id] = node
        elif isinstance(node, ast.Import | ast.ImportFrom):
            self.imports |= _imported(node, self.name)
        elif isinstance(node, ast.If | ast.Try):
            for inner in ast.iter_child_nodes(node):
                if isinstance(inner, ast.stmt):
                    self._add(inner)

    def reached(self, name: str) -> list[str]:
        """Addresses of the definitions that a definition names, found once."""
        if name not in self._reached:
            self._reached[name] = self._find_reached(name)
        return self._reached[name]

    def _find_reached(self, name: str) -> list[str]:
        node = _without_prose(self.definitions[name])
        imports = dict(self.imports)
        for inner in ast.walk(node):
            if isinstance(inner, ast.Import | ast.ImportFrom):
                imports |= _imported(inner, self.name)
        addresses = []
        for inner in ast.walk(node):
            if isinstance(inner, ast.Attribute):
                dotted = _dotted(inner)
                if dotted and dotted[0] in imports and ":" not in imports[dotted[0]]:
                    addresses += _through_package(imports[dotted[0]], dotted[1:])
            elif isinstance(inner, ast.Name):
                if inner.id in self.definitions and inner.id != name:
                    addresses.append(f"{self.name}:{inner.id}")
                elif ":" in imports.get(inner.id, ""):
                    addresses.append(imports[inner.id])
        return addresses


def _through_package(module: str, names: list[str]) -> list[str]:
    """`tasks.models` and `forward.read_sites` make `tasks.models.forward:read_sites`."""
    while names and _module(f"{module}.{names[0]}") is not None:
        module, names = f"{module}.{names[0]}", names[1:]
    return [f"{module}:{names[0]}"] if names else []


def _imported(node: ast.Import | ast.ImportFrom, importer: str) -> dict[str, str]:
    """Local name -> module, or module:name, for imports from this project's result packages."""
    names: dict[str, str] = {}
    if isinstance(node, ast.Import):
        for alias in node.names:
            if _is_ours(alias.name):
                names[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        return names
    package = importer.rsplit(".", node.level)[0] + "." if node.level else ""
    source = (package + (node.module or "")).rstrip(".")
    if _is_ours(source):
        for alias in node.names:
            inside = f"{source}.{alias.name}"
            names[alias.asname or alias.name] = inside if _module(inside) is not None else f"{source}:{alias.name}"
    return names


def _is_ours(module: str) -> bool:
    return module.split(".")[0] in RESULT_PACKAGES


def _dotted(node: ast.AST) -> list[str]:
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.insert(0, node.attr)
        node = node.value
    return [node.id, *names] if isinstance(node, ast.Name) else []


def _without_prose(node: ast.AST) -> ast.AST:
    """A copy without docstrings, bare strings, annotations of functions, and the door's own decorator."""
    node = copy.deepcopy(node)
    for inner in ast.walk(node):
        for attribute in ("body", "orelse", "finalbody"):
            body = getattr(inner, attribute, None)
            if isinstance(body, list):
                kept = [
                    line
                    for line in body
                    if not (
                        isinstance(line, ast.Expr)
                        and isinstance(line.value, ast.Constant)
                        and isinstance(line.value.value, str)
                    )
                ]
                setattr(inner, attribute, kept or ([ast.Pass()] if body else []))
        if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
            inner.returns = None
            inner.decorator_list = [line for line in inner.decorator_list if not _is_door(line)]
            for argument in [*inner.args.posonlyargs, *inner.args.args, *inner.args.kwonlyargs]:
                argument.annotation = None
    return node


def _is_door(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "stage"


def _module(name: str) -> _Module | None:
    if not _is_ours(name):
        return None
    path = PROJECT.joinpath(*name.split("."))
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    try:
        status = source.stat()
    except OSError:
        return None
    return _parsed(name, source, status.st_mtime_ns, status.st_size)


@functools.cache
def _parsed(name: str, source: Path, _mtime_ns: int, _size: int) -> _Module:
    return _Module(name, source.read_text())
