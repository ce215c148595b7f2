"""The `sae-unlearn` command. Heavy libraries are imported by the command that needs them, never by this file."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import cyclopts
from cyclopts import App, Parameter, validators

from flows.commands.bench import bench
from flows.commands.compare import compare
from flows.commands.cost import cost
from flows.commands.options import AsJson, Changes, DryRun, stdout_kept_for_json
from flows.commands.publishing import Public, PushTo, check_push, push
from flows.commands.trust import trust
from flows.session import debugging, start_logging
from storage.artifacts import ArtifactMissing, StorageError
from storage.records import UsageError

EXPECTED = (UsageError, ArtifactMissing, StorageError)
"""Errors that say all there is to say in one line."""

app = App(
    name="sae-unlearn",
    help="""Make a language model forget an entity, inside the network and not only in its answers.

    First run (embedded model and data, no network, no GPU):

        sae-unlearn run

    Then:

        sae-unlearn list targets                            # who can be forgotten
        sae-unlearn run --set 'entities.targets=["NAME"]'   # forget someone else; shared stages are reused
        sae-unlearn forget "Some Name" --model FOLDER_OR_HUB_ID   # by a model of your own
        sae-unlearn run --dry-run                           # what would be computed, and why
        sae-unlearn compare --methods sae_guided,npo        # methods side by side
        sae-unlearn ui                                      # every run, in MLflow

    State is kept in $SAE_UNLEARN_HOME, or `.sae-unlearn` in the working folder.
    """,
    help_format="plaintext",
    version_flags=["--version"],
    suppress_keyboard_interrupt=False,
    result_action="return_value",
)


@app.command
def run(
    experiment: str = "default",
    *,
    changes: Changes = (),
    dry_run: DryRun = False,
    refresh: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = (),
    throughput: Annotated[float, Parameter(validator=validators.Number(gt=0))] = 200.0,
    push_to_hub: PushTo = "",
    public: Public = False,
    as_json: AsJson = False,
) -> int:
    """Run an experiment; what was computed before is not computed again.

    Examples: `sae-unlearn run` is the demo; `sae-unlearn run quick` takes seconds;
    `sae-unlearn run my.toml --set alignment.method=npo --set alignment.settings.beta=0.2`.

    Parameters
    ----------
    experiment
        A name (`sae-unlearn list experiments`) or a TOML file.
    dry_run
        Compute nothing; say which stages would be, and why; of a model of your own also what memory and time they need.
    refresh
        A stage to compute anew although its result is there.
    throughput
        For that estimate: tera-operations a second that the device reaches.
    """
    from flows.config import flat_settings, load_experiment
    from flows.stages import check_stages

    chosen, anew = load_experiment(experiment, changes), check_stages(refresh)
    if dry_run:
        return _foresee(chosen, anew, throughput, as_json)

    from flows.session import session

    check_push(push_to_hub, public)
    with stdout_kept_for_json(as_json):
        with session("unlearn", chosen.name, flat_settings(chosen), anew) as (unlearn, log):
            outcome = unlearn(experiment, list(changes))
        from flows.results import made_by

        made = made_by(outcome)
        if push_to_hub:
            made["pushed"] = push(outcome, push_to_hub, public)
    from flows.commands.console import print_run, print_scores, print_verdict

    if as_json:
        print_run(chosen.name, log.runs, made)
    else:
        names = ", ".join(outcome.subject.forget_set.targets)
        print_scores(made["scores"], f"{names}, forgotten with {chosen.alignment.method}")
        print_verdict(made["verdict"])
        print(
            f"report   {made['report']}\nmodel    {made['model']}\nruns     sae-unlearn ui   (this one: {made['mlflow_run']})"
        )
        if push_to_hub:
            print(f"pushed   {made['pushed']}")
    return 0


@app.command
def forget(
    name: str,
    *,
    model: str,
    type: Annotated[Literal["person", "work", "place"], Parameter(name="--type")] = "person",
    experiment: str = "default",
    changes: Changes = (),
    dry_run: DryRun = False,
    push_to_hub: PushTo = "",
    public: Public = False,
    as_json: AsJson = False,
) -> int:
    """Make a model forget somebody by name alone.

    Example: `sae-unlearn forget "Some Name" --model OWNER/NAME --set model.dtype=bfloat16`.
    The facts are those of the built-in Wikidata table where the name is there; else what the model itself states
    confidently, which the run and the report say. With a file of facts: `--set data.source=facts_file --set data.path=FILE`.

    Parameters
    ----------
    name
        As it is usually written.
    model
        A folder as transformers saves it, or a hub id OWNER/NAME[@REVISION].
    type
        What the name is, where it is not in the table.
    experiment
        All else: method, layers, what is measured.
    dry_run
        Compute nothing; say which stages would be, and why.
    """
    from flows.commands.forget import changes_for

    asked = changes_for(name, model, type, experiment, changes)
    done = run(experiment, changes=asked, dry_run=dry_run, push_to_hub=push_to_hub, public=public, as_json=as_json)
    return int(done)


@app.command
def evaluate(
    model: str, *, experiment: str = "default", gold: bool = True, changes: Changes = (), as_json: AsJson = False
) -> int:
    """Score and judge a model made elsewhere, beside the base model and the gold twin of an experiment.

    Example: `sae-unlearn evaluate path/to/model --experiment default`.

    Parameters
    ----------
    model
        A folder as transformers saves it (config.json, safetensors, tokenizer), or a hub id OWNER/NAME[@REVISION].
    experiment
        Whose world, base model, targets and questions.
    gold
        Whether the gold twin is the reference; without, what needs one is said to be missing.
    """
    from flows.config import flat_settings, load_experiment
    from flows.session import session

    chosen = load_experiment(experiment, changes)
    running = session("evaluate", f"evaluate-{chosen.name}", flat_settings(chosen))
    with stdout_kept_for_json(as_json), running as (flow, log):
        assessment = flow(model, experiment, list(changes), gold)
    from flows.commands.console import print_run, print_scores, print_verdict
    from flows.models import address_of
    from flows.results import score_rows, verdict_document

    scores, verdict = score_rows(assessment.scorecard), verdict_document(assessment.verdict)
    if as_json:
        made = {"scores": scores, "verdict": verdict, "model": address_of(assessment.model)}
        print_run(chosen.name, log.runs, made)
    else:
        print_scores(scores, f"{model}, beside the models of '{chosen.name}'")
        print_verdict(verdict)
    return 0


@app.command(name="list")
def list_(
    what: Literal["methods", "metrics", "stresses", "experiments", "targets", "stages"],
    *,
    experiment: str = "default",
    changes: Changes = (),
) -> int:
    """List the methods, metrics, stresses, experiments, targets or stages there are.

    Example: `sae-unlearn list targets` names the entities that the demo's model knows and can be made to forget.

    Parameters
    ----------
    experiment
        For `targets`: whose model is meant.
    """
    from flows.commands import listing

    if what == "targets":
        listing.print_targets(experiment, changes)
    else:
        listing.print_names(what)
    return 0


@app.command
def why(experiment: str | None = None, *, changes: Changes = ()) -> int:
    """Say of each stage whether it was cached or computed, and which part of its key differed.

    Example: `sae-unlearn why` explains the last run; `sae-unlearn why default` what a run would do now.
    """
    from flows.commands.console import print_stages

    if experiment is not None:
        from flows.config import load_experiment

        chosen = load_experiment(experiment, changes)
        print_stages(_plan(chosen, frozenset()), f"A run of '{chosen.name}' would do")
        return 0
    from storage import runs

    note = next(iter(runs.notes()), None)
    if note is None:
        raise UsageError(
            "no run was made here yet; `sae-unlearn run` makes one, `sae-unlearn why EXPERIMENT` explains what it would do"
        )
    print_stages(note.stages, f"The run of '{note.name}' that began {note.started} ({note.outcome})")
    return 0


@app.command
def ui(*, port: int = 5000) -> int:
    """Show every run in MLflow's pages, at an address of this machine only. Ctrl-C ends it."""
    from flows.commands.upkeep import serve_tracking

    return serve_tracking(port)


@app.command
def gc(*, keep_runs: int = 10, dry_run: DryRun = False) -> int:
    """Remove leavings of killed runs, results whose files are gone, and artifacts that no recent run used.

    Parameters
    ----------
    keep_runs
        How many of the newest runs keep all that they used.
    dry_run
        Remove nothing; say what would go.
    """
    from flows.commands.upkeep import collect

    return collect(keep_runs, dry_run)


@app.command
def doctor(*, deep: Annotated[bool, Parameter(negative="", show_default=False)] = False) -> int:
    """Check that everything a run needs is there; every finding names its remedy.

    Parameters
    ----------
    deep
        Also read every file of every artifact and compare it with its digest.
    """
    from flows.commands.doctor import examine

    return examine(deep)


for _command in (compare, trust, bench, cost):
    app.command(_command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit: 0 done, 1 a check failed, 2 wrong use or storage, 130 interrupted."""
    signal.signal(signal.SIGTERM, _terminated)
    sys.exit(run_command(arguments))


def run_command(arguments: Sequence[str] | None = None) -> int:
    start_logging()
    try:
        given = list(sys.argv[1:] if arguments is None else arguments)
        result = app(given, exit_on_error=False, print_error=False)
        return result if isinstance(result, int) else 0
    except cyclopts.CycloptsError as error:
        return _fail(f"{str(error).rstrip('.')} (see `sae-unlearn --help`, `sae-unlearn COMMAND --help`)")
    except KeyboardInterrupt:
        return _fail("interrupted; run the same command again to go on from the last whole stage", 130)
    except Exception as error:
        from flows.server import ServerUnavailable

        if debugging() or not isinstance(error, (*EXPECTED, ServerUnavailable)):
            raise
        return _fail(str(error))


def _terminated(*_: object) -> None:
    """A `kill` is an interruption: what we started is ended, and the run is noted."""
    raise KeyboardInterrupt


def _fail(message: str, code: int = 2) -> int:
    print(f"sae-unlearn: {' '.join(message.split())}", file=sys.stderr, flush=True)
    return code


def _foresee(experiment: Any, refresh: frozenset[str], throughput: float, as_json: bool) -> int:
    from flows.commands.console import print_estimate, print_run, print_stages
    from flows.estimate import estimate
    from flows.experiment import TESTBED

    needs: dict[str, Any] = {}
    if experiment.model.name != TESTBED:
        needs = {"estimate": estimate(experiment, throughput)}
        if not as_json:
            print_estimate(needs["estimate"])
    stages = _plan(experiment, refresh)
    if as_json:
        print_run(experiment.name, stages, needs)
    else:
        print_stages(stages, f"A run of '{experiment.name}' would do")
    return 0


def _plan(experiment: Any, refresh: frozenset[str]) -> list[Any]:
    from storage.settings import configure_environment

    configure_environment()
    from flows.unlearn import unlearn_chain
    from tasks.caching import journal

    with journal(planning=True, refresh=refresh) as log:
        unlearn_chain(experiment)
    return log.runs


if __name__ == "__main__":
    main()
