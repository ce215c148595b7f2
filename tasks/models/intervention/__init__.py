"""An edit made while a model runs: of the stream after one block, or of the logits (see `offset`).

Of the stream: latents of an autoencoder are set to a negative value.

With a the activations of the selected latents, d their decoder rows, and h the residual stream after the block:

    clamp              where a_j > 0:  a_j <- -m
    conditional_clamp  where a_j > t:  a_j <- -m;  at a token where that happens, a refusal latent rises by b
    gated_clamp        where share > q and any a_j > 0:  every selected a_j <- -m
    h <- h + decode(a') - decode(a)

so that what the autoencoder does not explain of h stays. The beginning-of-sequence token is never edited; where the
model's sequences have none (see `tasks.models.prompts.beginning`), the first token is edited as any other.

The share of a token is that of the tokens before it and itself at which any selected latent fires; the
beginning-of-sequence token counts in neither number.

The weights are unchanged: whoever removes the hook has the knowledge back. A folder that `tasks.models.load.save_model`
wrote holds the edit as `intervention.json` and `intervention.safetensors`, and `tasks.models.load.load_model` makes it
again; transformers' own `from_pretrained` does not, which `sae_unlearn_intervention: true` in config.json gives away.

Source: clamp, Farrell et al. 2024 (arXiv 2410.19278); conditional clamp, Khoriaty et al. 2025 (arXiv 2503.11127);
gated clamp, Muhamed et al. 2025 (arXiv 2504.08192).
Departs: the published gate looks at the whole prompt once. Here it is causal, token by token, so that a prefix tree, a
plain pass and a pass with a key-value cache agree; it can open early in a sequence, and close again.
"""

from tasks.models.intervention.edit import Intervention, from_autoencoder
from tasks.models.intervention.files import load_intervention, save_intervention
from tasks.models.intervention.hooks import attach, attached, detach, edit_parameters
from tasks.models.intervention.offset import Offset, offset_of

__all__ = [
    "Intervention",
    "Offset",
    "attach",
    "attached",
    "detach",
    "edit_parameters",
    "from_autoencoder",
    "load_intervention",
    "offset_of",
    "save_intervention",
]
