"""Whether two names mean the same model: libraries and publishers differ in how they call it."""

from __future__ import annotations

import re

_FAMILIES: tuple[tuple[str, str], ...] = (
    (r"gemma-2-\d+b", "gemma2"),
    (r"gemma-3-", "gemma3"),
    (r"llama-[23]", "llama"),
    (r"mistral-", "mistral"),
    (r"qwen2(\.5)?-", "qwen2"),
    (r"qwen3-", "qwen3"),
    (r"gpt2", "gpt2"),
    (r"pythia-", "gpt_neox"),
)
"""What a model's name tells of its family, as `tasks.models.families` calls it."""


def relation_of(made_for: str, in_use: str) -> str:
    """`same`, `variant` (of one pretrained model, or derived from it) or `other`, by the names of two models."""
    plain, tuned = _bare(made_for), _bare(in_use)
    if plain == tuned:
        return "same"
    ours, theirs = _untuned(plain), _untuned(tuned)
    derived = theirs.startswith(f"{ours}-") or ours.startswith(f"{theirs}-")
    return "variant" if ours == theirs or derived else "other"


def family_of_name(name: str) -> str:
    """The family, or nothing where the name does not tell."""
    bare = _bare(name)
    return next((family for pattern, family in _FAMILIES if re.search(pattern, bare)), "")


def _bare(name: str) -> str:
    """Without owner and in one spelling."""
    bare = name.rstrip("/").split("/")[-1].lower().removeprefix("meta-").removesuffix("-hf")
    return "gpt2" if bare == "gpt2-small" else re.sub(r"^(gemma-3-.*)-pt$", r"\1", bare)


def _untuned(bare: str) -> str:
    """Without what tells of later training, and a version."""
    return re.sub(r"(-(it|instruct|chat|base|pt|v\d+(\.\d+)*))+$", "", bare)
