"""Published autoencoders are read as they were published, from one commit, and refused in one line otherwise."""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from storage.records import Site, UsageError
from tasks.models.published_saes.loading import describe_source, load_published, pin_source
from tasks.models.published_saes.sources import parse_source, path_of, release

D, K = 6, 20
COMMIT, LATER = "1" * 40, "2" * 40
SCOPE = "layer_3/width_16k/average_l0_7/params.npz"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache, empty, and no network."""
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return folder


def cached(cache: Path, repository: str, path: str, *, commit: str = COMMIT) -> Path:
    """Where a file of a commit lies in the cache; the commit is what `main` was when last asked."""
    root = cache / f"models--{repository.replace('/', '--')}"
    (root / "refs").mkdir(parents=True, exist_ok=True)
    (root / "refs" / "main").write_text(commit)
    file = root / "snapshots" / commit / path
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def weights(seed: int = 0, *, width: int = D, latents: int = K) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        "W_enc": random.normal(size=(width, latents)).astype(np.float32),
        "W_dec": random.normal(size=(latents, width)).astype(np.float32),
        "b_enc": random.normal(size=latents).astype(np.float32),
        "b_dec": random.normal(size=width).astype(np.float32),
        "threshold": random.uniform(0.5, 1.5, size=latents).astype(np.float32),
    }


def by_hand(arrays: dict[str, np.ndarray], x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents and reconstruction as Gemma Scope defines them: the decoder's bias is not taken off the input."""
    w = {name: torch.from_numpy(array) for name, array in arrays.items()}
    pre = x @ w["W_enc"] + w["b_enc"]
    latents = pre.relu() * (pre > w["threshold"])
    return latents, latents @ w["W_dec"] + w["b_dec"]


def states(rows: int = 30) -> torch.Tensor:
    return torch.randn(rows, D, generator=torch.Generator().manual_seed(5)) * 2 + 0.7


def in_folder(folder: Path, name: str = "JumpReLUSAE", *, hook: str = "blocks.2.hook_resid_post", **more: Any) -> Any:
    """An autoencoder with random weights in sae-lens' format; returns sae-lens' own."""
    import sae_lens

    config = getattr(sae_lens, f"{name}Config")(d_in=D, d_sae=K, **more)
    config.metadata.hook_name, config.metadata.model_name = hook, "google/gemma-2-2b"
    sae = getattr(sae_lens, name)(config)
    for parameter_name, parameter in sae.named_parameters():
        array = weights(3).get(parameter_name)
        if array is not None:
            parameter.data = torch.from_numpy(array)
    sae.save_model(str(folder))
    return sae


@pytest.mark.parametrize("older", [False, True])
def test_gemma_scope_file_on_disk(tmp_path: Path, older: bool) -> None:
    path = tmp_path / "gemma-scope-2b-pt-res" / SCOPE
    path.parent.mkdir(parents=True)
    arrays = weights()
    _saved(path, {name.replace("W_", "w_") if older else name: array for name, array in arrays.items()})
    found = load_published(parse_source(f"npz:{path}"))
    x = states()
    latents, reconstruction = by_hand(arrays, x)
    assert 0 < float((latents > 0).float().mean()) < 0.9
    assert torch.allclose(found.autoencoder.encode(x), latents, atol=1e-5)
    assert torch.allclose(found.autoencoder.decode(latents), reconstruction, atol=1e-5)
    description = found.description
    assert (description.width, description.latents, description.site) == (D, K, Site(3))
    assert (description.model, description.active) == ("google/gemma-2-2b", 7)


def test_gemma_scope_file_in_a_repository_is_that_of_the_commit(cache: Path) -> None:
    repository = "google/gemma-scope-9b-it-res"
    _saved(cached(cache, repository, SCOPE), weights(0))
    _saved(cached(cache, repository, SCOPE, commit=LATER), weights(1))
    old = load_published(parse_source(f"hub:{repository}/{SCOPE}@{COMMIT}"))
    new = load_published(parse_source(f"hub:{repository}/{SCOPE}"))
    assert (old.source.revision, new.source.revision) == (COMMIT, LATER)
    assert torch.equal(old.autoencoder.decoder_rows, torch.from_numpy(weights(0)["W_dec"]))
    assert torch.equal(new.autoencoder.decoder_rows, torch.from_numpy(weights(1)["W_dec"]))
    assert old.description.model == "google/gemma-2-9b-it"


def test_gemma_scope_release_and_canonical_id(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    name = "gemma-scope-2b-pt-res-canonical"
    directory = get_pretrained_saes_directory()
    smaller: Any = {"d_in": D, "d_sae": K}
    monkeypatch.setitem(directory, name, dataclasses.replace(directory[name], config_overrides=smaller))
    source = parse_source(f"{name}:layer_12/width_16k/canonical")
    _saved(cached(cache, "google/gemma-scope-2b-pt-res", "layer_12/width_16k/average_l0_82/params.npz"), weights())
    found = load_published(source)
    latents, _ = by_hand(weights(), states())
    assert torch.allclose(found.autoencoder.encode(states()), latents, atol=1e-5)
    assert (found.description.site, found.description.model, found.description.active) == (Site(12), "gemma-2-2b", 82)
    assert (found.description.unfolded, found.source.revision) == (False, COMMIT)


def test_gemma_scope_2_release_needs_no_network(cache: Path) -> None:
    source = parse_source("gemma-scope-2-270m-pt-res:layer_5_width_16k_l0_medium")
    path = release("gemma-scope-2-270m-pt-res").paths[source.name]
    arrays = {name.lower(): torch.from_numpy(array) for name, array in weights().items()}
    save_file(arrays, cached(cache, "google/gemma-scope-2-270m-pt", f"{path}/params.safetensors"))
    found = load_published(source)
    latents, reconstruction = by_hand(weights(), states())
    assert torch.allclose(found.autoencoder.encode(states()), latents, atol=1e-5)
    assert torch.allclose(found.autoencoder.decode(latents), reconstruction, atol=1e-5)
    assert (found.description.site, found.description.model) == (Site(5), "google/gemma-3-270m")


def test_release_whose_scale_is_listed_is_folded(cache: Path) -> None:
    repository, path = "fnlp/Llama3_1-8B-Base-LXR-8x", "Llama3_1-8B-Base-L12R-8x"
    arrays = weights()
    hyperparameters = {
        "d_model": D, "d_sae": K, "hook_point_in": "blocks.12.hook_resid_post", "jump_relu_threshold": 0.5,
        "dataset_average_activation_norm": {"in": 4.0},
    }  # fmt: skip
    cached(cache, repository, f"{path}/hyperparams.json").write_text(json.dumps(hyperparameters))
    stored = {
        "encoder.weight": arrays["W_enc"].T, "decoder.weight": arrays["W_dec"].T,
        "encoder.bias": arrays["b_enc"], "decoder.bias": arrays["b_dec"],
    }  # fmt: skip
    tensors = {name: torch.from_numpy(array.copy()) for name, array in stored.items()}
    save_file(tensors, cached(cache, repository, f"{path}/checkpoints/final.safetensors"))
    found = load_published(parse_source("llama_scope_lxr_8x:l12r_8x"))
    from sae_lens.loading.pretrained_saes_directory import get_norm_scaling_factor

    scale = get_norm_scaling_factor("llama_scope_lxr_8x", "l12r_8x")
    assert scale is not None
    assert scale != 1
    expected = torch.from_numpy(arrays["W_enc"]) * scale
    assert torch.allclose(found.autoencoder.encoder_columns()[0], expected)
    assert torch.allclose(found.autoencoder.decoder_rows, torch.from_numpy(arrays["W_dec"]) / scale)
    assert not found.description.unfolded
    assert found.autoencoder.sae.W_enc.is_contiguous()


def test_repository_in_the_native_format(cache: Path, tmp_path: Path) -> None:
    in_folder(tmp_path / "made", apply_b_dec_to_input=True)
    in_folder(tmp_path / "later", hook="blocks.5.hook_resid_post", apply_b_dec_to_input=False)
    for commit, folder in ((COMMIT, "made"), (LATER, "later")):
        for file in (tmp_path / folder).iterdir():
            cached(cache, "someone/saes", f"blocks.2/{file.name}", commit=commit).write_bytes(file.read_bytes())
    assert describe_source(parse_source("someone/saes:blocks.2")).site == Site(5)
    found = load_published(parse_source(f"someone/saes:blocks.2@{COMMIT}"))
    x = states()
    latents, _ = by_hand(weights(3), x - torch.from_numpy(weights(3)["b_dec"]))
    assert torch.allclose(found.autoencoder.encode(x), latents, atol=1e-5)
    assert (found.source.revision, found.description.site) == (COMMIT, Site(2))


def test_pickled_weights_of_a_release_run_no_code(cache: Path, tmp_path: Path) -> None:
    name = "sae_bench_gemma-2-2b_topk_width-2pow12_date-1109"
    listed = release(name)
    identity = next(iter(listed.paths))
    path = listed.paths[identity]
    trainer = {
        "layer": 12, "dict_class": "AutoEncoderTopK", "k": 3, "activation_dim": D, "dict_size": K,
        "lm_name": "google/gemma-2-2b",
    }  # fmt: skip
    config = {"trainer": trainer, "buffer": {"ctx_len": 128}}
    cached(cache, listed.repository, f"{path}/config.json").write_text(json.dumps(config))
    arrays = {name: torch.from_numpy(array) for name, array in weights().items()}
    stored = {
        "encoder.weight": arrays["W_enc"].T, "decoder.weight": arrays["W_dec"].T,
        "encoder.bias": arrays["b_enc"], "b_dec": arrays["b_dec"],
    }  # fmt: skip
    file = cached(cache, listed.repository, f"{path}/ae.pt")
    torch.save(stored, file)
    source = parse_source(f"{name}:{identity}")
    found = load_published(source)
    assert int((found.autoencoder.encode(states()) > 0).sum(-1).max()) <= 3
    found.autoencoder.sae.save_model(str(tmp_path / "again"))
    torch.save({**stored, "harm": Harm(tmp_path / "ran")}, file)
    with pytest.raises(UsageError, match=r"cannot be read .*fetch it again"):
        load_published(source)
    assert not (tmp_path / "ran").exists()


class Harm:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("whole", [False, True])
def test_pickled_arrays_are_refused_and_run_no_code(tmp_path: Path, whole: bool) -> None:
    path = tmp_path / "params.npz"
    if whole:
        path.write_bytes(pickle.dumps(Harm(tmp_path / "ran")))
    else:
        _saved(path, {**weights(), "b_enc": np.array([Harm(tmp_path / "ran")], dtype=object)})
    with pytest.raises(UsageError, match=r"no archive of plain arrays|b_enc is no plain array"):
        load_published(parse_source(f"npz:{path}#blocks.3.hook_resid_post"))
    assert not (tmp_path / "ran").exists()


def test_other_archives_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "params.npz"
    source = parse_source(f"npz:{_saved(path, {'W_enc': np.zeros(3)})}#blocks.3.hook_resid_post")
    with pytest.raises(UsageError, match="holds W_enc; expected W_dec, W_enc"):
        describe_source(source)
    _saved(path, {**weights(), "W_dec": weights()["W_enc"]})
    with pytest.raises(UsageError, match=r"W_dec has shape \(6, 20\), expected \(20, 6\)"):
        load_published(source)
    _saved(path, {**weights(), "b_dec": np.zeros(D, dtype=int)})
    with pytest.raises(UsageError, match=r"b_dec is of type int64"):
        load_published(source)
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(UsageError, match="holds one array"):
        load_published(source)


def _saved(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def test_folder_is_read_and_noticed_when_it_changes(tmp_path: Path) -> None:
    theirs = in_folder(tmp_path)
    source = pin_source(parse_source(f"folder:{tmp_path}"))
    found = load_published(source)
    assert torch.equal(found.autoencoder.encode(states()), theirs.encode(states()))
    assert found.description.site == Site(2)
    (tmp_path / "cfg.json").write_text((tmp_path / "cfg.json").read_text() + " ")
    with pytest.raises(UsageError, match="not what it was when it was chosen"):
        load_published(source)


def test_a_hook_given_stands_above_the_configuration(tmp_path: Path) -> None:
    in_folder(tmp_path, hook="")
    with pytest.raises(UsageError, match="does not say where its input comes from; append #HOOK"):
        describe_source(parse_source(f"folder:{tmp_path}"))
    assert describe_source(parse_source(f"folder:{tmp_path}#blocks.4.hook_mlp_out")).site == Site(4, "mlp")


@pytest.mark.parametrize("bias", [True, False])
def test_encoder_of_centred_states_centres_them_itself(tmp_path: Path, bias: bool) -> None:
    theirs = in_folder(tmp_path, apply_b_dec_to_input=bias)
    config = json.loads((tmp_path / "cfg.json").read_text())
    config["metadata"]["model_from_pretrained_kwargs"] = {"center_writing_weights": True}
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    found = load_published(parse_source(f"folder:{tmp_path}"))
    x = states()
    assert found.description.centred
    expected = theirs.encode(x - x.mean(-1, keepdim=True))
    assert not torch.allclose(theirs.encode(x), expected, atol=0.1)
    assert torch.allclose(found.autoencoder.encode(x), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("GatedSAE", {}, "is a gated autoencoder, .*expected one of standard, jumprelu, topk"),
        ("TranscoderConfig", {}, "reconstructs another place than it reads"),
        ("StandardSAE", {"normalize_activations": "layer_norm"}, "differs from state to state"),
        ("StandardSAE", {"hook": "blocks.1.attn.hook_z"}, "inside attention"),
        ("StandardSAE", {"hook": "blocks.0.hook_resid_pre"}, "the embeddings, before the first block"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path: Path, name: str, more: dict[str, Any], message: str) -> None:
    if name == "TranscoderConfig":
        config = {"architecture": "transcoder", "d_in": D, "d_out": D, "d_sae": K}
        metadata = {"sae_lens_version": "6.0.0", "hook_name": "blocks.1.hook_mlp_in"}
        (tmp_path / "cfg.json").write_text(json.dumps({**config, "metadata": metadata}))
        (tmp_path / "sae_weights.safetensors").write_bytes(b"")
    else:
        in_folder(tmp_path, name, **more)
    with pytest.raises(UsageError, match=message) as caught:
        load_published(parse_source(f"folder:{tmp_path}"))
    assert "\n" not in str(caught.value)


def test_without_network_or_cache(cache: Path, tmp_path: Path) -> None:
    source = parse_source("gemma-scope-2-270m-pt-res:layer_5_width_16k_l0_medium")
    for known in (False, True):
        if known:  # the commit is known, its files are not here
            cached(cache, "google/gemma-scope-2-270m-pt", "README.md").write_text("")
        with pytest.raises(UsageError, match=r"hf download google/gemma-scope-2-270m-pt --include") as caught:
            load_published(source)
        assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match=r"hf download owner/name --include 'layer_1\*'"):
        load_published(parse_source(f"hub:owner/name/layer_1/params.npz@{COMMIT}#blocks.1.hook_resid_post"))


def test_release_from_a_hub_stays_what_was_pinned(hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = parse_source("gemma-scope-2-270m-pt-res:layer_5_width_16k_l0_medium")
    repository, path = "google/gemma-scope-2-270m-pt", path_of(source)
    (tmp_path / "files" / path).mkdir(parents=True)

    def publish(seed: int) -> None:
        arrays = {name.lower(): torch.from_numpy(array) for name, array in weights(seed).items()}
        save_file(arrays, tmp_path / "files" / path / "params.safetensors")
        hub.publish(repository, tmp_path / "files")

    publish(0)
    pinned = pin_source(source)
    publish(1)
    first = load_published(pinned).autoencoder.decoder_rows
    assert torch.equal(first, torch.from_numpy(weights(0)["W_dec"]))
    assert not torch.equal(load_published(source).autoencoder.decoder_rows, first)
    asked = len(hub.requests)
    hub.stop()
    assert torch.equal(load_published(pinned).autoencoder.decoder_rows, first)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert not torch.equal(load_published(source).autoencoder.decoder_rows, first)
    assert len(hub.requests) == asked


def test_what_a_hub_refuses_is_one_line(hub: Any, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "README.md").write_text("")
    hub.publish("someone/locked", tmp_path / "files", gated=True)
    hub.publish("someone/empty", tmp_path / "files")
    messages = {
        "someone/locked:blocks.2": f"gated and no token was given; accept its licence at {hub.address}/someone/locked and set",
        "someone/empty:blocks.2": "does not hold the files that sae-lens reads",
        "hub:someone/empty/layer_3/params.npz": "does not hold the files",
        "someone/empty:blocks.2@v9": "has no revision 'v9'",
        "someone/absent:blocks.2": "check the name",
    }
    for text, message in messages.items():
        with pytest.raises(UsageError, match=message) as caught:
            load_published(parse_source(text))
        assert "\n" not in str(caught.value)
