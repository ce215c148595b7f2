"""Runs in a local MLflow store whose path has a space: found again, completed, refilled, their model loadable."""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from storage import tracking, tracking_store
from storage.records import UsageError
from storage.tracking import Dataset, FlatRun, Metric, RunContent, TrackingError, write_flat_runs, write_run

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with its tables made: MLflow takes seconds for that."""
    folder = tmp_path_factory.mktemp("store") / "mlflow"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAE_UNLEARN_HOME", str(folder.parent))
        tracking_store.store_identity()
        tracking._quieten()
        client().search_experiments()
    return folder


@pytest.fixture
def home(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "a home"
    monkeypatch.setenv("SAE_UNLEARN_HOME", str(folder))
    shutil.copytree(empty_store, folder / "mlflow")
    return folder


def client() -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=tracking.tracking_uri(), registry_uri=tracking.tracking_uri())


@pytest.fixture
def content(tmp_path: Path) -> RunContent:
    model = tmp_path / "a model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "report.html").write_text("<p>a page</p>")
    return RunContent(
        experiment="a world, a model",
        name="method · Name",
        summary="It forgot.",
        description="**It forgot.**",
        key="a" * 32,
        content="b" * 32,
        tags={"method": "method", "state/forget/recall": "saturated"},
        parameters={"alignment.seed": "0", "evaluation.draws": "200"},
        scores=[Metric("forget/recall", 0.25), Metric("inside/knownness_auroc_residual_1_name_last", 0.5)],
        curves=[Metric("train/total", 1.0 / (step + 1), step) for step in range(1200)],
        datasets=[Dataset("a world", "0123456789ab", tmp_path / "questions.parquet", "retain")],
        files=[(tmp_path / "report.html", "")],
        model=model,
        registered_model="unlearned-a-world",
        method="method",
        verdict="forgotten",
    )


def the_only_run(experiment: str = "a world, a model") -> Any:
    found = client().get_experiment_by_name(experiment)
    runs = client().search_runs([found.experiment_id])
    assert len(runs) == 1
    return runs[0]


def test_a_run_is_written_whole(home: Path, content: RunContent) -> None:
    written = write_run(content)
    run = the_only_run()
    assert run.info.run_id == written.run_id
    assert run.info.status == "FINISHED"
    assert run.data.params == dict(content.parameters)
    assert run.data.metrics["forget/recall"] == 0.25
    assert run.data.tags["key"] == content.key
    assert [each.dataset.digest for each in run.inputs.dataset_inputs] == ["0123456789ab"]
    assert len(client().get_metric_history(written.run_id, "train/total")) == 1200
    paths = {entry.path for entry in client().list_artifacts(written.run_id)}
    assert paths == {"report.html", "model"}
    assert (home / "mlflow" / "artifacts").is_dir()
    assert run.info.artifact_uri.startswith((home / "mlflow" / "artifacts").as_uri())


def test_writing_twice_changes_nothing(home: Path, content: RunContent) -> None:
    first = write_run(content)
    assert write_run(content) == first
    run = the_only_run()
    assert len(client().get_metric_history(run.info.run_id, "train/total")) == 1200
    assert len(client().get_metric_history(run.info.run_id, "forget/recall")) == 1
    assert len(run.inputs.dataset_inputs) == 1
    assert len(client().search_model_versions("name = 'unlearned-a-world'")) == 1


def test_a_run_cut_off_is_completed(home: Path, content: RunContent, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tracking, "_write_model", killed)
        with pytest.raises(KeyboardInterrupt):
            write_run(content)
    cut_off = the_only_run()
    assert cut_off.info.status == "RUNNING"
    written = write_run(content)
    assert written.run_id == cut_off.info.run_id
    assert the_only_run().info.status == "FINISHED"
    assert written.version == "models:/unlearned-a-world/1"


def test_a_failure_marks_the_run_failed(home: Path, content: RunContent, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(tracking, "_register", fails)
    with pytest.raises(RuntimeError, match="no"):
        write_run(content)
    assert the_only_run().info.status == "FAILED"


def test_another_evaluation_of_the_same_model_updates_its_run(home: Path, content: RunContent) -> None:
    write_run(content)
    again = dataclasses.replace(
        content,
        scores=[Metric("forget/recall", 0.125)],
        tags={"method": "method"},
        parameters={"alignment.seed": "0", "evaluation.draws": "999", "evaluation.extra": "1"},
    )
    write_run(again)
    run = the_only_run()
    assert run.data.metrics["forget/recall"] == 0.125
    assert run.data.params == {"alignment.seed": "0", "evaluation.draws": "200", "evaluation.extra": "1"}
    assert run.data.tags["now/evaluation.draws"] == "999"
    assert "state/forget/recall" not in run.data.tags


def test_other_weights_are_another_run_and_version(home: Path, content: RunContent) -> None:
    first = write_run(content)
    second = write_run(dataclasses.replace(content, content="c" * 32))
    assert first.run_id != second.run_id
    assert second.version == "models:/unlearned-a-world/2"
    assert client().get_model_version_by_alias("unlearned-a-world", "latest-method").version in (2, "2")
    write_run(content)
    assert client().get_model_version_by_alias("unlearned-a-world", "latest-method").version in (2, "2")


def aliases() -> dict[str, int]:
    found = client().get_registered_model("unlearned-a-world").aliases
    return {alias: int(version) for alias, version in found.items()}


def test_aliases_follow_what_the_versions_were_judged(home: Path, content: RunContent) -> None:
    write_run(content)
    assert aliases() == {"latest-method": 1, "champion": 1}
    second = dataclasses.replace(content, content="c" * 32, method="npo", verdict="hidden", summary="It hides.")
    write_run(second)
    assert aliases() == {"latest-method": 1, "latest-npo": 2, "champion": 1}
    client().set_registered_model_alias("unlearned-a-world", "mine", "1")
    write_run(content)
    write_run(second)
    assert aliases() == {"latest-method": 1, "latest-npo": 2, "champion": 1, "mine": 1}, "a second time"
    write_run(dataclasses.replace(second, verdict="forgotten", summary="It forgot."))
    assert aliases()["champion"] == 2
    told = client().get_model_version("unlearned-a-world", "2")
    assert (told.tags["verdict"], told.description) == ("forgotten", "It forgot.")
    for each in (content, second):
        write_run(dataclasses.replace(each, verdict="damaged"))
    assert aliases() == {"latest-method": 1, "latest-npo": 2, "mine": 1}, "no champion is left"


def test_a_changed_card_is_sent_again(home: Path, content: RunContent) -> None:
    (content.model / "README.md").write_text("hidden..")
    written = write_run(content)
    (content.model / "README.md").write_text("damaged.")
    write_run(content)
    folder = Path(client().download_artifacts(written.run_id, "model"))
    assert (folder / "README.md").read_text() == "damaged."


def test_a_deleted_store_is_another_one(home: Path) -> None:
    before = tracking_store.store_identity()
    assert tracking_store.store_identity() == before
    shutil.rmtree(home / "mlflow")
    after = tracking_store.store_identity()
    assert after != before
    assert tracking_store.store_identity() == after


def test_the_identity_stays_when_the_store_fills(home: Path, content: RunContent) -> None:
    before = tracking_store.store_identity()
    write_run(content)
    assert tracking_store.store_identity() == before


def test_deleted_artifacts_are_refilled_too(home: Path, content: RunContent) -> None:
    first = write_run(content)
    before = tracking_store.store_identity()
    shutil.rmtree(home / "mlflow" / "artifacts")
    assert tracking_store.store_identity() != before
    assert write_run(content) == first
    folder = Path(client().download_artifacts(first.run_id, "model"))
    assert (folder / "model.safetensors").read_bytes() == b"weights"


def test_the_registered_model_loads_with_plain_transformers(
    home: Path, content: RunContent, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from mlflow.artifacts import download_artifacts
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    model = LlamaForCausalLM(config).eval()
    model.save_pretrained(content.model)
    write_run(content)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking.tracking_uri())
    folder = download_artifacts("models:/unlearned-a-world@latest-method")
    loaded = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokens = torch.arange(8)[None]
    with torch.no_grad():
        assert torch.equal(loaded(tokens).logits, model(tokens).logits)


def flat(number: int, **changed: Any) -> FlatRun:
    return dataclasses.replace(
        FlatRun(
            key=f"{number:032x}",
            name=f"npo · {number}",
            tags={"method": "npo", "verdict": "hidden"},
            parameters={"method": "npo", "learning_rate": "0.001"},
            metrics={"forget/recall": number / 8, "balance": 0.5},
        ),
        **changed,
    )


def flat_runs(experiment: str = "comparison x") -> dict[str, Any]:
    """Name -> run; no two of one key."""
    found = client().search_runs([client().get_experiment_by_name(experiment).experiment_id])
    assert len({run.data.tags["key"] for run in found}) == len(found)
    return {run.info.run_name: run for run in found}


def test_a_table_becomes_a_run_a_line(home: Path) -> None:
    assert write_flat_runs("comparison x", [flat(0), flat(1, failed=True)]) == 2
    runs = flat_runs()
    assert set(runs) == {"npo · 0", "npo · 1"}
    first = runs["npo · 0"]
    assert first.data.metrics == {"forget/recall": 0.0, "balance": 0.5}
    assert first.data.params == {"method": "npo", "learning_rate": "0.001"}
    assert {"method": "npo", "verdict": "hidden", "key": f"{0:032x}"}.items() <= first.data.tags.items()
    assert (first.info.status, runs["npo · 1"].info.status) == ("FINISHED", "FAILED")
    assert not client().list_artifacts(first.info.run_id)
    assert not client().search_registered_models()


def test_a_table_is_not_written_twice(home: Path) -> None:
    lines = [flat(number, metrics={"balance": math.nan, "perplexity": math.inf}) for number in range(3)]
    assert write_flat_runs("comparison x", lines) == 3
    assert write_flat_runs("comparison x", lines) == 0
    run = flat_runs()["npo · 1"]
    assert math.isnan(run.data.metrics["perplexity"]), "a store keeps no infinity"
    assert len(client().get_metric_history(run.info.run_id, "balance")) == 1


def test_a_changed_line_updates_its_own_run(home: Path) -> None:
    write_flat_runs("comparison x", [flat(0), flat(1), flat(2)])
    before = {name: run.info.run_id for name, run in flat_runs().items()}
    changed = flat(
        1,
        tags={"method": "npo", "verdict": "forgotten"},
        metrics={"forget/recall": 0.125, "balance": 0.75},
        parameters={"method": "npo", "learning_rate": "0.002", "beta": "1"},
    )
    assert write_flat_runs("comparison x", [flat(0), changed, flat(2), flat(3)]) == 2
    runs = flat_runs()
    assert {name: runs[name].info.run_id for name in before} == before
    run = runs["npo · 1"]
    assert (run.data.metrics["balance"], run.data.tags["verdict"]) == (0.75, "forgotten")
    assert run.data.params == {"method": "npo", "learning_rate": "0.001", "beta": "1"}
    assert run.data.tags["now/learning_rate"] == "0.002"
    assert len(client().get_metric_history(run.info.run_id, "forget/recall")) == 1
    write_flat_runs("comparison x", [flat(1, parameters={"learning_rate": "0.001"})])
    assert flat_runs()["npo · 1"].data.tags["now/learning_rate"] == "0.001"


def test_a_table_cut_off_is_completed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", killed)
        with pytest.raises(KeyboardInterrupt):
            write_flat_runs("comparison x", [flat(0), flat(1)])
    cut_off = flat_runs()["npo · 0"]
    assert cut_off.info.status == "RUNNING"
    assert write_flat_runs("comparison x", [flat(0), flat(1)]) == 2
    completed = flat_runs()["npo · 0"]
    assert completed.info.run_id == cut_off.info.run_id
    assert (completed.info.status, completed.data.metrics["balance"]) == ("FINISHED", 0.5)


def test_a_table_longer_than_a_page_is_found_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    search = MlflowClient.search_runs
    monkeypatch.setattr(
        MlflowClient,
        "search_runs",
        lambda self, ids, max_results, page_token=None: search(self, ids, "", 1, 2, None, page_token),
    )
    lines = [flat(number) for number in range(5)]
    assert write_flat_runs("comparison x", lines) == 5
    assert write_flat_runs("comparison x", lines) == 0


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("https://me:secret@runs.example/path?token=1", "https://runs.example/path"),
        ("postgresql://me:secret@host:5432/mlflow", "postgresql://host:5432/mlflow"),
        ("sqlite:////a home/mlflow.db", "sqlite:////a home/mlflow.db"),
    ],
)
def test_an_address_is_shown_without_its_secrets(given: str, shown: str) -> None:
    assert tracking_store.public_address(given) == shown


def test_a_server_that_is_not_there_is_said_at_once(
    home: Path, content: RunContent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9/")
    with pytest.raises(TrackingError, match="run the experiment again") as error:
        write_run(content)
    assert "secret" not in str(error.value)
    assert tracking_store.store_identity() == "http://127.0.0.1:9/"


def test_a_store_that_is_no_database_is_refused_in_one_line(home: Path, content: RunContent) -> None:
    (home / "mlflow" / "mlflow.db").write_bytes(b"this is not a database, however long it is made" * 100)
    with pytest.raises(TrackingError) as error:
        write_run(content)
    assert "\n" not in str(error.value)


def test_the_pages_are_served_without_secrets_in_the_command(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:secret@host/mlflow")
    command = tracking_store.serve_command(5001)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert not any("secret" in part for part in command)
    environment = tracking_store.serve_environment()
    assert environment["MLFLOW_BACKEND_STORE_URI"] == "postgresql://me:secret@host/mlflow"
    assert environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://runs.example")
    with pytest.raises(UsageError, match=r"https://runs\.example"):
        tracking_store.serve_command(5001)


def test_what_a_cached_run_calls_imports_no_mlflow(home: Path) -> None:
    code = (
        "import sys; from storage import tracking, tracking_store; import tasks.report.task; tracking_store.store_identity();"
        "tracking_store.public_address(); heavy = {'mlflow', 'torch', 'matplotlib'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ), timeout=120)
