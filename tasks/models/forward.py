"""Running a network and reading what is inside: every hook of the project lives here.

`Site(layer, "residual")` is the stream *after* block `layer`; `mlp` and `attention` are what the block adds to it;
`neurons` is what the last linear map of its feed-forward part reads, N wide.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from storage.records import Site, UsageError
from tasks.models.families import linear_weights
from tasks.models.load import LoadedModel
from tasks.models.plan import ROW, WIDE, Batch, Plan, plan_buckets, plan_trie

logger = logging.getLogger("sae_unlearn")

PARTS = ("residual", "mlp", "attention", "neurons")
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}
"""Largest relative error at which an ancestor mask counts as working; a mask that is ignored gives errors of order 1."""

_verdicts: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
_recomputing: WeakSet[nn.Module] = WeakSet()


class _Enough(Exception):
    """Raised after the last wanted block, to leave the forward pass there."""


def all_residuals(loaded: LoadedModel) -> tuple[Site, ...]:
    """The residual stream after every block."""
    return tuple(Site(layer) for layer in range(len(loaded.blocks)))


def module_at(loaded: LoadedModel, site: Site) -> nn.Module:
    """The module whose output is the site; that of `neurons` reads it.

    Raises: UsageError for a layer or a part the model does not have.
    """
    blocks = loaded.blocks
    if not 0 <= site.layer < len(blocks):
        raise UsageError(f"site {site.name} is out of range: the model has layers 0 to {len(blocks) - 1}")
    if site.part not in PARTS:
        raise UsageError(f"site part {site.part!r} is not known; expected one of {', '.join(PARTS)}")
    block = blocks[site.layer]
    if site.part == "residual":
        return block
    family = loaded.family
    inside = {"mlp": family.mlp_output, "attention": family.attention_output, "neurons": family.down_projection}
    return block.get_submodule(inside[site.part])


def width_of(loaded: LoadedModel, site: Site) -> int:
    """How many numbers the site has at each token."""
    if site.part != "neurons":
        return loaded.width
    return linear_weights(module_at(loaded, site))[""].shape[1]


@contextmanager
def captured(loaded: LoadedModel, sites: Sequence[Site]) -> Iterator[dict[Site, Float[Tensor, "B T D"]]]:
    """Collect the sites of the forward pass made inside, gradients kept; a second pass replaces the first.

    Raises: RuntimeError when a site was never reached (a block that returns something unknown does so silently).
    """
    states: dict[Site, Tensor] = {}
    handles = []
    try:
        for site in dict.fromkeys(sites):

            def keep(_module: nn.Module, inputs: Any, output: Any, site: Site = site) -> None:
                states[site] = _tensor(inputs if site.part == "neurons" else output).to(loaded.device)

            handles.append(module_at(loaded, site).register_forward_hook(keep))
        yield states
    finally:
        for handle in handles:
            handle.remove()
    silent = [site.name for site in sites if site not in states]
    if silent:
        raise RuntimeError(f"the hooks of {', '.join(silent)} never fired: was the model run inside `captured`?")


@contextmanager
def edited(loaded: LoadedModel, site: Site, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Replace the site's value by `change(value)` in every forward pass made inside; value is `B T D`.

    Raises: UsageError for a site inside a block that is computed again for the gradients, when the edit is gone.
    """
    if site.part != "residual" and loaded.model in _recomputing and torch.is_grad_enabled():
        raise UsageError(
            f"{site.name} lies inside a block, which checkpointing computes again after the edit is gone; set "
            "[alignment] checkpointing = false, or use residual sites"
        )

    def before(_module: nn.Module, inputs: Any) -> Any:
        return (change(_tensor(inputs)), *inputs[1:])

    def replace(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        value = change(_tensor(output))
        return (value, *output[1:]) if isinstance(output, tuple) else value

    module = module_at(loaded, site)
    reads = site.part == "neurons"
    handle = module.register_forward_pre_hook(before) if reads else module.register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def recomputed(loaded: LoadedModel) -> Iterator[None]:
    """What lies inside a block is not kept for the backward pass of what is run here, but computed again: one more forward
    pass, and the same gradients. Unlike transformers' own checkpointing it leaves the model in evaluation mode, without
    dropout."""
    blocks: list[Any] = list(loaded.blocks)
    own = [vars(block).get("forward") for block in blocks]  # accelerate puts one there
    _recomputing.add(loaded.model)
    try:
        for block in blocks:
            block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
        yield
    finally:
        _recomputing.discard(loaded.model)
        for block, forward in zip(blocks, own, strict=True):
            del block.forward
            if forward is not None:
                block.forward = forward


@contextmanager
def beginning_at(loaded: LoadedModel, block: int, state: Float[Tensor, "B T D"]) -> Iterator[None]:
    """Every forward pass made inside begins at a block, the state being its input: the blocks below it do nothing."""
    below: list[Any] = list(loaded.blocks)[:block]

    def give(_module: nn.Module, inputs: Any) -> Any:
        return (state.to(_tensor(inputs).dtype), *inputs[1:])

    own = [vars(each).get("forward") for each in below]
    handle = loaded.blocks[block].register_forward_pre_hook(give)
    try:
        for each in below:
            each.forward = _pass_on
        yield
    finally:
        handle.remove()
        for each, forward in zip(below, own, strict=True):
            del each.forward
            if forward is not None:
                each.forward = forward


def run_decoder(
    loaded: LoadedModel,
    tokens: Int[Tensor, "B T"],
    mask: Tensor | None = None,
    positions: Int[Tensor, "B T"] | None = None,
    *,
    sites: Sequence[Site] = (),
    until: int | None = None,
    **more: Any,
) -> tuple[dict[Site, Float[Tensor, "B T D"]], Any]:
    """One pass of the decoder: the sites, and its output (None when it was left early); gradients are kept.

    States come back to the model's device wherever its blocks lie.

    mask       None (plain causal), `B T` with 1 at real tokens, or `B 1 T T` added to the attention scores.
    until      leave after this block.
    """
    arguments: dict[str, Any] = {"input_ids": tokens, "attention_mask": mask, "use_cache": False} | more
    if positions is not None:
        arguments["position_ids"] = positions
    output = None
    with captured(loaded, sites) as states:
        # Registered last, so that it fires after the hooks of `captured` on the same block.
        handle = None if until is None else loaded.blocks[until].register_forward_hook(_leave)
        try:
            output = loaded.decoder(**arguments)
            output.last_hidden_state = output.last_hidden_state.to(loaded.device)
        except _Enough:
            pass
        finally:
            if handle is not None:
                handle.remove()
    return states, output


def logits_of(loaded: LoadedModel, hidden: Float[Tensor, "*B D"]) -> Float[Tensor, "*B V"]:
    """The logits of states after the final norm, soft-capped where the model does so.

    Raises: UsageError for a model that was loaded without its head.
    """
    head = loaded.model.get_output_embeddings()
    if head is None:
        raise UsageError("the model was loaded without its head (blocks was given); load it whole to get predictions")
    logits = head(hidden).to(loaded.device)
    cap = getattr(loaded.config, "final_logit_softcapping", None)
    return logits if cap is None else torch.tanh(logits / cap) * cap


def distributions_of(loaded: LoadedModel, hidden: Float[Tensor, "*B D"]) -> Float[Tensor, "*B V"]:
    """Log-probabilities of the next token, nats, float32, of states after the final norm."""
    return logits_of(loaded, hidden).float().log_softmax(-1)


@torch.no_grad()
def read_sites(
    loaded: LoadedModel,
    sequences: Sequence[Sequence[int]],
    wanted: Sequence[Sequence[int]],
    sites: Sequence[Site],
    *,
    budget: int | None = None,
) -> dict[Site, Float[Tensor, "N D"]]:
    """The sites at the wanted positions, rows in the order of (sequence, wanted position), float32, on the device.

    All sites are read in one pass, which ends after the last block that is wanted; equal beginnings are run once.

    budget  tokens in a batch, about (None: by device and width); it changes nothing but speed and memory.
    """
    for site in sites:
        module_at(loaded, site)
    if not sites:
        return {}
    plan = plan_for(loaded, sequences, wanted, budget=budget)
    until = max(site.layer for site in sites)
    found = {
        site: torch.empty(plan.items, width_of(loaded, site), dtype=torch.float32, device=loaded.device)
        for site in dict.fromkeys(sites)
    }
    for batch in plan.batches:
        states, _ = run_batch(loaded, batch, plan.trie, sites=sites, until=until)
        item, row, node = (torch.from_numpy(each).to(loaded.device) for each in (batch.item, batch.row, batch.node))
        for site, state in states.items():
            found[site][item] = state[row, node].float()
    return found


@torch.no_grad()
def next_token_log_probabilities(
    loaded: LoadedModel,
    sequences: Sequence[Sequence[int]],
    *,
    budget: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "N V"]:
    """Log-probability of every next token after each sequence, in nats, on the device."""
    plan = plan_for(loaded, sequences, [[len(sequence) - 1] for sequence in sequences], budget=budget)
    found = torch.empty(plan.items, loaded.vocabulary, dtype=dtype, device=loaded.device)
    for batch in plan.batches:
        hidden, which = final_states(loaded, batch, plan.trie)
        log_p = distributions_of(loaded, hidden).to(dtype)
        found[torch.from_numpy(batch.item).to(loaded.device)] = log_p[which]
    return found


def usual_budget(loaded: LoadedModel) -> int:
    """Tokens in a batch: small enough for a processor's cache, large enough to fill an accelerator."""
    numbers = 2**25 if loaded.device.type == "cuda" else 2**19
    return min(max(numbers // loaded.width, 256), 65536 if loaded.device.type == "cuda" else 2048)


def plan_for(
    loaded: LoadedModel,
    sequences: Sequence[Sequence[int]],
    wanted: Sequence[Sequence[int]],
    *,
    budget: int | None = None,
) -> Plan:
    """The cheapest plan that is exact for this model: the prefix tree, or distinct sequences of one length."""
    budget = budget or usual_budget(loaded)
    longest = 1 + max((position for positions in wanted for position in positions), default=0)
    window = getattr(loaded.config, "sliding_window", None)
    if (window is None or longest <= window) and takes_ancestor_mask(loaded):
        return plan_trie(sequences, wanted, budget=budget, row=ROW if loaded.width < WIDE else 2 * ROW)
    return plan_buckets(sequences, wanted, budget=budget)


def run_batch(
    loaded: LoadedModel, batch: Batch, trie: bool, *, sites: Sequence[Site] = (), until: int | None = None, **more: Any
) -> tuple[dict[Site, Float[Tensor, "R T D"]], Any]:
    """`run_decoder` on the rows of a plan."""
    tokens = torch.from_numpy(batch.tokens).to(loaded.device)
    if not trie:
        return run_decoder(loaded, tokens, sites=sites, until=until, **more)
    end = torch.from_numpy(batch.end).to(loaded.device)
    depth = torch.from_numpy(batch.depth).to(loaded.device)
    return run_decoder(loaded, tokens, _scores(loaded, end), depth, sites=sites, until=until, **more)


def final_states(loaded: LoadedModel, batch: Batch, trie: bool) -> tuple[Float[Tensor, "u D"], Int[Tensor, " n"]]:
    """States after the final norm at the distinct wanted nodes, and which of them each wanted item is."""
    _, output = run_batch(loaded, batch, trie)
    nodes, which = np.unique(batch.row * batch.tokens.shape[1] + batch.node, return_inverse=True)
    hidden = output[0].flatten(0, 1)[torch.from_numpy(nodes).to(loaded.device)]
    return hidden, torch.from_numpy(which).to(loaded.device)


def takes_ancestor_mask(loaded: LoadedModel) -> bool:
    """Whether trees give the states of plain sequences in this model: tried once a model, on a few tokens."""
    model = loaded.model
    if not loaded.family.ancestor_mask:
        return False
    if model not in _verdicts:
        _verdicts[model] = _mask_works(loaded)
        if not _verdicts[model]:
            logger.warning(
                "%s does not take an ancestor mask: equal beginnings of prompts are computed anew, which is slower",
                type(model).__name__,
            )
    return _verdicts[model]


@torch.no_grad()
def _mask_works(loaded: LoadedModel) -> bool:
    """Compare four short sequences that branch twice, run as a tree and run plainly."""
    random = np.random.default_rng(0)
    ids = random.integers(0, loaded.vocabulary, size=(4, 6))
    ids[:, :2] = ids[0, :2]
    ids[1, :4], ids[3, :4] = ids[0, :4], ids[2, :4]
    site = Site(len(loaded.blocks) - 1)
    plan = plan_trie(ids.tolist(), [list(range(6))] * 4)
    try:
        plain = run_decoder(loaded, torch.from_numpy(ids).to(loaded.device), sites=[site])[0][site].flatten(0, 1)
        (batch,) = plan.batches
        tree = run_batch(loaded, batch, True, sites=[site])[0][site]
    except (ValueError, RuntimeError, TypeError) as error:
        logger.warning("the ancestor mask was refused: %s", str(error).splitlines()[0] if str(error) else error)
        return False
    row, node = torch.from_numpy(batch.row), torch.from_numpy(batch.node)
    found = tree[row, node].float()
    expected = plain[torch.from_numpy(batch.item)].float()
    error_ = (found - expected).norm(dim=-1) / expected.norm(dim=-1)
    return bool((error_ < TOLERANCE.get(plain.dtype, 1e-3)).all())


def _scores(loaded: LoadedModel, end: Int[Tensor, "R T"]) -> Float[Tensor, "R 1 T T"]:
    """The ancestor mask as numbers added to the attention scores; see `plan.ancestor_mask`."""
    index = torch.arange(end.shape[1], device=end.device)
    seen: Bool[Tensor, "R T T"] = (index <= index[:, None]) & (index[:, None] < end[:, None, :])
    dtype = next(loaded.model.parameters()).dtype
    return torch.zeros(seen.shape, dtype=dtype, device=end.device).masked_fill_(~seen, torch.finfo(dtype).min)[:, None]


def _tensor(output: Any) -> Tensor:
    """The state in a module's output, which is a tensor or a tuple that begins with it."""
    value = output[0] if isinstance(output, (tuple, list)) else output
    if not isinstance(value, Tensor):
        raise TypeError(f"a hook found {type(value).__name__} where a tensor, or a tuple that begins with one, was due")
    return value


def _pass_on(hidden: Tensor, *_: Any, **__: Any) -> Tensor:
    return hidden


def _leave(*_: Any) -> None:
    raise _Enough
