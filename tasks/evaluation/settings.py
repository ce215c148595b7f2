"""Settings of the observation, stress and scoring stages, section `[evaluation]` of an experiment."""

from __future__ import annotations

from dataclasses import dataclass

from storage.records import setting


@dataclass(frozen=True)
class ObservationSettings:
    """What is recorded of a model."""

    samples: int = setting(8, minimum=1)
    """Sampled answers a question about the target; the best of them counts."""
    temperature: float = setting(1.0, minimum=0.01, maximum=10.0)
    sample_seed: int = setting(0, minimum=0)
    token_budget: int = setting(4096, minimum=128, runtime=True)
    device: str = setting("auto", choices=("auto", "cpu", "cuda"), runtime=True)


@dataclass(frozen=True)
class RelearningSettings:
    """The attack: fine-tune on half of the target's facts, score the other half."""

    relearning_draws: int = setting(3, minimum=1)
    """Ways to split the facts, averaged."""
    relearning_steps: int = setting(12, minimum=1)
    relearning_rates: tuple[float, ...] = setting((2e-4, 5e-4), minimum=1e-8, maximum=1.0)
    """Learning rates of the attack; the best of its steps and rates counts."""
    relearning_rank: int = setting(0, minimum=0)
    """Rank of the adapters that the attack trains, on every linear map; 0: all weights but the embeddings."""
    relearning_checkpointing: bool = setting(False, runtime=True)
    """Compute what lies inside a block again for the gradients instead of keeping it: less memory, a pass more."""
    relearning_seed: int = setting(0, minimum=0)
    device: str = setting("auto", choices=("auto", "cpu", "cuda"), runtime=True)


@dataclass(frozen=True)
class ScoreSettings:
    """How intervals are drawn."""

    metrics: tuple[str, ...] = setting((), plugin="evaluation/metrics")
    """Names of metrics; none means all there are."""
    bootstrap_draws: int = setting(2000, minimum=100)
    confidence: float = setting(0.95, minimum=0.5, maximum=0.999)
    score_seed: int = setting(0, minimum=0)


@dataclass(frozen=True)
class StressSettings:
    """A change to a model, after which it is observed again."""

    stress: str = setting("int8", plugin="evaluation/stresses")
    settings: tuple[tuple[str, bool | int | float | str], ...] = setting(())
    """The stress's own settings."""
    stress_seed: int = setting(0, minimum=0)
    device: str = setting("auto", choices=("auto", "cpu", "cuda"), runtime=True)


@dataclass(frozen=True)
class StressesChosen:
    """Under which stresses every model is asked again."""

    stresses: tuple[str, ...] = setting(("int8", "nf4"), plugin="evaluation/stresses")
    stress_seed: int = setting(0, minimum=0)
    device: str = setting("auto", choices=("auto", "cpu", "cuda"), runtime=True)


@dataclass(frozen=True)
class TracingSettings:
    """How far a model's states carry the answers."""

    unknown_entities: int = setting(8, minimum=2)
    """Unknown entities of the target's type whose states stand for knowing nothing."""
    trace_seed: int = setting(0, minimum=0)
    device: str = setting("auto", choices=("auto", "cpu", "cuda"), runtime=True)


@dataclass(frozen=True)
class UtilitySettings:
    """Tasks of lm-evaluation-harness that say what a model is still good for; needs the extra `utility`."""

    utility_tasks: tuple[str, ...] = setting(())
    """Names of tasks, groups or tags; none by default."""
    utility_folder: str = setting("", runtime=True)
    """A folder of tasks of one's own, as YAML with their data below it; what it holds counts, not where it lies."""
    utility_limit: int = setting(0, minimum=0)
    """Examples of each task; 0 for all."""
    utility_shots: int = setting(0, minimum=0)
    """Examples shown before each question."""
    utility_batch: int = setting(8, minimum=1, runtime=True)
    device: str = setting("auto", choices=("auto", "cpu", "cuda"), runtime=True)


@dataclass(frozen=True)
class GradientSettings:
    """How strongly the weights would move to make an answer likelier."""

    gradient_questions: int = setting(48, minimum=1)
    """Questions about neighbours, and about unknown entities, beside all those about the target."""
    gradient_seed: int = setting(0, minimum=0)
    device: str = setting("auto", choices=("auto", "cpu", "cuda"), runtime=True)


@dataclass(frozen=True)
class ViewSettings:
    """The states as latents of the autoencoders."""

    view_seed: int = setting(0, minimum=0)
    """Draws the random latents beside which the selected ones are read."""


@dataclass(frozen=True)
class VerdictSettings:
    """Where each verdict begins, section `[verdict]`; recalls, losses and AUROCs are shares in [0, 1]."""

    base_recall: float = setting(0.5, minimum=0.0, maximum=1.0)
    """Least recall of the target by the base model: below it there was nothing to forget."""
    recall: float = setting(0.1, minimum=0.0, maximum=1.0)
    """Most recall of the target on held-out templates."""
    neighbour_loss: float = setting(0.2, minimum=0.0, maximum=1.0)
    retain_loss: float = setting(0.05, minimum=0.0, maximum=1.0)
    damage_perplexity: float = setting(2.0, minimum=1.0)
    """Most perplexity of general text over the base model's."""
    collapse_perplexity: float = setting(20.0, minimum=1.0)
    collapse_recall: float = setting(0.2, minimum=0.0, maximum=1.0)
    """Least recall of other known entities."""
    degenerate_share: float = setting(0.2, minimum=0.0, maximum=1.0)
    telling_knownness: float = setting(0.8, minimum=0.5, maximum=1.0)
    """Places count where the base model's own knownness of the target reaches so far."""
    knownness: float = setting(0.75, minimum=0.5, maximum=1.0)
    """Most knownness, mean over the places that count."""
    erased: float = setting(0.5, minimum=0.0, maximum=1.0)
    """Least share of the answer erased from the states, beside the gold twin (`uds`)."""
    erased_null: float = setting(0.25, minimum=0.0, maximum=1.0)
    """The same beside unknown entities (`uds_null`), a harsher measure: gold twins themselves reach .3 to .95."""
    relearned: float = setting(0.5, minimum=0.0, maximum=1.0)
    """Most recall after relearning, where no gold twin says what relearning does by itself."""
    relearned_excess: float = setting(0.25, minimum=0.0, maximum=1.0)
    """The same beyond the gold twin's."""
    recovered: float = setting(0.25, minimum=0.0, maximum=1.0)
    """Most recall of the target under any other stress, wrapped prompt or sampling."""
