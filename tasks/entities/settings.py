"""Settings of the entities and targets stages, section `[entities]` of an experiment."""

from __future__ import annotations

from dataclasses import dataclass

from storage.records import setting


@dataclass(frozen=True)
class LabelSettings:
    """When an entity counts as known and when as unknown, by asking the model on held-out templates."""

    known_relations: int = setting(2, minimum=1)
    """Known: at least this many relations right (a relation is right when most of its templates are)."""
    unknown_relations: int = setting(0, minimum=0)
    """Unknown: at most this many relations right. What lies between is dropped."""
    label_seed: int = setting(0, minimum=0)
    """Draws the halves of the unknown entities (fit, report)."""


@dataclass(frozen=True)
class RoleSettings:
    """Who is forgotten and which part the others play."""

    targets: tuple[str, ...] = setting(())
    """Names to forget; none means the world's first candidate."""
    retain: int = setting(120, minimum=8)
    """Known entities that a retain loss may use; the others are only scored."""
    role_seed: int = setting(0, minimum=0)
