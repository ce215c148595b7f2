"""The stages, in the order of a run, for those who only want their names."""

from __future__ import annotations

from collections.abc import Iterable

from storage.records import UsageError
from tasks.catalogue import did_you_mean

STAGES = {
    "world": "entities and the questions about them",
    "testbed": "a small model that knows the world, and its gold twin that never saw the candidates",
    "entities": "who is known and who is unknown, by asking the model",
    "targets": "who is to be forgotten, and the part every other entity plays",
    "activations": "what the model thinks when it reads of them",
    "autoencoder": "one sparse autoencoder a site",
    "latents": "how often each latent fires for known and for unknown entities",
    "selection": "which latents stand for known and for unknown",
    "alignment": "the model is made to forget",
    "observations": "what the base, gold and unlearned model say and think on every question",
    "stress": "does it come back: each model is taught half of the target's facts again",
    "scores": "what was forgotten, what was lost, what merely hides",
    "report": "the page a person reads",
    "tracking": "the run in MLflow",
}


def check_stages(names: Iterable[str]) -> frozenset[str]:
    """The names as a set. Raises: UsageError for one that is no stage."""
    for name in names:
        if name not in STAGES:
            raise UsageError(f"--refresh {name}: no stage has that name; {did_you_mean(name, list(STAGES))}")
    return frozenset(names)
