"""Low-rank adapters on a model's linear maps, for the time of a training run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from tasks.models.families import linear_weights
from tasks.models.load import LoadedModel


@contextmanager
def adapted(
    loaded: LoadedModel, blocks: frozenset[int] | None, *, rank: int, alpha: float, seed: int = 0
) -> Iterator[dict[str, nn.Parameter]]:
    """Adapters (LoRA) on every linear map of the blocks, None for all: name -> parameter; the rest is frozen.

    They begin as nothing: the factor B is zero; and are float32 in a model of 16 bits, whose maps stay so. When the context ends well they are merged into the weights, and the
    model has its own modules again; when it ends by an error they are taken off.
    """
    from peft import LoraConfig, LoraModel
    from peft.tuners.tuners_utils import cast_adapter_dtype

    decoder = loaded.decoder
    prefixes = {
        f"{loaded.family.blocks}.{number}." for number in (blocks if blocks is not None else range(len(loaded.blocks)))
    }
    inside = next(name for name, module in loaded.model.named_modules() if module is decoder)
    names = [
        f"{inside}.{name}" if inside else name
        for name in linear_weights(decoder)
        if any(name.startswith(prefix) for prefix in prefixes)
    ]
    first = decoder.get_submodule(names[0].removeprefix(f"{inside}.") if inside else names[0])
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]
        target_modules=names,
        fan_in_fan_out=not isinstance(first, nn.Linear),  # gpt2 keeps its weights the other way round
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tuner = LoraModel(loaded.model, config, "default")
    cast_adapter_dtype(loaded.model, "default")
    try:
        yield {name: each for name, each in loaded.model.named_parameters() if each.requires_grad}
    except BaseException:
        tuner.unload()
        raise
    tuner.merge_and_unload(safe_merge=True)
