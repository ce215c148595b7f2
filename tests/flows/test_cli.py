"""The command: exit codes, one-line errors, what it prints where."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows import cli, session
from flows.commands.console import print_scores
from flows.evaluate import Assessment
from flows.models import model_at
from storage import runs
from storage.artifacts import StorageError, artifacts_root, building
from storage.records import Asking, LatentStats, QuestionSet, Scorecard, Verdict, to_document
from storage.settings import home
from storage.tables import write_table

pytestmark = pytest.mark.usefixtures("own_home")
ROOT = Path(__file__).parents[2]


def _one_line(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("sae-unlearn: ")
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["rum"], 'Did you mean "run"'),
        (["run", "--nonsense"], "--nonsense"),
        (["run", "defalt"], "did you mean 'default'"),
        (["run", "--set", "alignment.step=3"], "did you mean 'steps'"),
        (["run", "--refresh", "alignmet"], "did you mean 'alignment'"),
        (["run", "--dry-run", "--refresh", "x"], "no stage has that name"),
        (["list", "nothing"], '"methods"'),
        (["run", "quick", "--public"], "give --push-to-hub OWNER/NAME too"),
        (["run", "quick", "--push-to-hub", "x"], "expected OWNER/NAME"),
        (["compare", "--seeds", "one"], "whole numbers parted by commas"),
        (["trust", "--seeds", "0,one"], "whole numbers parted by commas"),
        (["trust", "--targets", "0"], "one number of at least 1, or names"),
        (["compare", "--targets", "3", "--targets", "4"], "one number of at least 1, or names"),
        (["compare", "--methods", "npoo"], "did you mean 'npo'"),
        (["evaluate", "nowhere"], "holds no model"),
        (["why"], "no run was made here yet"),
        (["gc", "--keep-runs", "-1"], "of at least 0"),
        (["ui", "--port", "70000"], "from 1 to 65535"),
    ],
)
def test_wrong_use_is_one_line_and_two(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run_command(arguments) == 2
    assert says in _one_line(capsys)


def test_port_in_use_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert cli.run_command(["ui", "--port", str(taken.getsockname()[1])]) == 2
    assert "--port" in _one_line(capsys)


@pytest.mark.parametrize("home_is", ["below a file", "a file"])
def test_home_that_cannot_be_written_is_one_line(
    home_is: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" if home_is == "a file" else tmp_path / "file" / "home"
    monkeypatch.setenv("SAE_UNLEARN_HOME", str(folder))
    monkeypatch.setenv("PREFECT_HOME", str(folder / "prefect"))
    assert cli.run_command(["run", "quick"]) == 2
    assert "SAE_UNLEARN_HOME" in _one_line(capsys)


def test_full_disk_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def full(*_: object) -> None:
        raise StorageError("cannot write: no space is left on the disk")

    monkeypatch.setattr(runs, "start", full)
    assert cli.run_command(["run", "quick"]) == 2
    assert "no space" in _one_line(capsys)


def test_debugging_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAE_UNLEARN_DEBUG", "1")
    with pytest.raises(ValueError, match="defalt"):
        cli.run_command(["run", "defalt"])


def test_interruption_is_one_line_and_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "notes", interrupt)
    assert cli.run_command(["why"]) == 130
    assert "run the same command again" in _one_line(capsys)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_ends_in_one_line_and_is_noted(number: signal.Signals, tmp_path: Path) -> None:
    environment = {**os.environ, "SAE_UNLEARN_HOME": str(tmp_path / "home")}
    for name in [name for name in environment if name.startswith("PREFECT_")]:
        del environment[name]
    command = [sys.executable, "-m", "flows.cli", "run", "quick"]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A suite that a shell runs in the background has interruptions ignored, and its children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    give_up = time.monotonic() + 120
    while not list((tmp_path / "home").glob("artifacts/.scratch/testbed-*")) and time.monotonic() < give_up:
        assert process.poll() is None, process.communicate()
        time.sleep(0.2)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("sae-unlearn: interrupted")
    assert out == ""
    note = json.loads(next((tmp_path / "home" / "runs").glob("*.json")).read_text())
    assert note["outcome"] == "interrupted"
    assert [(entry["stage"], entry["state"]) for entry in note["stages"]] == [
        ("world", "computed"),
        ("testbed", "interrupted"),
    ]


@pytest.mark.parametrize("what", ["methods", "metrics", "experiments", "stages"])
def test_lists_say_what_can_be_named(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    expected = {"methods": "sae_guided", "metrics": "recall", "experiments": "default", "stages": "alignment"}
    assert cli.run_command(["list", what]) == 0
    assert expected[what] in capsys.readouterr().out


def test_help_teaches_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run_command(["--help"]) == 0
    text = capsys.readouterr().out
    assert "sae-unlearn run" in text
    assert "SAE_UNLEARN_HOME" in text
    assert cli.run_command(["run", "--help"]) == 0
    assert "--dry-run" in capsys.readouterr().out


def test_targets_need_a_model_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run_command(["list", "targets", "--experiment", "quick"]) == 2
    assert "`sae-unlearn run quick` makes it" in _one_line(capsys)


def test_dry_run_computes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run_command(["run", "quick", "--dry-run", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["experiment"] == "quick"
    assert {stage["state"] for stage in document["stages"]} == {"to compute"}
    assert not artifacts_root().exists()


def test_why_tells_the_last_run(capsys: pytest.CaptureFixture[str]) -> None:
    note = runs.start("default", {})
    note.stages = [runs.StageNote("alignment", "key", "computed", 2.0, ("settings.steps: 60 -> 61",))]
    note.outcome = "done"
    runs.save(note)
    assert cli.run_command(["why"]) == 0
    assert "settings.steps: 60 -> 61" in capsys.readouterr().out


def _artifact(stage: str, key: str) -> LatentStats:
    with building(stage, key) as build:
        (build.folder / "file.txt").write_text("x" * 1000)
    record = LatentStats(build.artifact)
    (home() / "results").mkdir(exist_ok=True)
    (home() / "results" / f"{stage}-{key}").write_text(json.dumps({"result": json.dumps(to_document(record))}))
    return record


Flow = Callable[..., object]


@pytest.fixture
def instead(monkeypatch: pytest.MonkeyPatch) -> Callable[[Flow], None]:
    """Puts a flow of the test's in the place of the command's own."""

    def put(flow: Flow) -> None:
        @contextlib.contextmanager
        def opened(*_: object) -> Iterator[tuple[Flow, SimpleNamespace]]:
            yield flow, SimpleNamespace(runs=[runs.StageNote("scores", "key", "cached", 0.0004)])

        monkeypatch.setattr(session, "session", opened)

    return put


@pytest.mark.parametrize("command", ["compare", "trust"])
@pytest.mark.parametrize("seeds", [["--seeds", "0,2"], ["--seeds", "0", "--seeds", "2"]])
@pytest.mark.parametrize(
    ("targets", "names", "count"),
    [(["--targets", "5"], None, 5), (["--targets", "Q5", "--targets", "7"], ["Q5", "7"], 0)],
)
def test_targets_and_seeds_are_read_alike(
    instead: Callable[[Flow], None],
    capsys: pytest.CaptureFixture[str],
    command: str,
    seeds: list[str],
    targets: list[str],
    names: list[str] | None,
    count: int,
) -> None:
    given: list[object] = []

    def flow(*arguments: object) -> SimpleNamespace:
        given.extend(arguments)
        print("a library's own words")
        tables: dict[str, Any] = {name: [] for name in ("summary", "metrics", "verdicts", "paired")}
        return SimpleNamespace(**tables, folder=Path("kept"), failures=(), cells=0, tracked="")

    instead(flow)
    assert cli.run_command([command, *seeds, *targets, "--set", "verdict.recall=0.3", "--json"]) == 0
    assert given[0] == "default"
    place = given.index(count)
    assert given[place - 1 : place + 3] == [names, count, [0, 2], ["verdict.recall=0.3"]]
    captured = capsys.readouterr()
    assert json.loads(captured.out)["folder"] == "kept"
    assert "a library's own words" in captured.err


def _sealed(stage: str, rows: list[dict[str, object]]) -> Any:
    with building(stage, "key") as build:
        write_table(build.folder / f"{stage}.parquet", {name: [row[name] for row in rows] for name in rows[0]})
    return build.artifact


COMMIT = "0123456789abcdef" * 2 + "01234567"


def test_model_of_a_hub_is_named_by_its_commit(
    instead: Callable[[Flow], None], capsys: pytest.CaptureFixture[str]
) -> None:
    score = {"metric": "recall", "split": "forget", "site": "", "model": "unlearned", "value": 0.5, "state": "ok"}
    evidence = [{"metric": "rank", "decided": False}, {"metric": "recall", "decided": True}]
    card = Scorecard(_sealed("scores", [score, score | {"model": "gold", "value": 0.25}]))
    verdict = Verdict(_sealed("verdict", evidence), "not forgotten")

    def flow(model: str, *_: object) -> Assessment:
        found = model_at(f"{model}@{COMMIT}")  # As if that were what its main branch stands for.
        return Assessment(found, QuestionSet(card.artifact, 1, Asking("exact")), (), card, verdict)

    instead(flow)
    assert cli.run_command(["evaluate", "someone/model", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["model"] == f"someone/model@{COMMIT}"
    assert [(row["value"], row["base"], row["gold"]) for row in document["scores"]] == [(0.5, None, 0.25)]
    assert [row["metric"] for row in document["verdict"]["evidence"]] == ["recall", "rank"]
    assert document["stages"] == [{"stage": "scores", "key": "key", "state": "cached", "seconds": 0.0, "reasons": []}]


def test_terminal_shows_the_deepest_layer(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"metric": "knownness_auroc", "split": "forget", "value": 0.5, "low": 0.4, "high": 0.6}
    row |= {"base": 0.9, "gold": 0.5, "better": "toward 0.5", "state": "ok"}
    print_scores([row | {"site": f"residual_{layer}@prompt_last"} for layer in (10, 2)], "title")
    out = capsys.readouterr().out
    assert "residual_10@" in out
    assert "residual_2@" not in out


def _noted(key: str, outcome: str = "done") -> None:
    note = runs.start("default", {})
    note.stages, note.outcome = [runs.StageNote("latents", key, "computed", 1.0)], outcome
    runs.save(note)


def test_gc_keeps_what_recent_runs_used_and_says_how_much_goes(capsys: pytest.CaptureFixture[str]) -> None:
    for key in ("old", "new"):
        _artifact("latents", key)
        _noted(key)
    (home() / "results" / "latents-broken").write_text("{")
    (artifacts_root() / ".scratch" / "latents-key-999999999-abcdef").mkdir()
    assert cli.run_command(["gc", "--keep-runs", "1", "--dry-run"]) == 0
    planned = capsys.readouterr().out
    assert "would be freed" in planned
    assert "latents/old" in planned
    assert (artifacts_root() / "latents" / "old").exists()
    assert cli.run_command(["gc", "--keep-runs", "1"]) == 0
    assert sorted(path.name for path in (artifacts_root() / "latents").iterdir()) == ["new"]
    assert [path.name for path in (home() / "results").iterdir()] == ["latents-new"]
    assert not list((artifacts_root() / ".scratch").iterdir())


def test_gc_counts_only_runs_that_were_done() -> None:
    for key, outcome in (("good", "done"), ("half", "interrupted"), ("wrong", "failed: no such target")):
        _artifact("latents", key)
        _noted(key, outcome)
    _artifact("latents", "unused")
    assert cli.run_command(["gc", "--keep-runs", "1"]) == 0
    assert sorted(path.name for path in (artifacts_root() / "latents").iterdir()) == ["good", "half", "wrong"]


def test_gc_leaves_artifacts_alone_while_a_run_is_under_way() -> None:
    _artifact("latents", "unused")
    _noted("other", outcome="running")
    with building("latents", "under-way") as build:
        assert cli.run_command(["gc", "--keep-runs", "0"]) == 0
        assert build.folder.exists()
    assert (artifacts_root() / "latents" / "unused").exists()


def test_gc_takes_what_a_killed_run_left() -> None:
    _artifact("latents", "unused")
    note = runs.start("default", {})
    note.process = 999999999
    runs.save(note)
    assert cli.run_command(["gc", "--keep-runs", "0"]) == 0
    assert not (artifacts_root() / "latents" / "unused").exists()


def test_doctor_finds_a_broken_artifact(capsys: pytest.CaptureFixture[str]) -> None:
    record = _artifact("latents", "key")
    assert cli.run_command(["doctor", "--deep"]) == 0
    capsys.readouterr()
    path = artifacts_root() / "latents" / record.artifact.key / "file.txt"
    status = path.stat()
    path.write_text("y" * 1000)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert cli.run_command(["doctor"]) == 0
    assert cli.run_command(["doctor", "--deep"]) == 1
    assert "changed content" in capsys.readouterr().out


def test_a_name_alone_is_a_run_that_is_pushed_where_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    monkeypatch.setattr("flows.commands.forget.changes_for", lambda *named: given.extend(named) or ("made",))
    monkeypatch.setattr(cli, "run", lambda experiment, **rest: given.extend([experiment, rest]) or 0)
    command = ["forget", "Ann Bell", "--model", "folder", "--push-to-hub", "me/mine", "--public", "--set", "a.b=1"]
    assert cli.run_command(command) == 0
    rest = {"changes": ("made",), "dry_run": False, "push_to_hub": "me/mine", "public": True, "as_json": False}
    assert given == ["Ann Bell", "folder", "person", "default", ("a.b=1",), "default", rest]
