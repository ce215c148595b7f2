"""A causal language model, read from a folder or a hub, with what the rest needs to know about it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from storage.records import UsageError
from tasks.models.chat.template import Chat, chat_of
from tasks.models.families import FAMILIES, Family, decoder_of, family_of_type
from tasks.models.hub import fetch
from tasks.models.intervention import Intervention, Offset, attach, attached, load_intervention, save_intervention
from tasks.models.intervention.files import DESCRIPTION, TENSORS
from tasks.models.intervention.hooks import CONFIG_KEY
from tasks.models.placement import check_fits, placing

SHARD = "5GB"
"""Most that one file of weights holds: what hubs and networks take without complaint."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A network in evaluation mode, its tokenizer and its family."""

    model: Any
    """A transformers model; without a head when it was cut to its lower blocks."""
    tokenizer: Any
    family: Family
    device: torch.device
    """Where tokens go in and what is read comes out; the weights may lie elsewhere too."""
    chat: Chat | None = None
    """The chat template that questions are put through."""

    @property
    def decoder(self) -> nn.Module:
        """The text decoder: embeddings, blocks and final norm."""
        return decoder_of(self.model, self.family)

    @property
    def blocks(self) -> nn.ModuleList:
        """The decoder blocks, lowest first."""
        blocks = getattr(self.decoder, self.family.blocks)
        assert isinstance(blocks, nn.ModuleList)
        return blocks

    @property
    def embeddings(self) -> nn.Module:
        """The token embeddings."""
        return self.decoder.get_submodule(self.family.embeddings)

    @property
    def config(self) -> Any:
        """The configuration of the text part."""
        return self.model.config.get_text_config()

    @property
    def width(self) -> int:
        """D, the width of the residual stream."""
        return int(self.config.hidden_size)

    @property
    def vocabulary(self) -> int:
        """V, the number of logits."""
        return int(self.config.vocab_size)

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Token ids that end an answer: the chat template's, the tokenizer's, then those of the generation settings."""
        generation = getattr(self.model, "generation_config", None)
        listed = getattr(generation, "eos_token_id", None)
        ids = [None if self.chat is None else self.chat.end, getattr(self.tokenizer, "eos_token_id", None)]
        ids += listed if isinstance(listed, (list, tuple)) else [listed]
        return tuple(dict.fromkeys(int(i) for i in ids if i is not None))

    @property
    def intervention(self) -> Intervention | Offset | None:
        """The edit that the network makes in every pass; see `tasks.models.intervention`."""
        return attached(self.model)


def pick_device(name: str = "auto") -> torch.device:
    """`auto` (the accelerator when there is one), `cpu` or `cuda`.

    Raises: UsageError for another name, or for `cuda` where there is none.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise UsageError(f"device {name!r} is not known; expected auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("device 'cuda' was asked for and torch finds none; use device = 'auto' or 'cpu'")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def load_model(
    location: str | Path,
    *,
    revision: str = "",
    device: str = "cpu",
    dtype: str = "float32",
    blocks: int | None = None,
    chat: bool = False,
    placement: str = "one",
) -> LoadedModel:
    """Read a model from a folder in Hugging Face format, or by its hub id.

    revision  commit of a hub model, a branch or a tag (empty: main); nothing for a folder.
    blocks    keep this many of the lowest blocks and no head: enough to read sites below them.
    chat      put questions through the tokenizer's chat template.
    placement `one`: on the device; `spread`: over all GPUs; `offload`: what does not fit on the device in the host's
              memory, and what does not fit there on disk. See `tasks.models.placement`.
    Only safetensors are read and no code that comes with a model is run. A model that was saved with an intervention
    makes it again, unless it was cut below the block, or the logits, that are edited.

    Raises: UsageError for a folder without a model, a model that cannot be fetched or read, one whose weights
    are incomplete (transformers would fill the gap with random numbers) or whose intervention is, one that is to be
    asked by chat and has no chat template, or one that cannot be placed so.
    """
    target = pick_device(device)
    if dtype not in DTYPES:
        raise UsageError(f"dtype {dtype!r} is not known; expected one of {', '.join(DTYPES)}")
    if dtype == "float16" and target.type == "cpu":
        raise UsageError("dtype 'float16' computes several times slower than float32 on a CPU; use float32 or bfloat16")
    placed = placing(placement, target)
    with quiet(), _explained(location):
        source = model_folder(location, revision)
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        text = config.get_text_config()
        family = family_of_type(str(text.model_type))
        if blocks is not None:
            _cut(text, blocks)
        kind: Any = AutoModelForCausalLM if blocks is None else AutoModel
        model, report = kind.from_pretrained(
            source,
            config=config,
            dtype=DTYPES[dtype],
            attn_implementation=family.attention,
            use_safetensors=True,
            output_loading_info=True,
            trust_remote_code=False,
            **placed,
        )
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        intervention = _intervention_at(source, config)
    missing = sorted(report["missing_keys"]) + sorted(str(key) for key in report["mismatched_keys"])
    if missing:
        raise UsageError(
            f"the weights of {location} lack {len(missing)} tensors of {type(model).__name__}, such as {missing[0]}; "
            "give a folder with a complete model"
        )
    if placement == "spread":
        check_fits(model)
    template = chat_of(tokenizer, str(location)) if chat else None
    loaded = LoadedModel((model if placed else model.to(target)).eval(), tokenizer, family, target, template)
    if intervention is not None and (blocks is None or _below(intervention, blocks)):
        attach(loaded, intervention)
    return loaded


def read_configuration(location: str | Path, revision: str = "") -> tuple[Any, Family]:
    """The configuration of a model in a folder or on a hub, and its family; no weights need be there.

    Raises: UsageError for one that cannot be had or read, or of a family that is not known.
    """
    with quiet(), _explained(location):
        folder = Path(location).expanduser()
        if not (folder / "config.json").is_file():
            folder = model_folder(location, revision, weights=False)
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        return config, family_of_type(str(config.get_text_config().model_type))


def save_model(loaded: LoadedModel, folder: str | Path) -> None:
    """Write weights (safetensors), configuration and tokenizer as transformers does, and the intervention beside them.

    Weights beyond `SHARD` are parted into several files, with an index.
    """
    with quiet():
        loaded.model.save_pretrained(folder, max_shard_size=SHARD)
    loaded.tokenizer.save_pretrained(folder)
    if loaded.intervention is not None:
        save_intervention(loaded.intervention, folder)


def check_comparable(base: tuple[str | Path, str], other: tuple[str | Path, str]) -> None:
    """That the other model reads the base model's tokens and has states of its shape; (location, revision) each.

    No weights are read.

    Raises: UsageError for a model that cannot be read, another tokenizer, or states of another width or depth.
    """
    (mine, my_shape), (theirs, their_shape) = _shape_of(*base), _shape_of(*other)
    different = sorted(set(mine.items()) ^ set(theirs.items()))
    if different:
        raise UsageError(
            f"{other[0]} has another tokenizer than the base model: {len({token for token, _ in different})} tokens differ, such as "
            f"{different[0][0]!r}, so no score could be compared; give a model that was made from the experiment's base model"
        )
    if my_shape != their_shape:
        raise UsageError(
            f"{other[0]} has {their_shape[0]} layers of width {their_shape[1]}, the base model and its autoencoders "
            f"{my_shape[0]} of width {my_shape[1]}; give a model that was made from the experiment's base model"
        )


def depth_of(location: str | Path, revision: str = "") -> int:
    """Blocks of a model. No weights are read. Raises: UsageError for a model that cannot be read."""
    return _shape_of(location, revision)[1][0]


def read_tokenizer(folder: Path) -> tuple[Any, Family]:
    """The tokenizer and the family of a model in a folder. Raises: UsageError where they cannot be read."""
    with quiet(), _explained(folder):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False).get_text_config()
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False), family_of_type(str(config.model_type))


def _shape_of(location: str | Path, revision: str) -> tuple[dict[str, int], tuple[int, int]]:
    """Vocabulary, and (layers, width)."""
    with quiet(), _explained(location):
        source = model_folder(location, revision, weights=False)
        config = AutoConfig.from_pretrained(source, trust_remote_code=False).get_text_config()
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    return tokenizer.get_vocab(), (int(config.num_hidden_layers), int(config.hidden_size))


def model_folder(location: str | Path, revision: str = "", *, weights: bool = True) -> Path:
    """The folder that holds the model: the one given, or the hub's files in the local cache.

    weights  False for the configuration and the tokenizer alone, where they have to be fetched.

    Raises: UsageError for a folder without a model, or one that cannot be fetched.
    """
    folder = Path(location).expanduser()
    looks_like_path = isinstance(location, Path) or str(location).startswith((".", "/", "~"))
    fetched = not folder.exists() and not looks_like_path
    if fetched:
        folder = fetch(str(location), revision, weights=weights)
    elif not folder.is_dir():
        raise UsageError(f"{folder} is not a folder; give a folder in Hugging Face format or a hub id")
    if not (folder / "config.json").is_file():
        raise UsageError(f"{location} holds no config.json; give a model in Hugging Face format")
    if (weights or not fetched) and not any(folder.glob("*.safetensors")):
        raise UsageError(
            f"{location} holds no *.safetensors, and pickles are not read; save it with safe serialisation, or give "
            "another model"
        )
    return folder


def _intervention_at(folder: Path, config: Any) -> Intervention | Offset | None:
    """The edit that was saved with a model."""
    told = bool(getattr(config, CONFIG_KEY, False))
    intervention = load_intervention(folder)
    if told and intervention is None:
        raise UsageError(
            f"{folder} was saved with an intervention and holds no {DESCRIPTION}; put it and {TENSORS} beside the "
            f"weights, or take {CONFIG_KEY} out of config.json to read the model before the edit"
        )
    return intervention


def _below(intervention: Intervention | Offset, blocks: int) -> bool:
    """Whether the edit is made in so many of the lowest blocks."""
    return isinstance(intervention, Intervention) and intervention.site.layer < blocks


def _cut(text_config: Any, blocks: int) -> None:
    """Have the model built with its lowest blocks only."""
    total = int(text_config.num_hidden_layers)
    if not 1 <= blocks <= total:
        raise UsageError(f"blocks = {blocks} is out of range; the model has {total}, give 1 to {total}")
    layer_types = getattr(text_config, "layer_types", None)
    text_config.num_hidden_layers = blocks
    if layer_types:
        text_config.layer_types = list(layer_types)[:blocks]


@contextmanager
def _explained(location: str | Path) -> Iterator[None]:
    """Turn the libraries' errors into one line that says what to do."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise UsageError(
                f"the model in {location} needs code of its own, and such code is never run; "
                f"give a model of a family that is supported: {', '.join(family.name for family in FAMILIES)}"
            ) from error
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(
            f"the model in {location} cannot be read ({first}); check its config.json and weights"
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no report of the upper blocks that were left out on purpose."""
    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
