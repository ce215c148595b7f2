"""Names that MLflow would refuse are made fit."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from storage import tracking_names


@pytest.mark.parametrize(
    ("make", "parts", "name"),
    [
        (
            tracking_names.safe_name,
            ("unlearned", "testbed small: Ä/b", "google/gemma"),
            "unlearned-testbed-small-b-google-gemma",
        ),
        (
            tracking_names.metric_name,
            ("inside", "knownness_auroc_residual_1@name_last"),
            "inside/knownness_auroc_residual_1_name_last",
        ),
        (tracking_names.latest_of, ("a.b/c",), "latest-a-b-c"),
        (tracking_names.experiment_name, ("testbed small", "google/gemma-2b"), "testbed small, google-gemma-2b"),
    ],
)
def test_names_are_made_fit(make: Callable[..., str], parts: tuple[str, ...], name: str) -> None:
    assert make(*parts) == name
