"""What an experiment is: frozen settings by stage, and which section of a file feeds which of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from storage.records import setting
from tasks.activations.settings import ActivationSettings
from tasks.alignment.settings import AlignmentSettings
from tasks.autoencoder.settings import AutoencoderSettings
from tasks.entities.settings import AskingSettings, LabelSettings, RoleSettings
from tasks.evaluation.settings import (
    GradientSettings,
    ObservationSettings,
    RelearningSettings,
    ScoreSettings,
    StressesChosen,
    TracingSettings,
    UtilitySettings,
    VerdictSettings,
    ViewSettings,
)
from tasks.latents.settings import LatentSettings
from tasks.questions.settings import QuestionSettings
from tasks.reloading.settings import ReloadingSettings
from tasks.report.settings import CardSettings, ReportSettings
from tasks.sources.settings import SourceSettings
from tasks.statements.settings import StatementSettings
from tasks.testbed.settings import PretrainingSettings, WorldSettings

TESTBED = "testbed"
STATEMENTS = "statements"
"""The source whose facts the model states itself."""


@dataclass(frozen=True)
class ModelSettings:
    """Which model is made to forget, section `[model]`."""

    name: str = setting(TESTBED)
    """`testbed`, a small model that is made here; a folder in Hugging Face format; or OWNER/NAME[@REVISION] of a hub."""
    dtype: str = setting("float32", choices=("float32", "bfloat16", "float16"))
    """In which a model other than the testbed's is run and saved again."""
    chat: bool = setting(False)
    """Ask an instruction-tuned model through its chat template: the question is the user's turn, the answer its own."""
    placement: str = setting("one", choices=("one", "spread", "offload"), runtime=True)
    """`one` device; `spread` over all GPUs; `offload`: what does not fit on the device stays in host memory, or on disk."""


@dataclass(frozen=True)
class Experiment:
    """All that one run is asked to do."""

    name: str = "default"
    model: ModelSettings = field(default_factory=ModelSettings)
    data: SourceSettings = field(default_factory=SourceSettings)
    statements: StatementSettings = field(default_factory=StatementSettings)
    world: WorldSettings = field(default_factory=WorldSettings)
    pretraining: PretrainingSettings = field(default_factory=PretrainingSettings)
    asking: AskingSettings = field(default_factory=AskingSettings)
    labels: LabelSettings = field(default_factory=LabelSettings)
    roles: RoleSettings = field(default_factory=RoleSettings)
    activations: ActivationSettings = field(default_factory=ActivationSettings)
    autoencoder: AutoencoderSettings = field(default_factory=AutoencoderSettings)
    latents: LatentSettings = field(default_factory=LatentSettings)
    alignment: AlignmentSettings = field(default_factory=AlignmentSettings)
    questions: QuestionSettings = field(default_factory=QuestionSettings)
    observation: ObservationSettings = field(default_factory=ObservationSettings)
    relearning: RelearningSettings = field(default_factory=RelearningSettings)
    tracing: TracingSettings = field(default_factory=TracingSettings)
    gradients: GradientSettings = field(default_factory=GradientSettings)
    viewing: ViewSettings = field(default_factory=ViewSettings)
    utility: UtilitySettings = field(default_factory=UtilitySettings)
    stresses: StressesChosen = field(default_factory=StressesChosen)
    scoring: ScoreSettings = field(default_factory=ScoreSettings)
    verdict: VerdictSettings = field(default_factory=VerdictSettings)
    report: ReportSettings = field(default_factory=ReportSettings)
    reloading: ReloadingSettings = field(default_factory=ReloadingSettings)
    card: CardSettings = field(default_factory=CardSettings)


SECTIONS: dict[str, tuple[str, ...]] = {
    "model": ("model",),
    "data": ("data", "statements"),
    "testbed": ("world", "pretraining"),
    "entities": ("asking", "labels", "roles"),
    "activations": ("activations",),
    "autoencoder": ("autoencoder",),
    "latents": ("latents",),
    "alignment": ("alignment",),
    "evaluation": (
        "questions",
        "observation",
        "relearning",
        "tracing",
        "gradients",
        "viewing",
        "utility",
        "stresses",
        "scoring",
    ),
    "verdict": ("verdict",),
    "report": ("report",),
    "release": ("reloading", "card"),
}
"""Section of the file -> the parts of an Experiment it feeds."""
