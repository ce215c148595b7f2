"""Names of plugins, and what is said of one that is not there."""

from __future__ import annotations

import pytest

from storage.records import UsageError
from tasks import catalogue


def test_plugin_is_the_class_in_the_file_of_its_name() -> None:
    for name in catalogue.names("alignment/methods"):
        assert catalogue.load("alignment/methods", name).__module__.endswith(f".{name}")


def test_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="no method is named 'sae_guide'; did you mean 'sae_guided'"):
        catalogue.module_of("alignment/methods", "sae_guide")


def test_remedy_lists_few_of_many_names() -> None:
    remedy = catalogue.did_you_mean("zzz", [f"name {index}" for index in range(4000)])
    assert remedy.endswith("and 3985 more")
    assert len(remedy) < 300
    assert catalogue.did_you_mean("zzz", ["one", "two"]) == "known: one, two"
