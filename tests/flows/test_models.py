"""A model is placed as the run at hand wants it, whatever the run wanted that made its record."""

from dataclasses import replace
from typing import Any

from flows.experiment import Experiment, ModelSettings
from flows.models import placed
from storage.records import ModelRef
from tasks.caching import Pending


def test_a_cached_record_is_placed_anew_and_a_pending_one_is_left() -> None:
    offloading = Experiment(model=ModelSettings("owner/name", placement="offload"))
    spread = ModelRef("hub", "owner/name", placement="spread")
    assert placed(spread, offloading) == replace(spread, placement="offload")
    pending: Any = Pending("alignment")
    assert placed(pending, offloading) is pending
