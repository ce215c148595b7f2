"""Settings of the statements stage, section `[data]` of an experiment whose source is `statements`."""

from __future__ import annotations

from dataclasses import dataclass

from storage.records import setting

TYPES = ("person", "work", "place")


@dataclass(frozen=True)
class StatementSettings:
    """Of whom the model is asked what it would say, and when it says so confidently."""

    include: tuple[str, ...] = setting(())
    """Names to ask about; others of the type, from the built-in facts, are asked the same."""
    type: str = setting("person", choices=TYPES)
    """What the names are: it decides what is asked, and who the others are."""
    companions: int = setting(60, minimum=4)
    """Others who are asked the same, to be retained."""
    samples: int = setting(8, minimum=1)
    """Sampled answers to each wording."""
    agreement: float = setting(0.5, minimum=0.0, maximum=1.0)
    """Confident: at least this share of the samples gives the answer that greedy decoding gives."""
    statement_seed: int = setting(0, minimum=0)
    device: str = setting("auto", choices=("auto", "cpu", "cuda"), runtime=True)
