"""What trains, family by family: in a run of two steps just that moves, whatever way it is chosen."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from storage.records import Site, UsageError
from tasks.alignment.material import gather_material
from tasks.alignment.method import Batch, Given, Loss, Trained
from tasks.alignment.parameters import training_parameters
from tasks.alignment.terms import answer_log_probability
from tasks.alignment.training import align_model
from tasks.models.families import family_of
from tasks.models.load import LoadedModel

BLOCKS = 4
EXTRA: dict[str, dict[str, Any]] = {
    "gemma2": {"intermediate_size": 24, "num_key_value_heads": 1, "head_dim": 8},
    "gpt2": {"n_inner": 24},
    "gpt_neox": {"intermediate_size": 24},
}
BLOCK = {"gemma2": r"model\.layers\.", "gpt2": r"transformer\.h\.", "gpt_neox": r"gpt_neox\.layers\."}
EMBEDDED = {
    "gemma2": {"model.embed_tokens.weight", "lm_head.weight"},
    "gpt2": {"transformer.wte.weight", "transformer.wpe.weight", "lm_head.weight"},
    "gpt_neox": {"gpt_neox.embed_in.weight", "lm_head.weight"},
}
FINAL = {
    "gemma2": {"model.norm.weight"},
    "gpt2": {"transformer.ln_f.weight", "transformer.ln_f.bias"},
    "gpt_neox": {"gpt_neox.final_layer_norm.weight", "gpt_neox.final_layer_norm.bias"},
}
DOWN = {
    "gemma2": r"mlp\.down_proj\.weight",
    "gpt2": r"mlp\.c_proj\.(weight|bias)",
    "gpt_neox": r"mlp\.dense_4h_to_h\.(weight|bias)",
}
LINEAR = {
    "gemma2": r"(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)\.weight",
    "gpt2": r"(attn\.(c_attn|c_proj)|mlp\.(c_fc|c_proj))\.weight",
    "gpt_neox": r"(attention\.(query_key_value|dense)|mlp\.dense_(h_to_4h|4h_to_h))\.weight",
}
families = pytest.mark.parametrize("family", sorted(EXTRA))
kinds = pytest.mark.parametrize("kind", ["weights", "down_projections", "lora"])
Build = Callable[[str], LoadedModel]


@dataclass(frozen=True)
class Ascent(Trained):
    """Pushes the forget answers down; every parameter of the model has a part in it."""

    needs: ClassVar = {"forget": frozenset({"answers"})}

    def loss(self, batch: Batch, given: Given) -> Loss:
        value = answer_log_probability(batch["forget"], batch["forget"].student).mean()
        return Loss(value, {"forget": value})


@dataclass(frozen=True)
class Both(Trained):
    """The same, and the retain answers up."""

    needs: ClassVar = {"forget": frozenset({"answers", "states"}), "retain": frozenset({"answers"})}

    def loss(self, batch: Batch, given: Given) -> Loss:
        down, up = (answer_log_probability(batch[name], batch[name].student).mean() for name in self.needs)
        push = sum(state.float().square().mean() for state in batch["forget"].student.states.values())
        return Loss(down - up + 0.1 * push, {"forget": down})


def method(**changes: Any) -> Trained:
    """The same with other class variables."""
    return type("Changed", (Ascent,), changes)()


@pytest.fixture
def build(small: Any) -> Build:
    """A random model of a family that reads the small world; equal every time."""

    def made(family: str) -> LoadedModel:
        sizes = {"hidden_size": 16, "num_hidden_layers": BLOCKS, "num_attention_heads": 2, "initializer_range": 0.3}
        tokens = {"vocab_size": len(small.tokenizer), "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
        config = AutoConfig.for_model(family, **sizes, **tokens, **EXTRA[family])
        with torch.random.fork_rng():
            torch.manual_seed(0)
            attention = "eager" if family == "gemma2" else "sdpa"
            model: Any = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
        return LoadedModel(model.eval(), small.tokenizer, family_of(model), torch.device("cpu"))

    return made


def moved(small: Any, student: LoadedModel, chosen: Trained, **changes: Any) -> set[str]:
    """Names of the weights that two steps change."""
    settings = small.settings(**changes)
    material = gather_material(student, small.facts, chosen, settings)
    before: dict[str, Tensor] = {name: each.clone() for name, each in student.model.state_dict().items()}
    aligned = align_model(student, chosen, material, small.autoencoders, small.latents, settings)
    assert len(aligned.history) == 2
    after = student.model.state_dict()
    assert set(after) == set(before), "it has its own modules"
    assert not any(each.requires_grad for each in student.model.parameters())
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


def expected(student: LoadedModel, family: str, kind: str, blocks: set[int] | None) -> set[str]:
    """Names of the weights that are to move; None for all of the model."""
    inside = {"weights": r".*", "down_projections": DOWN[family], "lora": LINEAR[family]}[kind]
    numbers = "|".join(map(str, range(BLOCKS) if blocks is None else sorted(blocks)))
    pattern = re.compile(rf"{BLOCK[family]}({numbers})\.{inside}")
    found = {name for name, _ in student.model.named_parameters() if pattern.fullmatch(name)}
    return found | (FINAL[family] if kind == "weights" and blocks is None else set())


@kinds
@families
def test_the_whole_model(small: Any, build: Build, family: str, kind: str) -> None:
    student = build(family)
    wanted = expected(student, family, kind, None)
    assert moved(small, student, Ascent(), train=kind) == wanted
    every = {name for name, _ in student.model.named_parameters()}
    assert EMBEDDED[family] <= set(student.model.state_dict())
    assert not wanted & EMBEDDED[family]
    assert kind != "weights" or every - wanted <= EMBEDDED[family], "all but the embeddings"


@kinds
@families
def test_some_blocks(small: Any, build: Build, family: str, kind: str) -> None:
    student = build(family)
    wanted = expected(student, family, kind, {0, 2})
    assert moved(small, student, Ascent(), train=kind, layers=(0, 2)) == wanted


@kinds
@pytest.mark.parametrize(("reach", "blocks"), [(1, {2}), (2, {1, 2}), (9, {0, 1, 2})])
def test_reach_counts_down_from_the_last_site(
    small: Any, build: Build, kind: str, reach: int, blocks: set[int]
) -> None:
    student = build("gpt2")
    wanted = expected(student, "gpt2", kind, blocks)
    assert moved(small, student, method(reach=reach), train=kind) == wanted


def test_layers_go_before_reach(small: Any, build: Build) -> None:
    student = build("gpt_neox")
    wanted = expected(student, "gpt_neox", "weights", {3})
    assert moved(small, student, method(reach=1), layers=(3,)) == wanted


@kinds
def test_own_is_what_the_method_trains(small: Any, build: Build, kind: str) -> None:
    student = build("gemma2")
    wanted = expected(student, "gemma2", kind, None)
    assert moved(small, student, method(trains=kind)) == wanted
    other = "lora" if kind != "lora" else "weights"
    assert moved(small, student, method(trains=kind), train=other) == expected(student, "gemma2", other, None)


@families
def test_adapters_of_a_seed_train_alike(small: Any, build: Build, family: str) -> None:
    def after(**changes: Any) -> dict[str, Tensor]:
        student = build(family)
        settings = small.settings(train="lora", **changes)
        material = gather_material(student, small.facts, Ascent(), small.settings())
        align_model(student, Ascent(), material, small.autoencoders, small.latents, settings)
        return dict(student.model.state_dict())

    def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
        return all(torch.equal(value, other[name]) for name, value in one.items())

    first = after()
    assert same(first, after())
    assert not same(first, after(seed=1))
    assert not same(first, after(lora_rank=3))
    assert not same(first, after(lora_alpha=4.0))


@kinds
@families
def test_after_an_error_nothing_trains(small: Any, build: Build, family: str, kind: str) -> None:
    student = build(family)
    before = {name: each.clone() for name, each in student.model.state_dict().items()}
    types = {name: type(each) for name, each in student.model.named_modules()}
    with pytest.raises(ArithmeticError), training_parameters(student, Ascent(), [Site(1)], small.settings(train=kind)):
        raise ArithmeticError
    assert {name: type(each) for name, each in student.model.named_modules()} == types
    assert not any(each.requires_grad for each in student.model.parameters())
    assert all(torch.equal(value, student.model.state_dict()[name]) for name, value in before.items())


@kinds
@families
def test_a_block_that_is_not_there_is_refused(small: Any, build: Build, family: str, kind: str) -> None:
    with pytest.raises(UsageError, match="layers: expected blocks from 0 to 3, given 4; the model has 4") as refused:
        moved(small, build(family), Ascent(), train=kind, layers=(1, 4))
    assert "\n" not in str(refused.value)


@kinds
@pytest.mark.parametrize("projection", ["none", "geometric"])
def test_in_bfloat16_just_that_moves_too(small: Any, build: Build, kind: str, projection: str) -> None:
    student = build("gpt_neox")
    student.model.to(torch.bfloat16)
    found = moved(small, student, Both(), train=kind, projection=projection, checkpointing=True, learning_rate=1e-3)
    assert found <= expected(student, "gpt_neox", kind, None)
    assert any("mlp" in name for name in found)
    assert {each.dtype for each in student.model.parameters()} == {torch.bfloat16}


def test_a_method_that_writes_elsewhere_is_refused(small: Any, build: Build) -> None:
    student = build("gpt2")

    def write(self: Trained, parameters: Any, given: Given) -> None:
        with torch.no_grad():
            student.embeddings.get_parameter("weight")[0, 0] += 1.0

    with pytest.raises(ArithmeticError, match=r"transformer.wte.weight changed in training"):
        moved(small, student, method(shape_gradients=write))


def test_recomputed_blocks_train_to_the_same_weights(small: Any, build: Build) -> None:
    ends = []
    for checkpointing in (False, True):
        student = build("gemma2")
        moved(small, student, Both(), checkpointing=checkpointing)
        ends.append({name: each.clone() for name, each in student.model.state_dict().items()})
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
