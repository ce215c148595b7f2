"""Activations between torch and the table on disk, where bfloat16 is kept as its sixteen bits."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from storage.records import UsageError


def to_stored(state: Float[Tensor, "N D"], dtype: str) -> np.ndarray:
    """Array [N, D] for a table: `float32`, or `bfloat16` as uint16."""
    if dtype == "float32":
        return state.float().cpu().numpy()
    if dtype == "bfloat16":
        return state.to(torch.bfloat16).cpu().view(torch.uint16).numpy()
    raise UsageError(f"activations cannot be stored as '{dtype}'; expected float32 or bfloat16")


def from_stored(stored: np.ndarray) -> Float[Tensor, "N D"]:
    """float32 states of an array that `to_stored` made."""
    values = torch.from_numpy(np.array(stored))
    return values.view(torch.bfloat16).float() if stored.dtype == np.uint16 else values.float()
