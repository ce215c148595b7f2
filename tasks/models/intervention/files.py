"""An intervention on disk: two files beside a model's weights, no code among them."""

from __future__ import annotations

import json
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from storage.records import Site, UsageError
from tasks.models.intervention.edit import Intervention
from tasks.models.intervention.offset import Offset

TENSORS, DESCRIPTION = "intervention.safetensors", "intervention.json"
FORMAT = 1
OFFSET = "offset"
"""The kind of an edit of the logits."""
HOW = (
    "This model is the weights and an edit of the residual stream after block site.layer, made at every token but the "
    "beginning-of-sequence token while it runs. tasks.models.load.load_model(folder) of the project sae-unlearn makes "
    "it; transformers' from_pretrained reads the weights alone, which is the model before the edit. With x the stream "
    "(normalised as `normalisation` says) and z = (x - center) @ encoder + bias, a latent's activation is z where z is "
    "above its threshold and 0 (or, where top > 0, among the top largest of all latents and above 0), else 0; decoder "
    "holds a row a selected latent, in the units of x. clamp: activations above 0 become -strength. conditional_clamp: "
    "those above threshold do, and boost * refusal is added there. gated_clamp: where any is above 0, and that is so at "
    "more than `share` of the tokens up to here (the beginning left out), all become -strength."
)
HOW_OFFSET = (
    "This model is the weights and an offset of its logits by a pair of small models. tasks.models.load.load_model("
    "folder) of the project sae-unlearn makes it; transformers' from_pretrained reads the weights alone, which is the "
    "model before the edit. A small model is the decoder cut to its lowest `blocks` blocks, with the tensors `before.*` "
    "or `after.*`, named as in the decoder, for its blocks and final norm, and the model's own embeddings; "
    "strength * (state of after - state of before) is added to the state after the model's final norm."
)


def save_intervention(intervention: Intervention | Offset, folder: str | Path) -> None:
    """Write `intervention.safetensors` and `intervention.json` beside a model's weights."""
    folder = Path(folder)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in intervention.tensors().items()}
    save_file(tensors, folder / TENSORS, metadata={"format": "pt"})
    (folder / DESCRIPTION).write_text(json.dumps(_described(intervention), indent=2) + "\n")


def _described(intervention: Intervention | Offset) -> dict[str, Any]:
    """All of it but the tensors."""
    if isinstance(intervention, Offset):
        numbers = {"blocks": intervention.blocks, "strength": intervention.strength}
        return {"format": FORMAT, "how": HOW_OFFSET, "kind": OFFSET, **numbers}
    rest = {name: getattr(intervention, name) for name in _plain_fields()}
    site = {"layer": intervention.site.layer, "part": intervention.site.part}
    return {"format": FORMAT, "how": HOW, **rest, "site": site, "latents": list(intervention.latents)}


def load_intervention(folder: str | Path) -> Intervention | Offset | None:
    """The edit that lies beside a model's weights; None where there is none.

    Raises: UsageError for files that are incomplete or cannot be read, or for what `Intervention` or `Offset` refuses.
    """
    folder = Path(folder)
    if not (folder / DESCRIPTION).is_file():
        return None
    try:
        described = json.loads((folder / DESCRIPTION).read_text())
        if described["format"] != FORMAT:
            raise ValueError(f"format {described['format']!r} where {FORMAT} was expected")
        tensors: dict[str, Any] = load_file(folder / TENSORS)
        if described["kind"] == OFFSET:
            pair: dict[str, dict[str, Any]] = {"before": {}, "after": {}}
            for key, tensor in tensors.items():
                which, _, name = key.partition(".")
                pair[which][name] = tensor
            return Offset(int(described["blocks"]), float(described["strength"]), **pair)
        rest: dict[str, Any] = {name: described[name] for name in _plain_fields()}
        rest["site"] = Site(**rest["site"])
        rest["latents"] = tuple(int(each) for each in rest["latents"])
        known = {each.name: each.default is MISSING for each in fields(Intervention) if each.name not in rest}
        missing = [name for name, required in known.items() if required and name not in tensors]
        strange = [name for name in tensors if name not in known]
        if missing or strange:
            raise UsageError(
                f"{folder / TENSORS} lacks {', '.join(missing) or 'no tensor'} and holds {', '.join(strange) or 'none'} "
                "too many; it must be as save_model wrote it"
            )
        return Intervention(**rest, **tensors)
    except UsageError:
        raise
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise UsageError(
            f"the intervention in {folder} cannot be read ({type(error).__name__}: {' '.join(str(error).split())}); "
            f"{DESCRIPTION} and {TENSORS} must be as save_model wrote them"
        ) from error


def _plain_fields() -> list[str]:
    """Names of the fields that are no tensors."""
    return [each.name for each in fields(Intervention) if "Tensor" not in str(each.type)]
