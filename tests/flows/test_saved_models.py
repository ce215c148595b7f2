"""A model saved by the run, read in a fresh process by transformers alone, scores as it did in the run."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from flows import cli
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


def test_the_release_is_the_model_with_its_cards(ran: tuple[Outcome, Journal]) -> None:
    outcome = ran[0]
    target = outcome.subject.forget_set.targets[0]
    folder, made = folder_of(outcome.released.artifact), folder_of(outcome.unlearned.artifact) / "model"
    files = {path.name: path for path in (folder / "model").iterdir()}
    assert set(files) == {"README.md", *(path.name for path in made.iterdir())}
    assert all(path.read_bytes() == files[path.name].read_bytes() for path in made.iterdir())
    assert files["model.safetensors"].samefile(made / "model.safetensors"), "no second copy"
    card = files["README.md"].read_text()
    assert target in card
    assert outcome.assessment.verdict.verdict in card
    assert target not in (folder / "published.md").read_text()


def test_a_run_pushes_its_model_in_private_with_the_card_that_names_nobody(
    ran: tuple[Outcome, Journal], hub: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    secret = "hf_the_secret_of_this_test"
    assert cli.run_command(["run", "quick", "--push-to-hub", "me/without"]) == 2
    assert "no token was given" in capfd.readouterr().err
    hub.writers[secret] = ("me",)
    monkeypatch.setenv("HF_TOKEN", secret)
    for _ in range(2):
        assert cli.run_command(["run", "quick", "--push-to-hub", "me/without", "--json"]) == 0
        captured = capfd.readouterr()
        assert secret not in captured.out + captured.err
        document = json.loads(captured.out)
        assert {stage["state"] for stage in document["stages"]} == {"cached"}
        assert document["pushed"].startswith(f"{hub.address}/me/without/commit/")
    repository = hub.repositories["model", "me/without"]
    assert repository.private
    assert len(repository.messages) == 1, "what is there is not sent again"
    arrived = repository.commits[repository.references["main"]]
    assert (arrived / "README.md").read_text() == (folder_of(ran[0].released.artifact) / "published.md").read_text()
    assert (arrived / "model.safetensors").is_file()
