"""An experiment: one TOML file, read into frozen settings, everything unknown refused with a suggestion.

    experiment = load_experiment("default", ["alignment.learning_rate=0.002", 'entities.targets=["A", "B"]'])

A section may feed several settings classes; a key goes to each of them that has it.
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.experiment import SECTIONS as SECTIONS
from flows.experiment import STATEMENTS, TESTBED
from flows.experiment import Experiment as Experiment
from storage.records import UsageError
from tasks import catalogue
from tasks.evaluation.harness import require_harness
from tasks.models.published_saes.sources import parse_source

EXPERIMENTS = Path(__file__).resolve().parent.parent / "deployments" / "experiments"


_OWN_SETTINGS = "settings"
"""The key of `[alignment.settings]`, whose keys belong to the method."""


def experiment_names() -> list[str]:
    return sorted(path.stem for path in EXPERIMENTS.glob("*.toml"))


def load_experiment(name_or_path: str = "default", overrides: Sequence[str] = ()) -> Experiment:
    """The experiment of that name in `deployments/experiments`, or in that TOML file, with `section.key=value` changes.

    Raises: UsageError, one line: where, what was expected, what was given, the remedy.
    """
    path = _experiment_file(name_or_path)
    document = _read(path)
    given: dict[str, dict[str, _Given]] = {section: {} for section in SECTIONS}
    for section, keys in document.items():
        if section not in SECTIONS and not isinstance(keys, dict):
            raise UsageError(f"{path.name}: '{section}' stands outside any section; {_sections_with(section)}")
        _known(section, list(SECTIONS), f"{path.name}: section [{section}]")
        if not isinstance(keys, dict):
            raise UsageError(
                f"{path.name}: '{section}' must be a section, given {_as_toml(keys)}; write [{section}] on a line of its own"
            )
        for key, value in keys.items():
            given[section][key] = _Given(value, f"{path.name}: [{section}] {key}")
    for override in overrides:
        _apply(override, given)
    experiment = Experiment(name=path.stem, **_parts(given))
    _check_together(experiment)
    return experiment


def flat_settings(experiment: Experiment, *, runtime: bool = True) -> dict[str, Any]:
    """`section.key` -> value, as an experiment file would say it; `runtime` settings can change no result."""
    flat: dict[str, Any] = {}
    for section, parts in SECTIONS.items():
        for part in parts:
            settings = getattr(experiment, part)
            for entry in dataclasses.fields(settings):
                value = getattr(settings, entry.name)
                if entry.metadata.get("runtime") and not runtime:
                    continue
                if part == "alignment" and entry.name == _OWN_SETTINGS:
                    flat |= {f"alignment.settings.{name}": own for name, own in value}
                else:
                    flat[f"{section}.{entry.name}"] = value
    return flat


@dataclass(frozen=True)
class _Given:
    """A value as the user wrote it, and where; an override is text until its type is known."""

    value: Any
    where: str
    is_text: bool = False


def _experiment_file(name_or_path: str) -> Path:
    if name_or_path in experiment_names():
        return EXPERIMENTS / f"{name_or_path}.toml"
    path = Path(name_or_path).expanduser()
    if path.suffix == ".toml":
        if path.is_file():
            return path
        raise UsageError(
            f"the experiment file {name_or_path} is not there; give a TOML file or one of: {', '.join(experiment_names())}"
        )
    if len(path.parts) > 1 or "\\" in name_or_path:
        raise UsageError(
            f"'{name_or_path}' is neither an experiment nor a .toml file; `sae-unlearn list experiments` names those there are"
        )
    raise UsageError(
        f"no experiment is named '{name_or_path}'; {catalogue.did_you_mean(name_or_path, experiment_names())}"
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{path.name} is not valid TOML: {reason}; mend that line (strings need quotes)") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}; give a text file in UTF-8") from None


def _sections_with(key: str) -> str:
    having = [
        f"[{section}]"
        for section, parts in SECTIONS.items()
        if any(key in _fields(type(getattr(Experiment(), part))) for part in parts)
    ]
    return f"put it under {' or '.join(having)}" if having else f"the sections are: {', '.join(SECTIONS)}"


def _known(name: str, known: list[str], what: str) -> None:
    if name not in known:
        raise UsageError(f"{what} is not known; {catalogue.did_you_mean(name, known)}")


def _apply(override: str, given: dict[str, dict[str, _Given]]) -> None:
    address, equals, text = override.partition("=")
    section, dot, key = address.strip().partition(".")
    if not (equals and dot and key):
        raise UsageError(f"--set {override}: expected section.key=value; e.g. --set alignment.learning_rate=0.002")
    _known(section, list(SECTIONS), f"--set {override}: section '{section}'")
    where = f"--set {section}.{key}"
    if section == "alignment" and key.startswith(f"{_OWN_SETTINGS}."):
        own = given[section].get(_OWN_SETTINGS, _Given({}, where))
        inner = key.removeprefix(f"{_OWN_SETTINGS}.")
        given[section][_OWN_SETTINGS] = _Given({**_as_table(own), inner: _Given(text, where, is_text=True)}, own.where)
    else:
        given[section][key] = _Given(text, where, is_text=True)


def _as_table(given: _Given) -> dict[str, Any]:
    if given.is_text or not isinstance(given.value, dict):
        raise UsageError(
            f"{given.where}: expected a section, given {given.value!r}; write [alignment.settings], or --set alignment.settings.NAME=VALUE"
        )
    return given.value


def _parts(given: dict[str, dict[str, _Given]]) -> dict[str, Any]:
    parts: dict[str, Any] = {}
    for section, names in SECTIONS.items():
        fields = {part: _fields(type(getattr(Experiment(), part))) for part in names}
        known = sorted({key for entries in fields.values() for key in entries})
        for key, value in given[section].items():
            _known(key, known, value.where)
        for part in names:
            cls = type(getattr(Experiment(), part))
            values = {}
            for key, (entry, kind) in fields[part].items():
                if key in given[section] and not (part == "alignment" and key == _OWN_SETTINGS):
                    values[key] = _checked(given[section][key], entry, kind)
            parts[part] = cls(**values)
    if own := given["alignment"].get(_OWN_SETTINGS):
        alignment = parts["alignment"]
        parts["alignment"] = dataclasses.replace(alignment, settings=_method_settings(alignment.method, own))
    return parts


def _fields(cls: type) -> dict[str, tuple[dataclasses.Field[Any], Any]]:
    kinds = typing.get_type_hints(cls)
    return {entry.name: (entry, kinds[entry.name]) for entry in dataclasses.fields(cls)}


def _method_settings(method: str, own: _Given) -> tuple[tuple[str, Any], ...]:
    """The method's own settings, checked against its fields; what equals the default is left out of the key."""
    table = {
        name: value
        if isinstance(value, _Given)
        else _Given(value, f"{own.where.removesuffix(_OWN_SETTINGS)}{_OWN_SETTINGS}.{name}")
        for name, value in _as_table(own).items()
    }
    if not table:
        return ()
    cls = catalogue.load("alignment/methods", method)
    fields = {name: pair for name, pair in _fields(cls).items() if pair[0].init}
    settings = []
    for name, value in table.items():
        if not fields:
            raise UsageError(f"{value.where}: method '{method}' has no settings of its own; remove it")
        _known(name, sorted(fields), f"{value.where} of method '{method}'")
        entry, kind = fields[name]
        checked = _checked(value, entry, kind)
        if entry.default is dataclasses.MISSING or checked != entry.default:
            settings.append((name, checked))
    return tuple(sorted(settings))


def _checked(given: _Given, entry: dataclasses.Field[Any], kind: Any) -> Any:
    """The value in the field's type and range. Raises: UsageError."""
    value = _parse(given.value, kind) if given.is_text else given.value
    limits = entry.metadata
    if typing.get_origin(kind) is tuple:
        item_kind = typing.get_args(kind)[0]
        if given.is_text and not isinstance(value, list):
            value = [value]
        if isinstance(value, list):
            items = [_scalar(item, item_kind) for item in value]
            if all(item is not _WRONG and _in_range(item, limits) for item in items):
                _check_plugins(items, limits, given.where)
                return tuple(items)
            wrong = next(
                raw for raw, item in zip(value, items, strict=True) if item is _WRONG or not _in_range(item, limits)
            )
            value = wrong
        raise _refusal(given, entry, f"a list of {_describe(item_kind, limits, plural=True)}", value)
    scalar = _scalar(value, kind)
    if scalar is _WRONG or not _in_range(scalar, limits):
        remedy = (
            f"; {catalogue.did_you_mean(value, list(limits['choices']))}"
            if limits.get("choices") and isinstance(value, str)
            else ""
        )
        raise _refusal(given, entry, _describe(kind, limits), value, remedy)
    if scalar != entry.default:
        _check_plugins([scalar], limits, given.where)
    return scalar


def _check_plugins(names: Sequence[str], limits: typing.Mapping[str, Any], where: str) -> None:
    """That each name is a file of the plugins' folder, which is looked at and not imported. Raises: UsageError."""
    for name in names if limits.get("plugin") else ():
        try:
            catalogue.module_of(limits["plugin"], name)
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from None


_WRONG = object()


def _parse(text: str, kind: Any) -> Any:
    """The text after `=` as a TOML value; where text is wanted, anything that is no TOML string or list stays as it is."""
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    wants_text = kind is str or typing.get_args(kind)[:1] == (str,)
    return text if wants_text and not isinstance(value, str | list) else value


def _scalar(value: Any, kind: Any) -> Any:
    kinds = (
        typing.get_args(kind)
        if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union
        else (kind,)
    )
    for each in kinds:
        if type(value) is each and not (isinstance(value, float) and not math.isfinite(value)):
            return value
    if float in kinds and type(value) is int:
        return float(value)
    return _WRONG


def _in_range(value: Any, limits: typing.Mapping[str, Any]) -> bool:
    if limits.get("choices") and value not in limits["choices"]:
        return False
    minimum, maximum = limits.get("minimum"), limits.get("maximum")
    return (minimum is None or value >= minimum) and (maximum is None or value <= maximum)


def _describe(kind: Any, limits: typing.Mapping[str, Any], *, plural: bool = False) -> str:
    if limits.get("choices"):
        return f"one of {', '.join(map(str, limits['choices']))}"
    words = {int: "a whole number", float: "a number", str: "text in quotes", bool: "true or false"}
    several = {int: "whole numbers", float: "numbers", str: "texts in quotes", bool: "true or false"}
    word = (several if plural else words).get(kind, str(kind).replace("|", "or"))
    minimum, maximum = limits.get("minimum"), limits.get("maximum")
    if minimum is not None and maximum is not None:
        return f"{word} from {minimum} to {maximum}"
    if minimum is not None:
        return f"{word} of at least {minimum}"
    return f"{word} of at most {maximum}" if maximum is not None else word


def _refusal(given: _Given, entry: dataclasses.Field[Any], expected: str, value: Any, remedy: str = "") -> UsageError:
    default = list(entry.default) if isinstance(entry.default, tuple) else entry.default
    if not remedy and default is not dataclasses.MISSING:
        remedy = f"; the default is {_as_toml(default)}"
    return UsageError(f"{given.where}: expected {expected}, given {_as_toml(value)}{remedy}")


def _as_toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + value.replace("\n", " ") + '"'
    return repr(value)


def _check_together(experiment: Experiment) -> None:
    """What no single value shows to be wrong. Raises: UsageError."""
    layers = experiment.activations.layers
    if not layers or len(set(layers)) != len(layers):
        raise UsageError(
            f"[activations] layers: expected at least one block, each once, given {list(layers)}; e.g. layers = [1, 2]"
        )
    if experiment.model.chat and experiment.model.name == TESTBED:
        raise UsageError("[model] chat: the testbed's model has no chat template; name another model, or remove chat")
    if experiment.model.placement != "one" and experiment.model.name == TESTBED:
        raise UsageError(
            "[model] placement: the testbed's model fits on any device; name another model, or remove placement"
        )
    _check_data(experiment)
    autoencoder = experiment.autoencoder
    for source in autoencoder.sources:
        try:
            parse_source(source)
        except UsageError as error:
            raise UsageError(f"[autoencoder] sources: {error}") from None
    if autoencoder.active > autoencoder.latents:
        raise UsageError(
            f"[autoencoder] active: expected at most latents = {autoencoder.latents}, given {autoencoder.active}; lower active or raise latents"
        )
    labels = experiment.labels
    if labels.unknown_relations >= labels.known_relations:
        raise UsageError(
            f"[entities] unknown_relations: expected less than known_relations = {labels.known_relations}, "
            f"given {labels.unknown_relations}; an entity cannot be both"
        )
    alignment = experiment.alignment
    if alignment.keep_adapter and alignment.train != "lora":
        raise UsageError(
            f'[alignment] keep_adapter: only train = "lora" makes an adapter, given train = "{alignment.train}"; set '
            'train = "lora", or keep_adapter = false'
        )
    if experiment.utility.utility_tasks:
        require_harness()
        if not Path(folder := experiment.utility.utility_folder).expanduser().is_dir():
            raise UsageError(
                f"[evaluation] utility_folder: {folder} is no folder; give one with tasks of lm-eval, as YAML"
            )


def _check_data(experiment: Experiment) -> None:
    """That facts of a source are asked of a model that may know them. Raises: UsageError."""
    data = experiment.data
    if data.source and experiment.model.name == TESTBED:
        raise UsageError(
            f"[data] source: the testbed's model knows the testbed's world alone, given \"{data.source}\"; name a model that "
            "may know these facts: [model] name = a folder, or OWNER/NAME of a hub"
        )
    given = [] if data.source else _changed(data)
    if given:
        raise UsageError(
            f'[data] {given[0]}: given without a source, so nothing would read it; add source, e.g. source = "facts_file"'
        )
    asked = [name for name in _changed(experiment.statements) if name != "include"]
    if asked and data.source != STATEMENTS:
        raise UsageError(
            f'[data] {asked[0]}: only the source {STATEMENTS} reads it, given source = "{data.source}"; remove it'
        )


def _changed(settings: Any) -> list[str]:
    """Fields that are not as they are by default."""
    return [entry.name for entry in dataclasses.fields(settings) if getattr(settings, entry.name) != entry.default]
