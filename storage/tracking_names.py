"""Names that MLflow takes, made of any text."""

from __future__ import annotations

import re


def safe_name(*parts: str) -> str:
    """A name of the parts that MLflow takes for a model or an alias: letters, digits, `_`, `.` and `-`."""
    return "-".join(filter(None, (re.sub(r"[^A-Za-z0-9_.]+", "-", part).strip("-.") for part in parts)))


def metric_name(*parts: str) -> str:
    """A name that MLflow takes for a metric: the first part is its section in the pages."""
    return "/".join(re.sub(r"[^\w. -]+", "_", part) for part in parts if part)


def experiment_name(*parts: str) -> str:
    """A name without `/`, of which the pages would show the last piece only."""
    return ", ".join(part.replace("/", "-") for part in parts if part)


def latest_of(method: str) -> str:
    """The alias of the newest version that a method made."""
    return safe_name("latest", method).replace(".", "-")
