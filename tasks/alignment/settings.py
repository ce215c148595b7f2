"""Settings of the alignment stage, section `[alignment]` of an experiment."""

from __future__ import annotations

from dataclasses import dataclass

from storage.records import setting


@dataclass(frozen=True)
class AlignmentSettings:
    """Which method makes the model forget, what it may train, and for how long."""

    method: str = setting("sae_guided", plugin="alignment/methods")
    learning_rate: float = setting(0.0, minimum=0.0, maximum=1.0)
    """Peak learning rate; 0 means the method's own."""
    steps: int = setting(60, minimum=1)
    forget_rows: int = setting(16, minimum=1)
    """Forget questions a step."""
    retain_rows: int = setting(24, minimum=1)
    """Retain questions a step; samplers that pair take as many as forget questions instead."""
    general_rows: int = setting(8, minimum=1)
    """Sentences a step that name no entity, where the method reads such."""
    accumulation: int = setting(1, minimum=1)
    """Parts in which a step's rows are run, one after the other, to save memory; the loss is the mean of theirs."""
    checkpointing: bool = setting(False, runtime=True)
    """Compute what lies inside a block again for the gradients instead of keeping it: less memory, a pass more."""
    sampler: str = setting("shuffled", plugin="alignment/samplers")
    """How forget and retain questions are put together in a step."""
    train: str = setting("own", choices=("own", "weights", "down_projections", "lora"))
    """What trains: the method's own choice, all weights but the embeddings, the last linear map of each feed-forward
    part, or adapters on every linear map that are merged at the end."""
    layers: tuple[int, ...] = setting((), minimum=0)
    """Blocks that train; none means the method's own choice."""
    lora_rank: int = setting(8, minimum=1)
    lora_alpha: float = setting(16.0, minimum=0.0)
    """The adapters' product is multiplied by alpha over rank."""
    keep_adapter: bool = setting(False)
    """With `train = "lora"`: keep the adapter too, as peft reads it, beside the model into which it was merged."""
    projection: str = setting("none", choices=("none", "geometric"))
    """`geometric`: every step is changed as little as lets the retain loss not rise, to first order (GU)."""
    stop: str = setting("never", choices=("never", "recall", "unknown"))
    """On questions set aside: `recall`: stop once the target is recalled no more than unknown entities are; `unknown`:
    once it lies among them inside too."""
    stop_interval: int = setting(5, minimum=1)
    """Steps between two looks at that rule; two in a row must agree."""
    order: str = setting("together", choices=("together", "sequence"))
    """Several targets in the same steps, or one window after the other with so many steps each."""
    window: int = setting(1, minimum=1)
    """With `order = "sequence"`: how many targets share their steps."""
    forget_by: str = setting("questions", choices=("questions", "passages", "both"))
    """What a target's rows are made of: its questions, the sentences of its passages that name it, or both; with passages
    those about entities to retain are retained too."""
    refusals: tuple[str, ...] = setting(("unknown", "not known", "cannot say"))
    """What a method that teaches refusals lets the model answer."""
    seed: int = setting(0, minimum=0)
    settings: tuple[tuple[str, bool | int | float | str], ...] = setting(())
    """The method's own settings, `[alignment.settings]` in an experiment file."""
    device: str = setting("auto", choices=("auto", "cpu", "cuda"), runtime=True)
