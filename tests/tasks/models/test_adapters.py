"""Low-rank adapters: on which maps they lie, that merging changes nothing, and what is left when they are gone."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tasks.models.adapters import Keeping, adapted
from tasks.models.load import LoadedModel

BLOCK = {
    "gemma2": r"model\.layers\.(\d+)\.",
    "gemma3_nested": r"model\.language_model\.layers\.(\d+)\.",
    "gpt2": r"transformer\.h\.(\d+)\.",
    "gpt_neox": r"gpt_neox\.layers\.(\d+)\.",
}
GEMMA = r"(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
LINEAR = {
    "gemma2": GEMMA,
    "gemma3_nested": GEMMA,
    "gpt2": r"(attn\.(c_attn|c_proj)|mlp\.(c_fc|c_proj))",
    "gpt_neox": r"(attention\.(query_key_value|dense)|mlp\.dense_(h_to_4h|4h_to_h))",
}
families = pytest.mark.parametrize("family", sorted(BLOCK))
Fresh = Callable[..., LoadedModel]


def logits(loaded: LoadedModel) -> Tensor:
    ids = torch.tensor([[1, 5, 9, 13, 4, 7], [1, 8, 3, 3, 20, 11]])
    with torch.no_grad():
        return loaded.model(input_ids=ids).logits


def weights(loaded: LoadedModel) -> dict[str, Tensor]:
    return {name: each.clone() for name, each in loaded.model.state_dict().items()}


def modules(loaded: LoadedModel) -> dict[str, type]:
    return {name: type(each) for name, each in loaded.model.named_modules()}


def changed(before: dict[str, Tensor], loaded: LoadedModel) -> set[str]:
    after = loaded.model.state_dict()
    assert set(after) == set(before)
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


def stir(parameters: dict[str, nn.Parameter]) -> None:
    """Give the factors that begin at zero other values."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for each in parameters.values():
            each.add_(0.1 * torch.randn(each.shape, generator=generator))


@families
def test_merged_is_what_the_adapted_model_computed(fresh: Fresh, family: str) -> None:
    loaded = fresh(family)
    before, plain, made_of = weights(loaded), logits(loaded), modules(loaded)
    with adapted(loaded, None, rank=3, alpha=6.0) as parameters:
        torch.testing.assert_close(logits(loaded), plain, rtol=0, atol=0, msg="they begin as nothing")
        stir(parameters)
        beside = logits(loaded)
    merged = logits(loaded)
    assert float((beside - plain).abs().max()) > 1e-2
    assert float((merged - beside).abs().max()) < 1e-5 * max(1.0, float(beside.abs().max()))
    assert modules(loaded) == made_of
    assert not hasattr(loaded.model, "peft_config")
    pattern = re.compile(BLOCK[family] + LINEAR[family] + r"\.weight")
    expected = {name for name in before if pattern.fullmatch(name)}
    assert changed(before, loaded) == expected
    assert len(expected) >= 8


@families
def test_just_the_adapters_of_the_blocks_train(fresh: Fresh, family: str) -> None:
    """Block 1 is not block 10 or 11."""
    loaded = fresh(family, num_hidden_layers=12)
    before = weights(loaded)
    with adapted(loaded, frozenset({1, 5}), rank=2, alpha=2.0) as parameters:
        found = {name: match[1] for name in parameters if (match := re.match(BLOCK[family], name))}
        assert len(found) == len(parameters)
        assert set(found.values()) == {"1", "5"}
        assert all("lora_A" in name or "lora_B" in name for name in parameters)
        grows = {name for name, each in loaded.model.named_parameters() if each.requires_grad}
        assert grows == set(parameters)
        assert {min(each.shape) for each in parameters.values()} == {2}
        stir(parameters)
    assert {re.match(BLOCK[family], name)[1] for name in changed(before, loaded)} == {"1", "5"}  # type: ignore[index]


@families
def test_alpha_over_rank_is_the_scale(fresh: Fresh, family: str) -> None:
    changes = {}
    for rank, alpha in ((2, 2.0), (2, 6.0), (4, 4.0)):
        loaded = fresh(family)
        before = weights(loaded)
        with adapted(loaded, frozenset({0}), rank=rank, alpha=alpha) as parameters, torch.no_grad():
            for name, each in parameters.items():
                each.fill_(1.0 if "lora_A" in name else 0.5)
        (name, *_) = sorted(changed(before, loaded))
        changes[rank, alpha] = float((loaded.model.state_dict()[name] - before[name]).mean())
    assert changes[2, 2.0] == pytest.approx(1.0, abs=1e-5), "two times 1 · 0.5"
    assert changes[2, 6.0] == pytest.approx(3.0, abs=1e-5)
    assert changes[4, 4.0] == pytest.approx(2.0, abs=1e-5)


@families
def test_after_an_error_the_model_is_what_it_was(fresh: Fresh, family: str) -> None:
    loaded = fresh(family)
    before, made_of = weights(loaded), modules(loaded)
    with (
        pytest.raises(ArithmeticError, match="the loss is nan"),
        adapted(loaded, None, rank=2, alpha=4.0) as parameters,
    ):
        stir(parameters)
        raise ArithmeticError("the loss is nan")
    assert modules(loaded) == made_of
    assert not changed(before, loaded)
    assert not hasattr(loaded.model, "peft_config")


@families
def test_same_seed_same_adapters(fresh: Fresh, family: str) -> None:
    def made(seed: int) -> list[Tensor]:
        with adapted(fresh(family), None, rank=2, alpha=4.0, seed=seed) as parameters:
            return [each.detach().clone() for each in parameters.values()]

    first = made(3)
    with torch.random.fork_rng():
        torch.manual_seed(99)  # what others draw does not matter
        assert all(torch.equal(*pair) for pair in zip(first, made(3), strict=True))
    assert not all(torch.equal(*pair) for pair in zip(first, made(4), strict=True))
    loaded = fresh(family)
    state = torch.get_rng_state()
    with adapted(loaded, None, rank=2, alpha=4.0):
        pass
    assert torch.equal(torch.get_rng_state(), state), "nor does it disturb what they draw"


def test_a_second_time_is_like_the_first(fresh: Fresh) -> None:
    """As when one target is forgotten after another."""
    loaded = fresh("gemma2")
    before = weights(loaded)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            with adapted(loaded, None, rank=2, alpha=4.0) as parameters:
                assert not any("lora_B" in name and bool(each.any()) for name, each in parameters.items())
                stir(parameters)
            last, before = changed(before, loaded), weights(loaded)
            assert last


@families
def test_what_is_kept_is_what_plain_peft_loads(fresh: Fresh, family: str, tmp_path: Path) -> None:
    from peft import PeftModel

    kept = {}
    for name, keep in (
        ("once", Keeping(tmp_path / "once", "owner/name", "c" * 40)),
        ("twice", Keeping(tmp_path / "twice")),
    ):
        loaded = fresh(family)
        with adapted(loaded, frozenset({1}), rank=2, alpha=6.0, keep=keep) as parameters:
            stir(parameters)
        kept[name] = json.loads((tmp_path / name / "adapter_config.json").read_text())
    plain = PeftModel.from_pretrained(fresh(family).model, str(tmp_path / "once")).eval()
    ids = torch.tensor([[1, 5, 9, 13, 4, 7], [1, 8, 3, 3, 20, 11]])
    with torch.no_grad():
        torch.testing.assert_close(plain(input_ids=ids).logits, logits(loaded), rtol=1e-5, atol=1e-5)
    assert (tmp_path / "once" / "adapter_model.safetensors").read_bytes() == (
        tmp_path / "twice" / "adapter_model.safetensors"
    ).read_bytes()
    names = kept["once"]["target_modules"]
    assert names == sorted(names), "a set would be written in any order"
    assert (kept["once"]["base_model_name_or_path"], kept["once"]["revision"]) == ("owner/name", "c" * 40)
    assert kept["twice"]["base_model_name_or_path"] is None
    assert kept["once"]["task_type"] == "CAUSAL_LM"
