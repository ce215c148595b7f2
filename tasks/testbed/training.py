"""A small Gemma 2 network and how it learns answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import Gemma2Config, Gemma2ForCausalLM

from tasks.testbed.examples import Lessons, Rows
from tasks.testbed.muon import Muon
from tasks.testbed.recipe import HEAD_WIDTH, Recipe
from tasks.testbed.tokenizer import BOS, EOS, PAD

WARM_UP = 30
"""Steps over which the learning rates rise, in a training of 400; in proportion otherwise."""
DECAY = 0.9
"""Share of the steps, at the end, over which they fall to zero."""
BETAS = (0.9, 0.98)
CLIP = 1.0
"""Largest norm of the gradients that AdamW sees; Muon does not heed their size."""
CONTEXT = 128
"""Tokens; the sliding window is no shorter, so every layer sees all."""

Report = Callable[[int, float], None]


def network(recipe: Recipe) -> Any:
    """A new Gemma 2: tied embeddings, no soft-capping, weights from the recipe's seed."""
    config = Gemma2Config(
        vocab_size=recipe.vocabulary,
        hidden_size=recipe.width,
        intermediate_size=2 * recipe.width,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.width // HEAD_WIDTH,
        num_key_value_heads=recipe.width // HEAD_WIDTH,
        head_dim=HEAD_WIDTH,
        query_pre_attn_scalar=HEAD_WIDTH,
        max_position_embeddings=CONTEXT,
        sliding_window=CONTEXT,
        attn_logit_softcapping=None,
        final_logit_softcapping=None,
        tie_word_embeddings=True,
        pad_token_id=PAD,
        eos_token_id=EOS,
        bos_token_id=BOS,
        use_cache=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return Gemma2ForCausalLM(config)


def train(model: Any, lessons: Lessons, batches: Sequence[np.ndarray], recipe: Recipe, report: Report) -> list[float]:
    """Learn answers and their <eos>, one batch a step; returns each step's loss in nats a token.

    Raises: ArithmeticError when the training diverges.
    """
    matrices = [weight for name, weight in model.named_parameters() if weight.ndim == 2 and "embed" not in name]
    inside = {id(weight) for weight in matrices}
    others = [weight for weight in model.parameters() if id(weight) not in inside]
    muon = Muon(matrices)
    adam = torch.optim.AdamW(others, betas=BETAS, weight_decay=0.0, fused=True)
    losses = []
    model.train()
    for step, which in enumerate(batches):
        loss = _loss(model, lessons.rows.select(which))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(others, CLIP)
        factor = rate_factor(step, len(batches))
        adam.param_groups[0]["lr"] = recipe.adam_rate * factor
        adam.step()
        muon.step(recipe.muon_rate * factor)
        model.zero_grad()
        losses.append(loss.item())
        if not np.isfinite(losses[-1]):
            raise ArithmeticError(f"the loss is {losses[-1]} at step {step + 1}")
        report(step + 1, losses[-1])
    few = max(1, len(losses) // 10)
    if np.mean(losses[-few:]) >= np.mean(losses[:few]):
        raise ArithmeticError(
            f"the loss did not fall: {np.mean(losses[:few]):.2f} at first, {np.mean(losses[-few:]):.2f} at last"
        )
    return losses


def _loss(model: Any, rows: Rows) -> torch.Tensor:
    """Mean loss over answer tokens; logits are computed there only.

    No mask is needed for the pads: they come after all that counts.
    """
    ids = torch.from_numpy(rows.ids)
    at_row, at_position = (torch.from_numpy(each) for each in rows.predictions())
    states = model.model(input_ids=ids).last_hidden_state[at_row, at_position]
    return cross_entropy(model.lm_head(states), ids[at_row, at_position + 1])


def rate_factor(step: int, steps: int) -> float:
    """Share of the peak learning rate at a step counted from 0: up, level, down to zero."""
    warm_up = max(1.0, WARM_UP * min(1.0, steps / 400))
    return min(1.0, (step + 1) / warm_up, (steps - step) / (DECAY * steps))
