"""What the loader is told of a model, and what of it is in no key."""

from dataclasses import replace

from storage.keys import canonical
from storage.records import ModelRef
from storage.weights import loading_of


def test_the_loader_is_told_of_the_placement_and_no_key_is() -> None:
    model = ModelRef("hub", "owner/name", "c0ffee", dtype="bfloat16")
    offloaded = replace(model, placement="offload")
    assert loading_of(offloaded) == loading_of(model) | {"placement": "offload"}
    assert loading_of(model)["placement"] == "one"
    assert canonical(offloaded) == canonical(model)
