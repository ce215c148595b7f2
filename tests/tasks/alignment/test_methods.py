"""Every method of the folder keeps the contract, in the loop that trains it; what each computes is in its own test."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import math
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from flows.config import load_experiment
from storage.records import Site, UsageError
from tasks import catalogue
from tasks.alignment import training
from tasks.alignment.examples import Rows
from tasks.alignment.method import GROUPS, Edit, Forward, Method, Trained
from tasks.alignment.methods.preference.idk import IDK
from tasks.alignment.training import Aligned

FOLDER = "alignment/methods"
NAMES = catalogue.names(FOLDER)
ASKED = {"states", "answers", "reference states", "reference answers"}
ASKED_OF_FORGET = {"unknown answers", "restored answers"}
CONFIDENCE = ("code", "text", "second-hand", "reconstructed", "ours")
SITES = (Site(1), Site(2))
"""Those that have an autoencoder."""
PADDING = -7.0
"""What stands at positions that do not count."""


def kind_of(name: str) -> type[Method]:
    return catalogue.load(FOLDER, name)


def settings_of(name: str) -> dict[str, dataclasses.Field[Any]]:
    """The method's own settings by name."""
    kind: Any = kind_of(name)
    return {entry.name: entry for entry in dataclasses.fields(kind)}


TRAINED = [name for name in NAMES if issubclass(kind_of(name), Trained)]
EDITS = [name for name in NAMES if issubclass(kind_of(name), Edit)]


def module_of(name: str) -> Any:
    return importlib.import_module(catalogue.module_of(FOLDER, name))


@dataclass(frozen=True, eq=False)
class Run:
    """A model before and after a method."""

    method: Method
    before: dict[str, Tensor]
    after: dict[str, Tensor]
    aligned: Aligned
    model: Any
    seeds: list[Any]
    """Of the generators that were made on the way."""

    @property
    def changed(self) -> set[str]:
        return {name for name, value in self.before.items() if not torch.equal(value, self.after[name])}


@pytest.fixture(scope="session")
def run(small: Any) -> Callable[..., Run]:
    """run(name, seed=0, again=False) -> two steps of a method on rows that are the same for every seed."""

    @cache
    def made(name: str, seed: int = 0, again: bool = False) -> Run:
        method = kind_of(name)()
        material = small.material(method, small.settings())
        before = dict(small.model().model.state_dict())
        with pytest.MonkeyPatch.context() as patch:
            seeds = seeds_seen(patch)
            loaded, aligned = small.align(method, material, small.settings(seed=seed))
        return Run(method, before, dict(loaded.model.state_dict()), aligned, loaded, seeds)

    return made


def seeds_seen(patch: pytest.MonkeyPatch) -> list[Any]:
    """Grows with every seed that a generator is given."""
    seeds: list[Any] = []
    default_rng = np.random.default_rng

    class Noting(torch.Generator):
        def manual_seed(self, seed: int) -> torch.Generator:
            seeds.append(seed)
            return super().manual_seed(seed)

    patch.setattr(torch, "Generator", Noting)
    patch.setattr(np.random, "default_rng", lambda seed=None: seeds.append(seed) or default_rng(seed))  # type: ignore[func-returns-value]
    return seeds


def test_folders_hold_what_they_say() -> None:
    assert {"grad_diff", "npo", "rmu", "sae_guided", "residual_guided"} <= set(TRAINED)
    assert {Path(inspect.getfile(kind_of(name))).parent.name for name in NAMES} >= {
        "likelihood",
        "latent",
    }


@pytest.mark.parametrize("name", NAMES)
def test_defaults_construct_and_declare_what_is_read(name: str) -> None:
    method = kind_of(name)()
    assert isinstance(method, Trained) != isinstance(method, Edit)
    assert set(method.needs) <= set(GROUPS)
    assert set(method.reads) <= set(method.needs), "reads is needs, less what has no weight"
    for group, asked in method.needs.items():
        assert isinstance(asked, frozenset)
        assert asked <= ASKED | (ASKED_OF_FORGET if group == "forget" else set())
        assert method.reads.get(group, frozenset()) <= asked
    if "unknown answers" in method.reads.get("forget", ()):
        assert method.references > 0, "whose answers?"
    assert method.alternatives == 1 or "alternative" in method.needs
    if isinstance(method, Trained):
        assert "forget" in method.reads or "refusal" in method.reads or "alternative" in method.reads
        assert method.trains in ("weights", "down_projections", "lora", "edit")
        assert method.reach >= 0
        assert 0 < method.learning_rate <= 1
    for key, entry in settings_of(name).items():
        assert entry.metadata, f"{key} is no setting(...): an experiment file could not check it"


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_setting_is_refused_with_a_suggestion(name: str) -> None:
    own = list(settings_of(name))
    wrong = f"{own[0]}x" if own else "typo"
    with pytest.raises(UsageError) as refused:
        load_experiment("default", [f"alignment.method={name}", f"alignment.settings.{wrong}=1"])
    message = str(refused.value)
    assert "\n" not in message
    assert f"alignment.settings.{wrong}" in message
    expected = rf"did you mean .*'{own[0]}'" if own else f"method '{name}' has no settings of its own; remove it"
    assert re.search(expected, message), message


@pytest.mark.parametrize("name", TRAINED)
def test_the_loss_is_finite_and_named(name: str, run: Callable[..., Run]) -> None:
    history = run(name).aligned.history
    assert len(history) == 2
    assert all(math.isfinite(value) for parts in history for value in parts.values())
    assert all(set(parts) > {"total"} for parts in history), "the parts of the loss have names"
    assert (run(name).aligned.intervention is not None) == (run(name).method.trains == "edit")
    assert all(bool(value.isfinite().all()) for value in run(name).after.values())


def may_change(run: Run) -> set[str]:
    """Names of the parameters that a method says it trains."""
    method, loaded = run.method, run.model
    assert isinstance(method, Trained)
    last = SITES[-1].layer
    blocks = set(range(len(loaded.blocks)))
    if method.reach:
        blocks = set(range(max(0, last - method.reach + 1), last + 1))
    found = set()
    for name, parameter in loaded.model.named_parameters():
        block = re.search(r"layers\.(\d+)\.(.*)", name)
        if "embed_tokens" in name or (block is None and (method.trains != "weights" or method.reach)):
            continue
        if block is None or (
            int(block[1]) in blocks
            and (method.trains != "down_projections" or block[2] == "mlp.down_proj.weight")
            and (method.trains != "lora" or (parameter.ndim == 2 and block[2].endswith("_proj.weight")))
        ):
            found.add(name)
    return found


def reached(run: Run, names: set[str]) -> set[str]:
    """Those of them that a gradient reaches: all where distributions are read, else what is below the last site read."""
    if any(asked & {"answers", "restored answers"} for asked in run.method.reads.values()):
        return names
    sites = run.method.sites(SITES, len(run.model.blocks))
    last = max(site.layer for site in sites)
    return {name for name in names if (block := re.search(r"layers\.(\d+)\.", name)) and int(block[1]) <= last}


@pytest.mark.parametrize("name", TRAINED)
def test_just_what_is_said_to_train_changes(name: str, run: Callable[..., Run]) -> None:
    found = run(name)
    allowed = may_change(found)
    if found.method.trains == "edit":
        assert not found.changed, "the weights stay"
        return
    assert found.changed
    assert found.changed <= allowed, "it trains what it does not name"
    own = vars(type(found.method))
    if "shape_gradients" not in own and "finish" not in own:
        assert found.changed == reached(found, allowed)


@pytest.mark.parametrize("reach", [0, 1, 2])
@pytest.mark.parametrize("trains", ["weights", "down_projections", "lora"])
def test_kind_and_reach_decide_what_changes(trains: str, reach: int, small: Any) -> None:
    """Of a method that reads the answers, so that a gradient reaches all there is."""
    kind = type("Reaching", (IDK,), {"trains": trains, "reach": reach})
    method, settings = kind(), small.settings()
    before = dict(small.model().model.state_dict())
    loaded, aligned = small.align(method, small.material(method, settings), settings)
    found = Run(method, before, dict(loaded.model.state_dict()), aligned, loaded, [])
    assert found.changed == may_change(found)
    blocks = {int(block[1]) for name in found.changed if (block := re.search(r"layers\.(\d+)\.", name))}
    assert blocks == ({0, 1, 2, 3}, {2}, {1, 2})[reach]


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_changes_weights_or_intervenes(name: str, run: Callable[..., Run]) -> None:
    found = run(name)
    assert found.aligned.history == []
    does = bool(found.changed) + (found.aligned.intervention is not None)
    assert does == (0 if module_of(name).__doc__.startswith("No-op") else 1), "one of both, and neither in a no-op only"
    assert all(bool(value.isfinite().all()) for value in found.after.values())


@pytest.mark.parametrize("name", NAMES)
def test_the_model_is_left_as_a_model(name: str, run: Callable[..., Run]) -> None:
    """The embeddings stay, and no hook, adapter or gradient remains."""
    found = run(name)
    embeddings = [each for each in found.before if "embed_tokens" in each or "lm_head" in each]
    assert embeddings
    assert not found.changed & set(embeddings)
    assert set(found.before) == set(found.after)
    for module in found.model.model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    if isinstance(found.method, Trained):
        assert not any(parameter.requires_grad for parameter in found.model.model.parameters())


def same(first: Run, second: Run) -> bool:
    if first.aligned.history != second.aligned.history:
        return False
    if any(not torch.equal(value, second.after[name]) for name, value in first.after.items()):
        return False
    mine, theirs = first.aligned.intervention, second.aligned.intervention
    if mine is None or theirs is None:
        return mine is theirs
    plain = [[v for v in vars(each).values() if not isinstance(v, Tensor | Mapping)] for each in (mine, theirs)]
    tensors = [each.tensors() for each in (mine, theirs)]
    equal = all(torch.equal(value, tensors[1][name]) for name, value in tensors[0].items())
    return plain[0] == plain[1] and tensors[0].keys() == tensors[1].keys() and equal


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_numbers(name: str, run: Callable[..., Run]) -> None:
    first = run(name)
    with torch.random.fork_rng():
        torch.manual_seed(12345)  # what others draw must not matter
        assert same(first, run(name, again=True))


@pytest.mark.parametrize("name", NAMES)
def test_another_seed_draws_otherwise(name: str, run: Callable[..., Run]) -> None:
    """On the same rows, where the method draws at all: other numbers, or at least from another seed."""
    draws = ".seed" in inspect.getsource(module_of(name)) or getattr(kind_of(name), "trains", "") == "lora"
    first, second = run(name), run(name, seed=1)
    assert (first.seeds != second.seeds or not same(first, second)) == draws


@pytest.mark.parametrize("name", NAMES)
def test_what_stands_at_padding_does_not_matter(
    name: str, small: Any, run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = training.compute

    def padded(loaded: Any, rows: Rows, sites: Sequence[Site], **wanted: Any) -> Forward:
        found = compute(loaded, rows, sites, **wanted)
        outside = torch.full((), PADDING)
        log_p, counts = found.log_probabilities, rows.answer_mask | rows.end_mask
        return Forward(
            {site: torch.where(rows.state_mask[..., None], state, outside) for site, state in found.states.items()},
            None if log_p is None else torch.where(counts[..., None], log_p, outside),
        )

    monkeypatch.setattr(training, "compute", padded)
    method = run(name).method
    loaded, aligned = small.align(method, small.material(method, small.settings()), small.settings())
    for found, clean in zip(aligned.history, run(name).aligned.history, strict=True):
        assert found == pytest.approx(clean, rel=1e-4, abs=1e-5)
    for key, value in loaded.model.state_dict().items():
        torch.testing.assert_close(value, run(name).after[key], rtol=1e-4, atol=1e-5, msg=key)


@pytest.mark.parametrize("name", NAMES)
def test_search_stays_within_the_settings(name: str) -> None:
    kind = kind_of(name)
    fields = settings_of(name)
    assert len(kind.search) <= 3
    if issubclass(kind, Trained):
        low, high = kind.search["learning_rate"]
        assert 0 < low <= kind.learning_rate <= high <= 1
    types = typing.get_type_hints(kind)
    for key, values in kind.search.items():
        if key == "learning_rate" and issubclass(kind, Trained):
            continue
        assert key in fields, f"{key} is no setting of {name}"
        limits = fields[key].metadata
        numbers = [value for value in values if not isinstance(value, str | bool)]
        if len(values) == 2 and numbers:
            assert 0 <= values[0] < values[1]
        assert len(values) >= 2
        for value in values:
            assert isinstance(value, types[key]) or (types[key] is float and isinstance(value, int)), (key, value)
            assert not limits["choices"] or value in limits["choices"]
            assert limits["minimum"] is None or value >= limits["minimum"]
            assert limits["maximum"] is None or value <= limits["maximum"]


@pytest.mark.parametrize("name", NAMES)
def test_card_is_complete(name: str) -> None:
    card = module_of(name).__doc__ or ""
    assert re.search(r"^ +(?:.* )?L += \S", card, re.MULTILINE), f"the card of {name} gives no formula"
    text = {}
    for heading in ("Source", "Defaults", "Departs", "Confidence"):
        found = re.search(rf"^{heading}:\s+(\S.*?)\s*(?=^\w+:|\Z)", card, re.MULTILINE | re.DOTALL)
        assert found, f"the card of {name} lacks '{heading}:'"
        text[heading] = found[1]
    assert re.search(r"\d{4}\.\d{4,5}|[Oo]urs", text["Source"]), "a paper's number, or whose idea it is"
    assert any(word in text["Confidence"] for word in CONFIDENCE)


@pytest.mark.parametrize("name", NAMES)
def test_it_has_a_test_of_its_own_and_no_loop(name: str) -> None:
    mirror = Path(__file__).parent / "methods" / f"test_{name}.py"
    assert mirror.is_file(), f"{name} has no test of its own"
    source = inspect.getsource(module_of(name))
    assert not re.search(r"register_\w*hook|\bAdamW?\(|torch\.optim", source), (
        "loops and hooks are not a method's business"
    )
