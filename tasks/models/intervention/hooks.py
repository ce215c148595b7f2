"""How an intervention is made: hooks on a model; those of an edit of the stream find out what each token sees."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers.cache_utils import Cache, DynamicLayer

from storage.records import UsageError
from tasks.models.intervention.edit import Intervention
from tasks.models.intervention.offset import Offset, Offsetting
from tasks.models.prompts import beginning

if TYPE_CHECKING:
    from tasks.models.load import LoadedModel

CONFIG_KEY = "sae_unlearn_intervention"
"""In config.json, where a model has an edit."""
ATTRIBUTE = "sae_unlearn_editing"
"""Of a network: what edits it."""


def attach(loaded: LoadedModel, intervention: Intervention | Offset) -> LoadedModel:
    """Have every pass of the model make the edit from now on, in place; returns the model.

    Hooks that are registered later, on the same block, see the edited state. Gradients flow through the edit.

    Raises: UsageError for a site that the model does not have, another width, small models that are not of its blocks,
    or a model that has an edit already.
    """
    if attached(loaded.model) is not None:
        raise UsageError(
            "the model has an intervention already; make one with the latents of both, or detach the first"
        )
    editing = Offsetting(loaded, intervention) if isinstance(intervention, Offset) else _editing(loaded, intervention)
    setattr(loaded.model, ATTRIBUTE, editing)
    setattr(loaded.model.config, CONFIG_KEY, True)
    return loaded


def _editing(loaded: LoadedModel, intervention: Intervention) -> _Editing:
    layer, blocks = intervention.site.layer, loaded.blocks
    if layer >= len(blocks):
        raise UsageError(f"site {intervention.site.name} is out of range: the model has layers 0 to {len(blocks) - 1}")
    if intervention.width != loaded.width:
        raise UsageError(
            f"the intervention is for states of width {intervention.width} and the model's are {loaded.width} wide; "
            "use an autoencoder of this model"
        )
    editing = _Editing(
        intervention.to(loaded.device), begins=bool(beginning(loaded.tokenizer, loaded.family)), blocks=len(blocks)
    )
    editing.handles = [
        loaded.decoder.register_forward_pre_hook(editing.listen, with_kwargs=True),
        blocks[layer].register_forward_hook(editing.edit, with_kwargs=True),
    ]
    return editing


def detach(loaded: LoadedModel) -> None:
    """Take the edit off, if there is one: what is left is the model before it."""
    editing = getattr(loaded.model, ATTRIBUTE, None)
    if editing is not None:
        for handle in editing.handles:
            handle.remove()
        delattr(loaded.model, ATTRIBUTE)
        delattr(loaded.model.config, CONFIG_KEY)


def attached(model: nn.Module) -> Intervention | Offset | None:
    """The edit that a network makes."""
    editing = getattr(model, ATTRIBUTE, None)
    return None if editing is None else editing.intervention


def edit_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Name -> parameter of what can be trained of the edit that a network makes: of an offset, the small model after."""
    editing = getattr(model, ATTRIBUTE, None)
    return editing.parameters() if isinstance(editing, Offsetting) else {}


class _Editing:
    """The two hooks: on the decoder, which knows what each token sees, and on the block."""

    def __init__(self, intervention: Intervention, *, begins: bool, blocks: int) -> None:
        self.intervention = intervention
        self.begins = begins
        """Whether sequences begin with a token of their own, which is left alone."""
        self.blocks = blocks
        self.mask: Any = None
        """As the decoder got it: None, `B S`, `B 1 T S` (booleans, or added to the scores), or a mapping of such."""
        self.positions: Tensor | None = None
        self.handles: list[Any] = []

    def listen(self, decoder: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        given = inspect.signature(decoder.forward).bind_partial(*inputs, **named).arguments
        self.mask, self.positions = given.get("attention_mask"), given.get("position_ids")

    def edit(self, _block: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> Any:
        states = output[0] if isinstance(output, tuple) else output
        if self.intervention.encoder.device != states.device:  # the network was moved
            self.intervention = self.intervention.to(states.device)
        found = (each for each in (*inputs, *named.values()) if isinstance(each, Cache))
        cache: Cache | None = next(found, None)
        # Attention has put this pass's tokens into the cache by now.
        seen = states.shape[1] if cache is None else int(cache.get_seq_length(self.intervention.site.layer))
        editable = self._editable(states, seen).to(states.device)
        opened = None
        if self.intervention.kind == "gated_clamp":
            with torch.no_grad():
                fired = (self.intervention.activations(states) > 0).any(-1) & editable
                opened = self._shares(fired.float(), editable.float(), cache, seen) > self.intervention.share
        edited = self.intervention.changed(states, editable, opened)
        return (edited, *output[1:]) if isinstance(output, tuple) else edited

    def _editable(self, states: Float[Tensor, "B T D"], seen: int) -> Bool[Tensor, "B T"]:
        """Tokens that are neither padding, where the mask tells, nor the first of a sequence that has a beginning."""
        rows, count, _ = states.shape
        if isinstance(self.mask, Tensor) and self.mask.ndim == 2:
            real = self.mask != 0
            return (real & (real.cumsum(-1) > int(self.begins)))[:, -count:]
        at = torch.arange(seen - count, seen, device=states.device) if self.positions is None else self.positions
        return (at >= int(self.begins)).expand(rows, count)

    def _shares(
        self, fired: Float[Tensor, "B T"], counted: Float[Tensor, "B T"], cache: Cache | None, seen: int
    ) -> Float[Tensor, "B T"]:
        """Of the tokens that each token sees (S up to the last), the share that fired among those that count.

        A row without a mask may hold several sequences, each from position 0 on. Sums of ones are exact, so every way
        to run a sequence gives the same shares.
        """
        rows, count = fired.shape
        if cache is not None:
            fired, counted = self._remembered(cache, fired, counted, seen)
        both = torch.stack([fired, counted], dim=-1)
        mask = self.mask
        if mask is None:
            ends = torch.arange(seen - count, seen, device=both.device).expand(rows, count)
            first = torch.zeros_like(ends) if self.positions is None else (ends - self.positions).clamp(min=0)
            upto = pad(both.cumsum(1), (0, 0, 1, 0))
            row = torch.arange(rows, device=both.device)[:, None]
            sums = upto[row, ends + 1] - upto[row, first]
        elif isinstance(mask, Tensor) and mask.ndim == 2:
            sums = (both * (mask != 0)[..., None]).cumsum(1)[:, -count:]
        elif isinstance(mask, Tensor) and mask.ndim == 4:
            visible = mask[:, 0] if mask.dtype == torch.bool else mask[:, 0] >= 0
            sums = visible.to(both.dtype) @ both
        else:
            raise UsageError(
                f"a gated clamp cannot read an attention mask that is a {type(mask).__name__}; "
                "generate with a cache that grows (cache_implementation='dynamic')"
            )
        return sums[..., 0] / sums[..., 1].clamp(min=1)

    def _remembered(
        self, cache: Cache, fired: Float[Tensor, "B T"], counted: Float[Tensor, "B T"], seen: int
    ) -> tuple[Float[Tensor, "B S"], Float[Tensor, "B S"]]:
        """The same of every token so far, kept in the cache as one layer more than the model has.

        So it goes wherever the cache's keys go: rows dropped, repeated or reordered, tokens cut off, paths of a tree.
        """
        layers: list[Any] = cache.layers
        while len(layers) <= self.blocks:
            layers.append(DynamicLayer())
        keys, values = layers[self.blocks].update(fired[:, None, :, None], counted[:, None, :, None])
        if keys.shape[-2] != seen:
            raise UsageError(
                f"a gated clamp knows {keys.shape[-2]} of the {seen} tokens in the cache; fill the cache with the "
                "intervention attached, from the first token on"
            )
        return keys[:, 0, :, 0], values[:, 0, :, 0]
