"""The command `sae-unlearn trust`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from flows.commands.console import print_json
from flows.config import flat_settings, load_experiment
from flows.session import session
from storage.records import UsageError


def trust(
    *,
    targets: Annotated[tuple[str, ...], Parameter(negative="")] = ("8",),
    seeds: tuple[int, ...] = (0, 1),
    experiment: str = "default",
    changes: Annotated[tuple[str, ...], Parameter(name="--set", negative="")] = (),
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Measure and judge models whose knowledge is known beforehand: which metric to trust, is the verdict right?

    Base models and suppressed and retaught ones hold the knowledge, gold twins do not, overtrained ones are broken.
    Example: `sae-unlearn trust --targets 8 --seeds 0 --seeds 1` (about half an hour on two cores). Broken off, it
    goes on where it was.

    Parameters
    ----------
    targets
        How many of the candidates, or names (`--targets NAME --targets NAME`).
    seeds
        Of the pretraining: each gives a base model and a gold twin of its own.
    experiment
        Whose world, settings and thresholds.
    changes
        `section.key=value`, changes to the experiment.
    as_json
        End with one JSON object on stdout.
    """
    chosen = load_experiment(experiment, changes)
    count = int(targets[0]) if len(targets) == 1 and targets[0].isdigit() else 0
    if count < 1 and all(name.isdigit() for name in targets):
        raise UsageError(f"--targets {' '.join(targets)}: expected a number of at least 1 or names; e.g. --targets 8")
    with session("trust", f"trust-{chosen.name}", flat_settings(chosen)) as (flow, _):
        found = flow(experiment, None if count else list(targets), count, list(seeds), list(changes))
    from flows.trust import metric_table, verdict_table

    if as_json:
        print_json({"metrics": found.metrics, "verdicts": found.verdicts, "folder": str(found.folder)})
    else:
        print(f"{verdict_table(found.verdicts)}\n\n{metric_table(found.metrics)}\n\nkept in {found.folder}")
    return 0
