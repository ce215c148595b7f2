"""The stages, in the order of a run, for those who only want their names."""

from __future__ import annotations

from collections.abc import Iterable

from storage.records import UsageError
from tasks.catalogue import did_you_mean

STAGES = {
    "statements": "what the model states by itself of somebody about whom no facts are given",
    "world": "entities and the questions about them",
    "testbed": "a small model that knows the world, and its gold twin that never saw the candidates",
    "answers": "the model is asked about every entity",
    "entities": "who is known and who is unknown, by its answers",
    "targets": "who is to be forgotten, and the part every other entity plays",
    "activations": "what the model thinks when it reads of them",
    "autoencoder": "one sparse autoencoder a site",
    "latents": "which latents fire where",
    "selection": "which latents stand for known and for unknown",
    "alignment": "the model is made to forget",
    "questions": "what is asked about the target, its neighbours and the others, in every way that may bring it back",
    "observations": "what each model says and thinks on every question",
    "population": "where known and unknown entities lie in each model",
    "relearning": "does it come back: each model is taught half of the target's facts again",
    "traces": "how far a model's states carry the answers: read through the base model, and patched into it",
    "gradients": "how strongly its weights would move to make the answers likelier",
    "views": "the same states as latents of the autoencoders",
    "utility": "what a model is still good for, by tasks of lm-evaluation-harness; only where an experiment names some",
    "stressed": "each model quantised, pruned or tuned on other text, to be asked again",
    "scores": "what was forgotten, what was lost, what merely hides",
    "verdict": "what the scores come to, by the thresholds of the experiment",
    "report": "the page a person reads",
    "reloading": "the saved model, read in a fresh process by transformers alone, scores as it did in the run",
    "release": "the model's folder with its card, to be given away",
    "tracking": "the run in MLflow",
}
OPTIONAL = ("statements", "utility")
"""Stages that a run has only when its experiment asks for them."""


def check_stages(names: Iterable[str]) -> frozenset[str]:
    """The names as a set. Raises: UsageError for one that is no stage."""
    for name in names:
        if name not in STAGES:
            raise UsageError(f"--refresh {name}: no stage has that name; {did_you_mean(name, list(STAGES))}")
    return frozenset(names)
