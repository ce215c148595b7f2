"""`--push-to-hub`: asked before a run whether it can be done, done after the verdict."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from storage.artifacts import folder_of
from storage.records import UsageError

PushTo = Annotated[
    str,
    Parameter(
        name="--push-to-hub",
        negative="",
        show_default=False,
        help="OWNER/NAME of a hub's repository to which the model goes with its card once it is judged, whatever the "
        "verdict; in private. The token is that in HF_TOKEN.",
    ),
]
Public = Annotated[
    bool,
    Parameter(negative="", show_default=False, help="With --push-to-hub: to a repository that everyone can see."),
]


def check_push(name: str, public: bool) -> None:
    """That the push can be done, before hours of work. Raises: UsageError."""
    if public and not name:
        raise UsageError("--public says who may see what is pushed, and nothing is; give --push-to-hub OWNER/NAME too")
    if name:
        from tasks.models.release.push import check_destination

        check_destination(name)


def push(outcome: Any, name: str, public: bool) -> str:
    """Push the run's model with the card that is meant for a hub; the commit's address. Raises: UsageError."""
    from flows.results import model_folder
    from tasks.models.release.push import push_model

    verdict, method = outcome.assessment.verdict.verdict, outcome.unlearned.method
    card = folder_of(outcome.released.artifact) / "published.md"
    return push_model(model_folder(outcome), card, name, public=public, message=f"{method}: {verdict}")
