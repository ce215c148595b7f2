"""Several targets: together or in turn all are forgotten, and what can be done to a model only once is refused."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from storage.artifacts import building
from storage.records import Asking, ForgetSet, UsageError
from storage.tables import write_table
from tasks.alignment.material import gather_material
from tasks.alignment.method import Edit, Group, Method, Start
from tasks.alignment.methods.likelihood.grad_diff import GradDiff
from tasks.alignment.passes import compute
from tasks.alignment.settings import AlignmentSettings
from tasks.alignment.task import _forget_in_turn, _turns
from tasks.alignment.terms import answer_log_probability
from tasks.alignment.training import align_model
from tasks.models.intervention import Intervention, attached, from_autoencoder
from tasks.models.load import LoadedModel

TARGETS = ("Ada Berg", "Lund")
TOGETHER, IN_TURN = [TARGETS], [("Ada Berg",), ("Lund",)]


@dataclass(frozen=True)
class Clamp(Edit):
    """Some latents are set to -1 at every pass."""

    needs: ClassVar = {"forget": frozenset({"states"})}

    def edit(self, start: Start) -> Intervention:
        site = start.given.sites[0]
        return from_autoencoder(start.given.autoencoders[site], site, [0, 1, 2, 3], "clamp", strength=1.0)


def forgotten(small: Any, method: Method, turns: Sequence[Sequence[str]], **changes: Any) -> tuple[LoadedModel, Any]:
    student, settings = small.model(), small.settings(**changes)
    return student, _forget_in_turn(student, small.facts, method, turns, small.autoencoders, small.latents, settings)


def likelihood(small: Any, student: LoadedModel, target: str) -> float:
    """Mean log-probability of a target's answers, nats."""
    material = gather_material(student, small.facts, GradDiff(), small.settings(), [target])
    rows = material.groups["forget"]
    with torch.no_grad():
        forward = compute(student, rows, (), states=False, answers=True)
    return float(answer_log_probability(Group(rows, forward, None), forward).mean())


@pytest.mark.parametrize("turns", [TOGETHER, IN_TURN], ids=["together", "in turn"])
def test_all_targets_are_forgotten(small: Any, turns: Sequence[Sequence[str]]) -> None:
    steps = 40 // len(turns)
    student, history = forgotten(small, GradDiff(), turns, steps=steps, learning_rate=5e-3)
    assert len(history) == 40
    for target in TARGETS:
        assert likelihood(small, student, target) < likelihood(small, small.model(), target) - 1.5


def test_one_alone_is_forgotten_more_than_the_other(small: Any) -> None:
    """What a turn trains on is its own target."""
    student, _ = forgotten(small, GradDiff(), [("Lund",)], steps=10, learning_rate=1e-3)
    fall = {target: likelihood(small, small.model(), target) - likelihood(small, student, target) for target in TARGETS}
    assert fall["Lund"] > 1.5 * fall["Ada Berg"]


def test_a_turn_begins_where_the_last_ended(small: Any) -> None:
    student, history = forgotten(small, GradDiff(), IN_TURN, steps=3)
    by_hand, settings, expected = small.model(), small.settings(steps=3), []
    for targets in IN_TURN:
        material = gather_material(by_hand, small.facts, GradDiff(), settings, targets)
        expected += align_model(by_hand, GradDiff(), material, small.autoencoders, small.latents, settings).history
    assert history == expected
    assert all(torch.equal(a, b) for a, b in zip(student.model.state_dict().values(), by_hand.model.state_dict().values(), strict=True))  # fmt: skip


def test_adapters_are_merged_after_each_turn(small: Any) -> None:
    student, history = forgotten(small, GradDiff(), IN_TURN, steps=2, train="lora", learning_rate=1e-2)
    assert len(history) == 4
    assert set(student.model.state_dict()) == set(small.model().model.state_dict())
    one, _ = forgotten(small, GradDiff(), IN_TURN[:1], steps=2, train="lora", learning_rate=1e-2)
    changed = [not torch.equal(a, b) for a, b in zip(student.model.state_dict().values(), one.model.state_dict().values(), strict=True)]  # fmt: skip
    assert any(changed), "the second turn changed something too"


def test_a_turn_that_stops_early_leaves_fewer_steps(small: Any, caplog: pytest.LogCaptureFixture) -> None:
    student = small.model()
    tokens = {name: small.tokenizer.encode(name, add_special_tokens=False)[0] for name in ("Lund", "Ada", "Zol", "Vex")}
    weight: Any = student.embeddings.weight.data
    weight[tokens["Lund"]] = (weight[tokens["Zol"]] + weight[tokens["Vex"]]) / 2
    weight[tokens["Ada"]] = torch.linspace(-3, 3, 16)
    settings = small.settings(steps=6, stop="unknown", stop_interval=1, learning_rate=1e-7)
    with caplog.at_level(logging.INFO, logger="sae_unlearn"):
        history = _forget_in_turn(
            student, small.facts, GradDiff(), IN_TURN, small.autoencoders, small.latents, settings
        )
    assert len(history) == 6 + 2
    assert [each for each in caplog.messages if "stopped" in each] == ["alignment     stopped after 2 of 6 steps"]


def test_an_edit_at_every_pass_is_made_once(small: Any) -> None:
    for turns in (TOGETHER, IN_TURN[1:]):
        student, history = forgotten(small, Clamp(), turns)
        assert history == []
        found = attached(student.model)
        assert found is not None
        assert found.latents == (0, 1, 2, 3)


def test_an_edit_at_every_pass_in_turn_is_refused(small: Any) -> None:
    student = small.model()
    settings = small.settings(method="clamp", order="sequence")
    with pytest.raises(UsageError, match=r"order = \"sequence\" forgets in 2 turns") as refused:
        _forget_in_turn(student, small.facts, Clamp(), IN_TURN, small.autoencoders, small.latents, settings)
    assert "\n" not in str(refused.value)
    assert "method 'clamp'" in str(refused.value)
    assert 'use order = "together", or one target' in str(refused.value)
    assert attached(student.model) is None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"order": "together"}, [("Q1", "Q7", "Q8")]),
        ({"order": "sequence"}, [("Q1",), ("Q7",), ("Q8",)]),
        ({"order": "sequence", "window": 2}, [("Q1", "Q7"), ("Q8",)]),
    ],
    ids=["together", "in turn", "in windows"],
)
def test_the_door_makes_turns_of_the_roles(
    own_home: Path, changes: dict[str, Any], expected: list[tuple[str, ...]]
) -> None:
    roles = {"entity": ["Q1", "Q3", "Q7", "Q8"], "role": ["target", "retain", "target", "target"]}
    with building("targets", "made", {}) as build:
        write_table(build.folder / "roles.parquet", roles)
    forget_set = ForgetSet(build.artifact, ("Ada", "Lund", "Bo"), Asking("exact"))
    assert _turns(forget_set, AlignmentSettings(**changes)) == expected
