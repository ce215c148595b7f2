"""The command `sae-unlearn compare`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from cyclopts import Parameter, validators

from flows.commands.options import (
    AsJson,
    Changes,
    DryRun,
    Seeds,
    Targets,
    names_or_count,
    stdout_kept_for_json,
    whole_numbers,
)

ACROSS = 6
"""Methods beside each other in a printed table."""


def compare(
    *,
    methods: Annotated[str, Parameter(help="Names, parted by commas; all when left out.")] = "",
    targets: Targets = ("3",),
    seeds: Seeds = ("0",),
    trials: Annotated[int, Parameter(validator=validators.Number(gte=0))] = 0,
    validation: Annotated[int, Parameter(validator=validators.Number(gte=1))] = 2,
    tails: Annotated[str, Parameter(help="Kinds of world, parted by commas; the experiment's own when left out.")] = "",
    add: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = (),
    experiment: str = "default",
    changes: Changes = (),
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> int:
    """Run every method on every target with every seed, and print one table with intervals.

    Example: `sae-unlearn compare --methods sae_guided,npo --targets 5 --seeds 0,1`. Broken off, it goes on
    where it was.

    Parameters
    ----------
    seeds
        Seeds of the alignment, parted by commas.
    trials
        How often each method's settings are tried before, on other targets; 0 takes every method's defaults.
    validation
        On how many other targets they are tried.
    add
        A folder that another part of this comparison left, on whatever machine: its cells and its tuning are taken as
        they are. Can be given several times.
    experiment
        Everything that the cells share.
    dry_run
        Compute nothing; say how many cells, trials and stages would be computed.
    """
    from flows.config import flat_settings, load_experiment
    from flows.session import session
    from tasks.catalogue import module_of

    chosen = load_experiment(experiment, changes)
    asked = [name.strip() for name in methods.split(",") if name.strip()]
    for method in asked:
        module_of("alignment/methods", method)
    (names, count), numbers = names_or_count(targets), whole_numbers(seeds, "--seeds")
    worlds = [tail.strip() for tail in tails.split(",") if tail.strip()] or None
    if dry_run:
        return _foresee(
            (experiment, asked, names, count, numbers, list(changes), trials, validation, worlds),
            add,
            chosen.name,
            as_json,
        )
    running = session("compare", f"compare-{chosen.name}", flat_settings(chosen))
    with stdout_kept_for_json(as_json), running as (flow, log):
        result = flow(
            experiment, asked or None, names, count, numbers, list(changes), trials, validation, worlds, list(add)
        )
    from flows.commands.console import print_run
    from flows.comparing.comparison import pivot

    if as_json:
        made = {
            name: getattr(result, name) for name in ("cells", "summary", "verdicts", "paired", "failures", "tracked")
        }
        made["folder"] = str(result.folder)
        print_run(chosen.name, log.runs, made)
    else:
        print_turned(*pivot(result.summary, result.verdicts, result.paired), f"{result.cells} cells of '{chosen.name}'")
        print(f"as Markdown, Parquet and figure: {result.folder}")
        if result.tracked:
            print(f"a run a cell: sae-unlearn ui, experiment '{result.tracked}'")
    return 1 if result.failures else 0


def print_turned(scores: Sequence[str], by_method: Sequence[Sequence[str]], title: str) -> None:
    """Scores down and methods across, a few at a time: a table of many scores fits no terminal."""
    from flows.commands.console import print_table

    for start in range(0, len(by_method), ACROSS):
        header, *lines = zip(scores, *by_method[start : start + ACROSS], strict=True)
        print_table(header, lines, title="" if start else title, numbers=header[1:])


def _foresee(given: Sequence[Any], parts: Sequence[str], name: str, as_json: bool) -> int:
    """Print how much of a comparison, given as to `flows.comparing.cells.wanted`, is there and how much is to be computed."""
    import dataclasses

    from flows.commands.console import print_json, print_table
    from flows.comparing.cells import wanted
    from flows.comparing.planning import plan_comparison

    with stdout_kept_for_json(as_json):
        plan = plan_comparison(wanted(*given), parts)
    if as_json:
        print_json({"experiment": name, **dataclasses.asdict(plan)})
        return 0
    lines = [(each.stage, str(each.cached), str(each.to_compute), "; ".join(each.reasons)) for each in plan.stages]
    header = ("stage", "cached", "to compute", "because")
    print_table(header, lines, title=f"A comparison of '{name}', as far as it can be foreseen", numbers=header[1:3])
    print(f"{plan.cells} cells: {plan.cached} cached, {plan.cells - plan.cached} to compute")
    if plan.trials:
        there, number = sum(each.cached for each in plan.trials), sum(each.trials for each in plan.trials)
        print(
            f"{number} trials of {len(plan.trials)} methods: {there} cached, {number - there} to compute; what each tries "
            "hangs on the scores of those before"
        )
    if plan.unforeseen:
        why = "settings of a trial yet to come" if plan.trials else "targets that the model has to be asked for"
        print(f"the table leaves out {plan.unforeseen} cells with {why}, and the trials themselves")
    return 0
