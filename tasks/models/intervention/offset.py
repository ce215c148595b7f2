"""An offset of the logits by a pair of small models, which run beside the network and leave its inside as it is.

    z_e = W (h + α (h_after - h_before)),   h = the state after the final norm, W = the head

The small models are the network's own lowest blocks, each with a final norm of its own; embeddings and head are the
network's. So the offset of the logits, α (z_after - z_before), is one of the state that the head reads, and whoever
asks for logits gets it. Both read the tokens, not the network's states: what is put into those does not reach them.
Their keys and values lie in the network's cache, as layers above its own, and go wherever those go.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache

from storage.records import UsageError
from tasks.models.placement import is_divided

if TYPE_CHECKING:
    from tasks.models.load import LoadedModel

OWN = ("past_key_values", "use_cache", "output_attentions", "output_hidden_states", "return_dict")
"""What a decoder is told that does not concern another one."""


@dataclass(frozen=True, eq=False)
class Offset:
    """A pair of small models: tensors by their names in the decoder, those of its lowest blocks and its final norm.

    Raises: UsageError for a number out of range, or two models that differ in more than their values.
    """

    blocks: int
    """How many of the network's blocks each has."""
    strength: float
    """α."""
    before: Mapping[str, Tensor]
    """The small model as it was."""
    after: Mapping[str, Tensor]
    """The same after it was trained."""

    def __post_init__(self) -> None:
        if self.blocks < 1 or not (math.isfinite(self.strength) and self.strength >= 0):
            raise UsageError(
                f"an offset of {self.blocks} blocks and strength {self.strength}; expected 1 or more, and 0 or more"
            )
        shapes = [{name: tuple(tensor.shape) for name, tensor in each.items()} for each in (self.before, self.after)]
        if shapes[0] != shapes[1]:
            odd = sorted(name for name, _ in set(shapes[0].items()) ^ set(shapes[1].items()))
            raise UsageError(
                f"the two small models of an offset differ in tensor {odd[0]!r}; give a model and its copy"
            )

    def tensors(self) -> dict[str, Tensor]:
        """`before.NAME` and `after.NAME` -> tensor."""
        pair = {"before": self.before, "after": self.after}
        return {f"{which}.{name}": tensor for which, small in pair.items() for name, tensor in small.items()}


def offset_of(loaded: LoadedModel, blocks: int, strength: float) -> Offset:
    """The pair that changes nothing yet: both are copies of the model's lowest blocks and its final norm.

    Raises: UsageError for more blocks than the model has, or fewer than one.
    """
    if not 1 <= blocks <= len(loaded.blocks):
        raise UsageError(
            f"a small model of {blocks} blocks cannot be made of a model of {len(loaded.blocks)}; give 1 to "
            f"{len(loaded.blocks)}"
        )
    before, after = (
        {name: parameter.detach().clone() for name, parameter in _own_parameters(_small(loaded, blocks)).items()}
        for _ in range(2)
    )
    return Offset(blocks, strength, before, after)


class Offsetting:
    """The hook that adds the offset to what the decoder gives."""

    def __init__(self, loaded: LoadedModel, offset: Offset) -> None:
        """Raises: UsageError for a pair that is not made of this model's lowest blocks, or a model on several devices."""
        if is_divided(loaded.decoder):
            raise UsageError(
                "an offset's small models share the model's embeddings and lie beside it on one device; use [model] placement = 'one'"
            )
        if offset.blocks > len(loaded.blocks):
            raise UsageError(f"the offset's small models have {offset.blocks} blocks, the model {len(loaded.blocks)}")
        self.intervention = offset
        self.blocks = len(loaded.blocks)
        self.pair = tuple(_filled(_small(loaded, offset.blocks), each) for each in (offset.before, offset.after))
        self.handles: list[Any] = [loaded.decoder.register_forward_hook(self.add, with_kwargs=True)]

    def parameters(self) -> dict[str, nn.Parameter]:
        """Name -> parameter of the small model that trains; they are the offset's own `after`."""
        return _own_parameters(self.pair[1])

    def add(self, decoder: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> Any:
        hidden = output[0]
        names = inspect.signature(decoder.forward).parameters
        given = dict(zip(names, inputs, strict=False)) | named
        cache = getattr(output, "past_key_values", None)
        rest = {name: value for name, value in given.items() if name not in OWN}
        before, after = (self._run(which, rest, cache, hidden) for which in range(2))
        changed = hidden + self.intervention.strength * (after - before)
        if isinstance(output, tuple):
            return (changed, *output[1:])
        output.last_hidden_state = changed
        return output

    def _run(
        self, which: int, given: dict[str, Any], cache: Any, hidden: Float[Tensor, "B T D"]
    ) -> Float[Tensor, "B T D"]:
        """What a small model gives for the tokens of this pass."""
        small = self.pair[which]
        if next(small.parameters()).device != hidden.device:  # the network was moved
            small.to(hidden.device)
        if cache is None:
            return small(**given, use_cache=False)[0]
        if not isinstance(cache, DynamicCache):
            raise UsageError(
                f"an offset cannot keep its states in a {type(cache).__name__}; generate with a cache that grows "
                "(cache_implementation='dynamic')"
            )
        first = self.blocks + which * self.intervention.blocks
        place = slice(first, first + self.intervention.blocks)
        layers: list[Any] = cache.layers
        own = DynamicCache()
        own.layers = layers[place]
        # The network has put this pass's tokens into the cache by now.
        seen, known = int(cache.get_seq_length()) - hidden.shape[1], int(own.get_seq_length())
        if known != seen:
            raise UsageError(
                f"an offset knows {known} of the {seen} tokens in the cache; fill the cache with the offset attached, "
                "from the first token on"
            )
        found = small(**given, past_key_values=own, use_cache=True)[0]
        layers[place] = own.layers
        return found


def _small(loaded: LoadedModel, blocks: int) -> nn.Module:
    """The decoder with its lowest blocks only, copied but for the embeddings."""
    memo: dict[int, Any] = {id(each): each for each in loaded.decoder.modules() if isinstance(each, nn.Embedding)}
    memo[id(loaded.blocks)] = nn.ModuleList(copy.deepcopy(block, memo) for block in loaded.blocks[:blocks])
    return copy.deepcopy(loaded.decoder, memo).requires_grad_(False)


def _own_parameters(small: nn.Module) -> dict[str, nn.Parameter]:
    """All but the embeddings."""
    shared = {id(p) for each in small.modules() if isinstance(each, nn.Embedding) for p in each.parameters()}
    return {name: parameter for name, parameter in small.named_parameters() if id(parameter) not in shared}


def _filled(small: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """The small model with these tensors for its own; on the model's device they are shared, not copied."""
    own = {name: tuple(parameter.shape) for name, parameter in _own_parameters(small).items()}
    odd = sorted(name for name, _ in set(own.items()) ^ {(name, tuple(each.shape)) for name, each in tensors.items()})
    if odd:
        raise UsageError(f"the offset is not of this model: they differ in tensor {odd[0]!r}; attach it to its own")
    device = next(small.parameters()).device
    small.load_state_dict({name: tensor.to(device) for name, tensor in tensors.items()}, strict=False, assign=True)
    return small.requires_grad_(False)
