"""Where a model's weights lie: on one device, spread over several, or offloaded to the host's memory and the disk.

`accelerate` moves what a block reads to where the block lies, and fetches offloaded weights anew for every pass. Hosts and
disks were tried; more than one GPU, and offloading from a GPU, were not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from accelerate.utils import get_max_memory
from torch import Tensor, nn

from storage.records import UsageError

PLACEMENTS = ("one", "spread", "offload")


def placing(placement: str, device: torch.device) -> dict[str, Any]:
    """What `from_pretrained` is told; nothing for `one`, when the model is moved afterwards.

    Raises: UsageError for an unknown placement, or `spread` where there is no GPU.
    """
    if placement not in PLACEMENTS:
        raise UsageError(f"placement {placement!r} is not known; expected one of {', '.join(PLACEMENTS)}")
    if placement == "one":
        return {}
    if placement == "spread" and device.type != "cuda":
        raise UsageError(
            "[model] placement = 'spread' divides a model among GPUs, and here it would run on the CPU (torch finds no GPU, "
            "or device = 'cpu'); use placement = 'one', or 'offload' where the host's memory is too small"
        )
    memory = get_max_memory()
    if placement == "spread":
        memory = {place: size for place, size in memory.items() if place != "cpu"}
    elif device.type == "cpu":
        memory = {"cpu": memory["cpu"]}
    return {"device_map": "auto", "max_memory": memory}


def is_divided(model: nn.Module) -> bool:
    """Whether the weights lie in more than one place, so that accelerate has its hooks on the model."""
    return any(hasattr(module, "_hf_hook") for module in model.modules())


def check_fits(model: nn.Module) -> None:
    """That a model that is spread has all its weights on GPUs. Raises: UsageError where they are too small."""
    if any(parameter.is_meta for parameter in model.parameters()):
        raise UsageError(
            "[model] placement = 'spread': the weights do not fit on the GPUs that torch finds; use dtype = 'bfloat16', more "
            "GPUs, or placement = 'offload'"
        )


def check_held(weights: Mapping[str, Tensor], doing: str) -> None:
    """That none of the weights is offloaded: such are read anew at every pass, and what is written to them is lost.

    Raises: UsageError, naming the first that is.
    """
    away = [name for name, weight in weights.items() if weight.is_meta]
    if away:
        raise UsageError(
            f"[model] placement = 'offload': {doing} needs weights that lie on a device, and {len(away)} of them are "
            f"offloaded, such as {away[0]}; use placement = 'one' or 'spread', or leave them out"
        )
