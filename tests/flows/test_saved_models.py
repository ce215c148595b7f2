"""A model saved by the run, read in a fresh process by transformers alone, scores as it did in the run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flows.config import load_experiment
from flows.unlearn import Outcome
from storage.artifacts import folder_of
from storage.records import ReloadedModel, UnlearnedModel, UsageError
from storage.tables import read_table
from tasks.alignment.task import align
from tasks.caching import Journal
from tasks.evaluation.task import observe_model
from tasks.reloading.task import reload


def table_of(record: ReloadedModel) -> Any:
    return read_table(folder_of(record.artifact) / "reloading.parquet")


def test_full_weights(ran: tuple[Outcome, Journal]) -> None:
    outcome = ran[0]
    table = table_of(outcome.reloaded)
    assert outcome.reloaded.reader == "plain transformers"
    assert outcome.reloaded.questions == len(table["question"]) >= 8
    assert {"forget", "retain"} <= set(table["split"])
    assert table["reloaded"] == pytest.approx(table["observed"], abs=1e-4)
    assert np.isnan(table["adapter"]).all()
    assert not (folder_of(outcome.unlearned.artifact) / "adapter").exists()
    observed = outcome.assessment.of("base").observations
    before = read_table(folder_of(observed.artifact) / "answers.parquet")
    known = dict(zip(before["question"], before["log_probability"], strict=True))
    changed = [
        abs(known[question] - value) for question, value in zip(table["question"], table["reloaded"], strict=True)
    ]
    assert max(changed) > 0.1, "it is not the base model that was scored"


def aligned(outcome: Outcome, *changes: str) -> UnlearnedModel:
    subject, insight = outcome.subject, outcome.insight
    settings = load_experiment("quick", ["alignment.steps=4", *changes]).alignment
    return align(subject.models.base, subject.world, subject.forget_set, insight.sae, insight.selection, settings)


def test_lora_merged_and_as_an_adapter(ran: tuple[Outcome, Journal]) -> None:
    outcome = ran[0]
    made = aligned(outcome, "alignment.train=lora", "alignment.keep_adapter=true", "alignment.learning_rate=0.01")
    experiment, questions = load_experiment("quick"), outcome.assessment.questions
    observations = observe_model(made.model, outcome.subject.world, questions, experiment.observation)
    base = outcome.subject.models.base
    table = table_of(reload(base, made, questions, observations, experiment.reloading))
    assert table["reloaded"] == pytest.approx(table["observed"], abs=1e-4)
    assert table["adapter"] == pytest.approx(table["observed"], abs=1e-3)
    names = {path.name for path in (folder_of(made.artifact) / "adapter").iterdir()}
    assert names == {"adapter_model.safetensors", "adapter_config.json"}
    with pytest.raises(UsageError, match=r"scores .* of .* answers otherwise than the run did"):
        reload(base, made, questions, outcome.assessment.of("base").observations, experiment.reloading)


def test_an_adapter_is_kept_of_a_method_that_trains_one(ran: tuple[Outcome, Journal]) -> None:
    with pytest.raises(UsageError, match="method 'clamp' trains nothing"):
        aligned(ran[0], "alignment.method=clamp", "alignment.train=lora", "alignment.keep_adapter=true")


def test_keeping_an_adapter_asks_for_one() -> None:
    with pytest.raises(UsageError, match='only train = "lora" makes an adapter, given train = "weights"'):
        load_experiment("quick", ["alignment.train=weights", "alignment.keep_adapter=true"])
