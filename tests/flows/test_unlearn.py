"""The whole chain in little, once; then what a second run computes, and what it does not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from flows import cli
from flows.comparing.cells import candidates
from flows.config import load_experiment
from flows.evaluate import evaluate
from flows.results import score_rows
from flows.stages import OPTIONAL, STAGES
from flows.unlearn import Outcome, unlearn, unlearn_chain
from storage import keys
from storage.artifacts import folder_of
from storage.records import to_document
from storage.tables import read_table
from tasks import catalogue
from tasks.caching import Journal, journal

CACHED, TO_COMPUTE = "cached", "to compute"
ROOT = Path(__file__).parents[2]
JUDGED = ["scores", "verdict", "report", "release", "tracking"]
FROM_OBSERVATIONS = [*JUDGED[:3], "reloading", *JUDGED[3:]]
ASKED = ["observations", "population", "relearning", "traces", "gradients", "views"]
ALIGNED = ["alignment", *ASKED, *["stressed", "observations", "traces", "views"] * 2, *FROM_OBSERVATIONS]
"""What a change of the alignment computes anew: nothing of base and gold."""


def _plan(*overrides: str) -> list[tuple[str, str]]:
    with journal(planning=True) as log:
        unlearn_chain(load_experiment("quick", overrides))
    return [(run.stage, run.state) for run in log.runs]


def _computed(plan: list[tuple[str, str]]) -> list[str]:
    return [stage for stage, state in plan if state == TO_COMPUTE]


def test_first_run_computes_every_stage(ran: tuple[Outcome, Journal]) -> None:
    _, log = ran
    assert {run.state for run in log.runs} == {"computed"}
    order = list(dict.fromkeys(run.stage for run in log.runs))
    assert order == [stage for stage in STAGES if stage not in OPTIONAL]


def test_second_run_computes_nothing(ran: tuple[Outcome, Journal]) -> None:
    outcome, _ = ran
    with journal() as log:
        again = unlearn("quick")
    assert {run.state for run in log.runs} == {CACHED}
    assert again == outcome


def test_scores_cover_the_models_and_the_splits(ran: tuple[Outcome, Journal]) -> None:
    outcome, _ = ran
    rows = score_rows(outcome.assessment.scorecard)
    recall = {row["split"]: row for row in rows if row["metric"] == "recall"}
    assert {"forget", "retain"} <= set(recall)
    assert all(0 <= row[name] <= 1 for row in recall.values() for name in ("value", "base", "gold"))
    assert (folder_of(outcome.report.artifact) / "report.html").stat().st_size > 10_000


def test_every_kind_of_metric_applies_again_under_stress(ran: tuple[Outcome, Journal]) -> None:
    rows = read_table(folder_of(ran[0].assessment.scorecard.artifact) / "scores.parquet")
    under = {metric for metric, model in zip(rows["metric"], rows["model"], strict=True) if model == "unlearned+int8"}
    assert {"recall", "attack_recall", "knownness_auroc", "uds", "logit_lens", "latent_reemergence"} <= under


def test_changed_learning_rate_recomputes_alignment_and_what_follows(ran: tuple[Outcome, Journal]) -> None:
    assert _computed(_plan("alignment.learning_rate=0.0021")) == ALIGNED


@pytest.mark.parametrize("change", ["entities.known_relations=1", "entities.label_seed=5"])
def test_new_labels_read_and_encode_nothing_again(ran: tuple[Outcome, Journal], change: str) -> None:
    computed = _computed(_plan(change))
    assert not {"answers", "activations", "autoencoder", "latents"} & set(computed)
    assert "entities" in computed


def test_new_target_reuses_the_models_and_the_autoencoders(ran: tuple[Outcome, Journal]) -> None:
    outcome, _ = ran
    table = read_table(folder_of(outcome.subject.entities.artifact) / "entities.parquet")
    other = candidates(table)[-1]["entity"]
    computed = _computed(_plan(f"entities.targets={other}"))
    assert computed[:3] == ["targets", "selection", "alignment"]
    assert not {"world", "testbed", "entities", "activations", "autoencoder", "latents"} & set(computed)
    assert computed.count("population") == 1, "where known and unknown entities lie in base and gold, no target changes"


def test_any_model_takes_the_testbeds_place_without_a_twin(ran: tuple[Outcome, Journal]) -> None:
    outcome, _ = ran
    base = outcome.subject.models.base
    assert base.artifact is not None
    folder = folder_of(base.artifact) / base.location
    with journal() as log:
        own = unlearn(
            "quick", [f"model.name={folder}", "entities.asking=exact", "alignment.steps=2", "evaluation.stresses=[]"]
        )
    assert own.subject.models.gold is None
    assert "testbed" not in {run.stage for run in log.runs}
    rows = {(row["metric"], row["split"]): row for row in score_rows(own.assessment.scorecard)}
    assert rows["recall", "forget"]["base"] == pytest.approx(1.0)
    assert rows["js_gold", "forget"]["state"] == "missing_reference"


def test_device_and_batch_size_recompute_nothing(ran: tuple[Outcome, Journal]) -> None:
    assert _computed(_plan("alignment.device=cpu", "evaluation.token_budget=1024")) == []


@pytest.fixture
def edited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the sources that the keys are computed from."""
    shutil.copytree(ROOT / "tasks", tmp_path / "tasks", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(keys, "PROJECT", tmp_path)
    return tmp_path / "tasks"


def _edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000))


def test_comment_and_docstring_recompute_nothing(ran: tuple[Outcome, Journal], edited: Path) -> None:
    for path in edited.rglob("*.py"):
        path.write_text(f"{path.read_text()}\n# a comment more\n")
    assert _computed(_plan()) == []


def test_edited_method_recomputes_only_those_who_use_it(ran: tuple[Outcome, Journal], edited: Path) -> None:
    path = next(edited.rglob("npo.py"))
    path.write_text(
        path.read_text()
        .replace("return Loss", "return 2 * Loss")
        .replace("    def loss(", "    EDITED = 1\n\n    def loss(")
    )
    assert _computed(_plan()) == []
    path = next(edited.rglob("sae_guided.py"))
    _edit(path, "    def loss(", "    EDITED = 1\n\n    def loss(")
    assert _computed(_plan()) == ALIGNED


def test_new_metric_runs_no_model(ran: tuple[Outcome, Journal], edited: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = edited / "evaluation/metrics/behaviour"
    text = (folder / "rank.py").read_text()
    (folder / "another_rank.py").write_text(text.replace("class Rank", "class AnotherRank"))
    monkeypatch.setattr(catalogue, "TASKS", edited)
    assert _computed(_plan()) == JUDGED


def test_edited_metric_runs_no_model(ran: tuple[Outcome, Journal], edited: Path) -> None:
    _edit(edited / "evaluation/metrics/behaviour/rank.py", "np.log10", "np.log2")
    assert _computed(_plan()) == JUDGED


def test_changed_threshold_only_judges_anew(ran: tuple[Outcome, Journal]) -> None:
    assert _computed(_plan("verdict.recall=0.3")) == JUDGED[1:]


def test_scoring_imports_no_torch(ran: tuple[Outcome, Journal]) -> None:
    """The scores of the run again, from its stored observations, where torch and transformers cannot be imported."""
    outcome, _ = ran
    program = """
import sys
sys.modules |= dict.fromkeys(("torch", "transformers", "sae_lens"))
from storage.records import from_document
import json
from tasks.evaluation import task
class Build:
    def __enter__(self):
        from pathlib import Path
        import tempfile
        self.folder = Path(tempfile.mkdtemp()); self.artifact = None
        return self
    def __exit__(self, *_):
        from storage.tables import read_table
        print(len(read_table(self.folder / "scores.parquet")["metric"]))
task.new_artifact = Build
task.Scorecard = lambda artifact: None
read = lambda text: from_document(json.loads(text))
from tasks.evaluation.settings import ScoreSettings
task.score.function(read(sys.argv[1]), read(sys.argv[2]), read(sys.argv[3]), ScoreSettings(bootstrap_draws=200))
"""
    documents = [
        json.dumps(to_document(record))
        for record in (outcome.subject.world, outcome.subject.forget_set, outcome.assessment.observed)
    ]
    found = subprocess.run(
        [sys.executable, "-c", program, *documents],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ,
        check=False,
    )
    assert found.returncode == 0, found.stderr[-2000:]
    rows = read_table(folder_of(outcome.assessment.scorecard.artifact) / "scores.parquet")
    assert int(found.stdout) == len(rows["metric"])


def test_command_prints_one_json_object(ran: tuple[Outcome, Journal], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run_command(["run", "quick", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {stage["state"] for stage in document["stages"]} == {CACHED}
    assert {"metric", "split", "value", "low", "high", "better", "state"} <= set(document["scores"][0])
    assert (Path(document["model"]) / "config.json").is_file()
    assert Path(document["report"]).is_file()
    assert document["mlflow_run"] == ran[0].tracked.run_id


def test_command_prints_a_table_for_people(ran: tuple[Outcome, Journal], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run_command(["run", "quick"]) == 0
    out = capsys.readouterr().out
    assert ran[0].subject.forget_set.targets[0] in out
    assert "report.html" in out
    assert "sae-unlearn ui" in out
    assert cli.run_command(["why"]) == 0
    assert "cached" in capsys.readouterr().out
    assert cli.run_command(["list", "targets", "--experiment", "quick"]) == 0
    assert ran[0].subject.forget_set.targets[0] in capsys.readouterr().out


def test_mistake_found_inside_a_stage_is_one_line(
    ran: tuple[Outcome, Journal], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run_command(["run", "quick", "--set", "entities.targets=Nobody of that name"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    lines = captured.err.splitlines()
    assert lines[-1].startswith("sae-unlearn: ")
    assert "Nobody of that name" in lines[-1]
    assert [line for line in lines if "Nobody of that name" in line] == lines[-1:]


def test_model_in_a_folder_is_scored_like_the_one_it_is_a_copy_of(ran: tuple[Outcome, Journal], tmp_path: Path) -> None:
    outcome, _ = ran
    model = folder_of(outcome.unlearned.artifact) / outcome.unlearned.model.location
    shutil.copytree(model, tmp_path / "copy")
    assessment = evaluate(str(tmp_path / "copy"), "quick")
    copy, own = (
        {(row["metric"], row["split"], row["site"]): row["value"] for row in score_rows(card)}
        for card in (assessment.scorecard, outcome.assessment.scorecard)
    )
    assert copy == pytest.approx(own, nan_ok=True)


def test_model_without_a_gold_twin_beside_it_is_judged_without(ran: tuple[Outcome, Journal], tmp_path: Path) -> None:
    outcome, _ = ran
    model = folder_of(outcome.unlearned.artifact) / outcome.unlearned.model.location
    shutil.copytree(model, tmp_path / "copy")
    assessment = evaluate(str(tmp_path / "copy"), "quick", with_gold=False)
    rows = score_rows(assessment.scorecard)
    missing = {row["metric"] for row in rows if row["state"] == "missing_reference"}
    assert {"js_gold", "forget_quality", "uds", "privacy_leak"} <= missing
    assert all(row["gold"] is None for row in rows)
    assert assessment.verdict.verdict


def test_model_in_a_folder_is_read_in_the_type_that_the_experiment_says(
    ran: tuple[Outcome, Journal], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome, _ = ran
    shutil.copytree(folder_of(outcome.unlearned.artifact) / outcome.unlearned.model.location, tmp_path / "copy")
    seen: list[str] = []
    for name in ("prepare", "look_inside", "check_model"):
        monkeypatch.setattr(f"flows.evaluate.{name}", lambda *_: SimpleNamespace(models=SimpleNamespace(base=None)))
    monkeypatch.setattr("flows.evaluate.assess", lambda _, __, model, *___, **____: seen.append(model.dtype))
    for dtype in ("float32", "bfloat16"):
        evaluate.fn(str(tmp_path / "copy"), "quick", [f"model.dtype={dtype}"])
    assert seen == ["float32", "bfloat16"]


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        ("no model", "holds no model"),
        ("weights", "no *.safetensors"),
        ("config", "cannot be read"),
        ("tokenizer", "another tokenizer"),
        ("width", "of width"),
    ],
)
def test_model_that_cannot_be_judged_is_one_line(
    ran: tuple[Outcome, Journal], tmp_path: Path, capsys: pytest.CaptureFixture[str], harm: str, message: str
) -> None:
    folder = tmp_path / "model"
    if harm != "no model":
        shutil.copytree(folder_of(ran[0].unlearned.artifact) / ran[0].unlearned.model.location, folder)
    if harm == "weights":
        next(folder.glob("*.safetensors")).unlink()
    elif harm == "config":
        (folder / "config.json").write_text("{")
    elif harm == "tokenizer":
        document = json.loads((folder / "tokenizer.json").read_text())
        vocabulary = document["model"]["vocab"]
        last = max(vocabulary, key=vocabulary.get)
        vocabulary["nonsense"] = vocabulary.pop(last)
        document["model"]["merges"] = [
            pair
            for pair in document["model"]["merges"]
            if "".join(pair if isinstance(pair, list) else pair.split()) != last
        ]
        (folder / "tokenizer.json").write_text(json.dumps(document))
    elif harm == "width":
        document = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(document | {"hidden_size": 2 * document["hidden_size"]}))
    assert cli.run_command(["evaluate", str(folder), "--experiment", "quick"]) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert message in captured.err.splitlines()[-1]
