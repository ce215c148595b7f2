"""Low-rank adapters on a model's linear maps, for the time of a training run, and kept where that is asked for."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from tasks.models.families import linear_weights
from tasks.models.load import LoadedModel
from tasks.models.placement import check_held


@dataclass(frozen=True)
class Keeping:
    """Where an adapter is written to, as peft reads it, before it is merged."""

    folder: Path
    base: str = ""
    """Hub id of the model that it belongs to; "" for one that is on no hub."""
    revision: str = ""
    """Its commit."""


@contextmanager
def adapted(
    loaded: LoadedModel,
    blocks: frozenset[int] | None,
    *,
    rank: int,
    alpha: float,
    seed: int = 0,
    keep: Keeping | None = None,
) -> Iterator[dict[str, nn.Parameter]]:
    """Adapters (LoRA) on every linear map of the blocks, None for all: name -> parameter; the rest is frozen.

    They begin as nothing: the factor B is zero; and are float32 in a model of 16 bits, whose maps stay so. When the
    context ends well they are merged into the weights, kept before where `keep` says so, and the model has its own
    modules again; when it ends by an error they are taken off.

    Raises: UsageError where one of the maps is offloaded.
    """
    from peft import LoraConfig, LoraModel
    from peft.tuners.tuners_utils import cast_adapter_dtype

    decoder = loaded.decoder
    prefixes = {
        f"{loaded.family.blocks}.{number}." for number in (blocks if blocks is not None else range(len(loaded.blocks)))
    }
    inside = next(name for name, module in loaded.model.named_modules() if module is decoder)
    maps = {
        f"{inside}.{name}" if inside else name: weight
        for name, weight in linear_weights(decoder).items()
        if any(name.startswith(prefix) for prefix in prefixes)
    }
    check_held(maps, "merging adapters")
    names = list(maps)
    first = decoder.get_submodule(names[0].removeprefix(f"{inside}.") if inside else names[0])
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]
        target_modules=names,
        task_type="CAUSAL_LM",
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
    if keep is not None:
        _save(tuner, config, keep)
    tuner.merge_and_unload(safe_merge=True)


def _save(tuner: Any, config: Any, keep: Keeping) -> None:
    """`adapter_model.safetensors` and `adapter_config.json`, the same bytes each time.

    `PeftModel.save_pretrained` would wrap the model once more, ask a hub for it, and write a set in any order.
    """
    from peft import get_peft_model_state_dict
    from peft.utils import SAFETENSORS_WEIGHTS_NAME

    factors = get_peft_model_state_dict(tuner, adapter_name="default", save_embedding_layers=False)
    keep.folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"base_model.{name}": each.detach().cpu().contiguous() for name, each in factors.items()}
    save_file(tensors, keep.folder / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})
    told = copy.copy(config)
    told.inference_mode, told.target_modules = True, sorted(config.target_modules)
    told.base_model_name_or_path, told.revision = keep.base or None, keep.revision or None
    told.save_pretrained(keep.folder)
