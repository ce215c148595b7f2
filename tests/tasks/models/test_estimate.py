"""Parameters are exact for every family; bytes are within a stated factor of what real passes and steps hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from storage.records import Site, UsageError
from tasks.models.adapters import adapted
from tasks.models.estimate.memory import (
    autoencoder_bytes,
    distribution_bytes,
    kept_bytes,
    operations,
    pass_bytes,
    size_of,
    training_bytes,
)
from tasks.models.estimate.shape import Shape, shape_of
from tasks.models.forward import logits_of, read_sites, recomputed, run_decoder, takes_ancestor_mask
from tasks.models.load import LoadedModel
from tasks.models.train import Loss, minimise, trainable_parameters

FACTOR = 1.6
"""By how much an estimate may be off, either way."""
MIDDLING: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 5, "vocab_size": 900, "initializer_range": 0.05,
}  # fmt: skip
Fresh = Callable[..., LoadedModel]


def shape(loaded: LoadedModel, folder: Path) -> Shape:
    loaded.model.config.save_pretrained(folder)
    assert not list(folder.glob("*.safetensors"))
    return shape_of(folder)


class Held(TorchDispatchMode):
    """Bytes of the tensors that are alive after each operation, the model's weights among them, and the most of these."""

    def __init__(self, loaded: LoadedModel) -> None:
        super().__init__()
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.most = 0
        self.see(list(loaded.model.parameters()))

    def see(self, made: Any) -> None:
        for each in tree_leaves(made):
            if isinstance(each, torch.Tensor):
                storage = each.untyped_storage()
                reference = StorageWeakRef(storage)
                self.alive[reference.cdata] = reference, storage.nbytes()
        self.alive = {place: one for place, one in self.alive.items() if not one[0].expired()}
        self.most = max(self.most, sum(size for _, size in self.alive.values()))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.see(made)
        return made


def peak(loaded: LoadedModel, run: Callable[[], object]) -> int:
    """Most bytes at once."""
    with Held(loaded) as held:
        run()
    return held.most


def near(estimated: float, measured: float) -> None:
    assert measured / FACTOR < estimated < measured * FACTOR, f"estimated {estimated:.0f}, measured {measured:.0f}"


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    "family", ["gemma2", "gemma3", "gemma3_nested", "llama", "mistral", "qwen2", "qwen3", "phi3", "olmo2", "gpt2", "gpt_neox"]
)  # fmt: skip
def test_parameters_are_those_of_the_model(fresh: Fresh, family: str, tmp_path: Path) -> None:
    loaded = fresh(family, num_hidden_layers=3)
    found = shape(loaded, tmp_path)
    head = loaded.model.get_output_embeddings()
    tied = head.weight is loaded.embeddings.get_parameter("weight")
    assert found.total == count(loaded.model)
    assert (found.family, found.layers, found.width, found.vocabulary) == (family.removesuffix("_nested"), 3, 32, 61)
    assert found.head == (0 if tied else count(head))
    assert {count(block) for block in loaded.blocks} == {found.block}
    assert found.down == count(loaded.blocks[0].get_submodule(loaded.family.down_projection))
    frozen = [module for module in loaded.model.modules() if isinstance(module, torch.nn.Embedding)]
    if family != "gemma3_nested":  # whose part that sees has embeddings of its own
        assert found.trainable == sum(map(torch.Tensor.numel, trainable_parameters(loaded.model, [*frozen, head])))
        assert found.cut(2) == count(loaded.decoder) - found.block
    with adapted(loaded, frozenset({1}), rank=3, alpha=3.0) as parameters:
        assert found.adapters(3) == sum(each.numel() for each in parameters.values())


def test_operations_are_two_a_parameter_and_token(fresh: Fresh, tmp_path: Path) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    loaded = fresh("llama", **MIDDLING)
    ids = torch.randint(3, 900, (2, 24))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        hidden = run_decoder(loaded, ids)[1].last_hidden_state
        logits_of(loaded, hidden[:, -4:])
    near(operations(shape(loaded, tmp_path), 48, heads=8), counter.get_total_flops())


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_reading_holds_what_is_said(fresh: Fresh, family: str, tmp_path: Path) -> None:
    loaded = fresh(family, **MIDDLING)
    takes_ancestor_mask(loaded)
    sequences = torch.randint(3, 900, (64, 48)).tolist()  # nothing in common: rows of one sequence each
    wanted, sites = [[46, 47]] * 64, [Site(layer) for layer in range(5)]
    measured = peak(loaded, lambda: read_sites(loaded, sequences, wanted, sites, budget=1536))
    own = shape(loaded, tmp_path)
    # Sites are read in one pass, which holds them at every token until they are picked.
    found = own.total * 4 + pass_bytes(own, 1536, 4) + 5 * (128 + 1536) * 64 * 4
    near(found, measured)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_a_step_holds_what_is_said(fresh: Fresh, family: str, dtype: str, checkpointing: bool, tmp_path: Path) -> None:
    loaded = fresh(family, **MIDDLING)
    width = size_of(dtype)
    loaded.model.to(getattr(torch, dtype))
    ids = torch.randint(3, 900, (32, 48))
    parameters = trainable_parameters(loaded.model, [loaded.embeddings])

    def loss_at(step: int) -> Loss:
        hidden = run_decoder(loaded, ids)[1].last_hidden_state[:, -4:]
        log_p = logits_of(loaded, hidden).float().log_softmax(-1)
        return Loss(-log_p[..., 5].mean(), {})

    def train() -> None:
        if checkpointing:
            with recomputed(loaded):
                minimise(parameters, loss_at, steps=2, learning_rate=1e-2)
        else:
            minimise(parameters, loss_at, steps=2, learning_rate=1e-2)

    own = shape(loaded, tmp_path)
    trained = sum(each.numel() for each in parameters)
    found = own.total * width + training_bytes(trained, width)
    found += kept_bytes(own, ids.numel(), width, checkpointing=checkpointing) + distribution_bytes(own, 32 * 4, width)
    near(found, peak(loaded, train))


def test_an_autoencoder_in_float32() -> None:
    from sae_lens import StandardSAE, StandardSAEConfig

    sae = StandardSAE(StandardSAEConfig(d_in=12, d_sae=40))
    assert autoencoder_bytes(12, 40) - 4 * 40 == 4 * count(sae), "a threshold beside what this kind has"


def test_a_configuration_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no config.json"):
        shape_of(tmp_path)
