"""Settings of the entities and targets stages, section `[entities]` of an experiment."""

from __future__ import annotations

from dataclasses import dataclass

from storage.records import setting


@dataclass(frozen=True)
class AskingSettings:
    """How the model is asked what it knows, on held-out templates."""

    asking: str = setting("auto", choices=("auto", "exact", "said"))
    """`exact`: right is what greedy decoding would give to the letter, and then end; `said`: the model answers in its
    own words, once greedily and several times sampled. `auto`: `exact` for the testbed's own model, which was taught
    these very words, `said` for any other. The stop rule and the evaluation count by the same rule."""
    samples: int = setting(10, minimum=0)
    """Answers sampled of each question, beside the greedy one; these and what follows only where the model says."""
    asking_temperature: float = setting(1.0, minimum=0.01, maximum=10.0)
    right_share: float = setting(0.3, minimum=0.01, maximum=1.0)
    """A question is right when its greedy answer is, or at least this share of the sampled ones."""
    answer_tokens: int = setting(32, minimum=1)
    """Longest answer that is decoded."""
    asking_seed: int = setting(0, minimum=0)
    """Draws the sampled answers."""


@dataclass(frozen=True)
class LabelSettings:
    """When an entity counts as known and when as unknown, by what the model answered."""

    known_relations: int = setting(2, minimum=1)
    """Known: at least this many relations right, or all where there are fewer (a relation is right when most of its
    templates are)."""
    unknown_relations: int = setting(0, minimum=0)
    """Unknown: at most this many relations right. What lies between is dropped."""
    label_seed: int = setting(0, minimum=0)
    """Draws the parts of the entities (fit, validation, report)."""


@dataclass(frozen=True)
class RoleSettings:
    """Who is forgotten and which part the others play."""

    targets: tuple[str, ...] = setting(())
    """Names to forget; none means the world's first candidate."""
    retain: int = setting(120, minimum=8)
    """Known entities that a retain loss may use; the others are only scored."""
    role_seed: int = setting(0, minimum=0)
