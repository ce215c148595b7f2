"""Loading published autoencoders through sae-lens, each from one commit of its repository or from unchanged files.

sae-lens asks the hub for whatever `main` is that day and takes no revision. So its loaders run here with a download
that adds one, which also lets the families whose shapes it reads over the network load from a filled cache.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import torch
from huggingface_hub import errors as hub_errors

from storage.records import UsageError
from tasks.models.hub import commit_of, explained
from tasks.models.published_saes.description import SaeDescription, describe, gemma_scope_place
from tasks.models.published_saes.names import relation_of
from tasks.models.published_saes.sources import (
    PARAMETERS,
    SaeSource,
    listed_active,
    listed_model,
    path_of,
    repository_of,
)
from tasks.models.sae import Autoencoder, load_sae

FILES = ("cfg.json", "sae_weights.safetensors")
"""What a folder in sae-lens' format holds."""
ARRAYS = ("W_dec", "W_enc", "b_dec", "b_enc", "threshold")
"""What Gemma Scope's file holds; older ones begin with a small w."""
_one_at_a_time = threading.Lock()


class _Unpinned(RuntimeError):
    """sae-lens read something else than the commit that it was to read."""


@dataclass(frozen=True, eq=False)
class PublishedSae:
    """A loaded autoencoder, what it says of itself, and where exactly it came from."""

    autoencoder: Autoencoder
    description: SaeDescription
    source: SaeSource
    """Pinned."""


def pin_source(source: SaeSource) -> SaeSource:
    """The same source with the commit, or the digest of the files, that it stands for now.

    Raises: UsageError where a repository can be had neither from the hub nor from its cache, or files are missing.
    """
    if source.on_disk:
        return dataclasses.replace(source, revision=_digest(source))
    try:
        commit = commit_of(repository_of(source), source.revision)
    except UsageError as error:
        raise UsageError(f"{source.written}: {error}; {_elsewhere(source)}") from error
    return dataclasses.replace(source, revision=commit)


def describe_source(source: SaeSource) -> SaeDescription:
    """What the autoencoder says of itself; of most, only a small file is fetched for it.

    Raises: UsageError for one that cannot be had, read or used.
    """
    return _description(_checked(source))


def load_published(source: SaeSource, *, device: str = "cpu") -> PublishedSae:
    """Load a published autoencoder: float32, frozen, and described; unpinned sources are pinned.

    What was trained on centred states centres what it reads; see `SaeDescription` for what is left to be folded.

    Raises: UsageError for one that cannot be had, read or used, or whose files changed since it was pinned.
    """
    source = _checked(source)
    description = _description(source)
    with _explained(source), _quiet():
        if source.kind == "folder":
            autoencoder = load_sae(source.location, device=device)
        elif source.kind == "gemma_scope":
            autoencoder = _frozen(_from_arrays(source, device))
        else:
            autoencoder = _frozen(_from_release(source, device))
    # a factor that sae-lens lists is folded by now
    found = _told(autoencoder.sae.cfg.to_dict(), source, description.active)
    if found.centred:
        _centre_input(autoencoder.sae)
    return PublishedSae(autoencoder, found, source)


@torch.no_grad()
def fold_scale(autoencoder: Autoencoder, scale: float) -> None:
    """Have the autoencoder, which was trained on states times `scale`, read and write states as they are; in place."""
    autoencoder.sae.fold_activation_norm_scaling_factor(scale)


@torch.no_grad()
def _centre_input(sae: Any) -> None:
    """Have the encoder take the mean over coordinates off the state: (Px - b) W + c = (x - b) PW + c + b PW - b W."""
    before = sae.W_enc.data
    centred = before - before.mean(0, keepdim=True)  # P W: P is symmetric and takes the mean off a vector
    if sae.cfg.apply_b_dec_to_input:
        sae.b_enc.data = sae.b_enc.data + sae.b_dec.data @ (centred - before)
    sae.W_enc.data = centred


def _description(source: SaeSource) -> SaeDescription:
    with _explained(source):
        config = _configuration(source)
    return _told(config, source, listed_active(source))


def _told(config: Mapping[str, Any], source: SaeSource, active: float | None) -> SaeDescription:
    """What a configuration tells. Where it names quite another model than the list of releases, the list is right:
    sae-lens writes Llama 3.1 into that of autoencoders made for a model distilled from it."""
    found = describe(config, name=source.written, hook=source.hook, active=active)
    listed = listed_model(source)
    if listed and relation_of(found.model, listed) == "other":
        return dataclasses.replace(found, model=listed)
    return found


def _frozen(sae: Any) -> Autoencoder:
    for parameter in sae.parameters():
        parameter.data = parameter.data.contiguous()  # some loaders leave transposed views, which cannot be saved
    return Autoencoder(sae.eval().requires_grad_(False))


def _checked(source: SaeSource) -> SaeSource:
    """The source pinned; what is on disk must be what it was when it was."""
    pinned = pin_source(source)
    if source.on_disk and source.revision not in ("", pinned.revision):
        raise UsageError(
            f"{source.written} is not what it was when it was chosen (SHA-256 {pinned.revision[:12]}, "
            f"expected {source.revision[:12]}); put the old files back, or choose it anew"
        )
    return pinned


def _digest(source: SaeSource) -> str:
    location = Path(source.location)
    paths = [location / name for name in FILES] if source.kind == "folder" else [location]
    digest = hashlib.sha256()
    for path in paths:
        if not path.is_file():
            raise UsageError(f"{location} holds no {path.name}; give a folder that sae-lens' save_model wrote")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _configuration(source: SaeSource) -> Mapping[str, Any]:
    from sae_lens.loading import pretrained_sae_loaders as loaders

    if source.kind == "gemma_scope":
        path = _parameters(source)
        with _arrays(path) as arrays:
            return _gemma_scope_configuration(source, arrays["b_dec"]().shape[0], arrays["b_enc"]().shape[0])
    if source.kind == "folder":
        return loaders.handle_config_defaulting(loaders.get_sae_lens_config_from_disk(source.location))
    with _at_commit(source), _quiet():
        return loaders.load_sae_config_from_huggingface(source.location, source.name)


def _gemma_scope_configuration(source: SaeSource, width: int, latents: int) -> dict[str, Any]:
    model, hook = gemma_scope_place(f"{source.location}/{source.name}" if source.name else source.location)
    return {
        "architecture": "jumprelu",
        "d_in": width,
        "d_sae": latents,
        "dtype": "float32",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        # without a version, sae-lens takes it for a configuration of before its sixth and rewrites it
        "metadata": {"sae_lens_version": "6.0.0", "model_name": model, "hook_name": source.hook or hook},
    }


def _from_arrays(source: SaeSource, device: str) -> Any:
    from sae_lens import SAE

    def convert(path: str | Path, device: str, cfg_overrides: dict[str, Any] | None) -> tuple[dict[str, Any], Any]:
        with _arrays(Path(path)) as arrays:
            weights = {name: torch.from_numpy(read()).float().to(device) for name, read in arrays.items()}
        width, latents = weights["b_dec"].shape[0], weights["b_enc"].shape[0]
        shapes = {"W_enc": (width, latents), "W_dec": (latents, width), "threshold": (latents,)}
        for name, shape in shapes.items():
            if tuple(weights[name].shape) != shape:
                raise UsageError(f"{source.written}: {name} has shape {tuple(weights[name].shape)}, expected {shape}")
        config = _gemma_scope_configuration(source, width, latents)
        return {**config, "device": device, **(cfg_overrides or {})}, weights

    return SAE.load_from_disk(str(_parameters(source)), device=device, dtype="float32", converter=convert)


def _from_release(source: SaeSource, device: str) -> Any:
    from sae_lens import SAE

    with _at_commit(source) as fetched:
        sae = SAE.from_pretrained(source.location, source.name, device=device, dtype="float32")
    if not fetched:
        raise _Unpinned("sae-lens loaded an autoencoder without the download that pins its commit")
    return sae


def _parameters(source: SaeSource) -> Path:
    """The file of weights, fetched where it is on a hub."""
    if source.on_disk:
        return Path(source.location)
    return Path(_fetched(source.location, source.name, source.revision))


def _fetched(repository: str, name: str, commit: str) -> str:
    """The path of a file of a commit; of what the cache knows, that it does not exist included, the hub is not asked."""
    known = huggingface_hub.try_to_load_from_cache(repository, name, revision=commit)
    if isinstance(known, str):
        return known
    if known is not None:
        raise hub_errors.EntryNotFoundError(f"{repository} has no {name}")
    return huggingface_hub.hf_hub_download(repository, name, revision=commit)


@contextmanager
def _arrays(path: Path) -> Iterator[dict[str, Callable[[], np.ndarray]]]:
    """Name -> what reads the array, from an archive of plain arrays: nothing in it is run.

    Raises: UsageError for anything else.
    """
    try:
        file = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path} is no archive of plain arrays (.npz); give Gemma Scope's params.npz") from error
    if not isinstance(file, np.lib.npyio.NpzFile):
        raise UsageError(f"{path} holds one array, expected an archive of {', '.join(ARRAYS)}")
    with file:
        names = {f"W_{name[2:]}" if name.startswith("w_") else name: name for name in file.files}
        if sorted(names) != sorted(ARRAYS):
            raise UsageError(f"{path} holds {', '.join(sorted(names)) or 'nothing'}; expected {', '.join(ARRAYS)}")
        yield {name: functools.partial(_plain, file, stored, path) for name, stored in names.items()}


def _plain(file: Any, name: str, path: Path) -> np.ndarray:
    try:
        array = np.asarray(file[name])
    except (ValueError, zipfile.BadZipFile) as error:
        raise UsageError(
            f"{path}: {name} is no plain array of numbers; pickled ones are not read, since they can run code"
        ) from error
    if array.dtype.kind != "f":
        raise UsageError(f"{path}: {name} is of type {array.dtype}, expected floating-point numbers")
    return array


@contextmanager
def _at_commit(source: SaeSource) -> Iterator[list[str]]:
    """Have sae-lens fetch the pinned commit, and read shapes from the fetched file; yields the paths it fetched."""
    from sae_lens.loading import pretrained_sae_loaders as loaders
    from safetensors import safe_open

    fetched: list[str] = []

    def fetch(repo_id: str, filename: str, **more: Any) -> str:
        path = _fetched(
            repo_id, f"{more['subfolder']}/{filename}" if more.get("subfolder") else filename, source.revision
        )
        fetched.append(path)
        return path

    def shapes(repo_id: str, filename: str) -> dict[str, list[int]]:
        with safe_open(fetch(repo_id, filename), framework="pt") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118

    with _one_at_a_time:
        before = loaders.hf_hub_download, loaders.get_safetensors_tensor_shapes
        loaders.hf_hub_download, loaders.get_safetensors_tensor_shapes = fetch, shapes
        try:
            yield fetched
        finally:
            loaders.hf_hub_download, loaders.get_safetensors_tensor_shapes = before


@contextmanager
def _explained(source: SaeSource) -> Iterator[None]:
    """Turn the libraries' errors into one line that says what to do."""
    try:
        yield
    except (UsageError, _Unpinned):
        raise
    except hub_errors.GatedRepoError as error:
        raise UsageError(f"{source.written}: {explained(error, repository_of(source))}") from error
    except (hub_errors.LocalEntryNotFoundError, hub_errors.OfflineModeIsEnabled, ConnectionError) as error:
        raise UsageError(
            f"{source.written} is not all in the cache and its hub cannot be reached ({_line(error)}); {_elsewhere(source)}"
        ) from error
    except hub_errors.EntryNotFoundError as error:
        raise UsageError(
            f"{source.written}: its repository does not hold the files that sae-lens reads; check the path and the revision"
        ) from error
    except Exception as error:
        raise UsageError(f"{source.written} cannot be read ({_line(error)}); fetch it again") from error


def _elsewhere(source: SaeSource) -> str:
    """The remedy without a network."""
    path = path_of(source).removesuffix(f"/{PARAMETERS}")
    fetch = f"hf download {repository_of(source)} --include '{path}*'"
    return f"without a network here, run `{fetch}` where there is one and bring its cache"


def _line(error: BaseException) -> str:
    return " ".join((str(error).strip() or type(error).__name__).split())[:200]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without sae-lens' warnings about what is checked here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield
