"""Every autoencoder that sae-lens lists of the families in use is read at its site, or refused by what it is."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError
from safetensors.torch import save_file

from storage.records import Site, UsageError
from tasks.models.published_saes import loading
from tasks.models.published_saes.description import SaeDescription
from tasks.models.published_saes.names import relation_of
from tasks.models.published_saes.sources import SaeSource, release, releases

D, K = 6, 20
FAMILIES = {
    "Gemma Scope 2": r"gemma-scope-2-\d+",
    "Gemma Scope": r"gemma-scope-\d+b",
    "Llama Scope": "llama_scope",
    "Qwen Scope": "qwen-scope",
    "gpt2": "gpt2-small",
    "Pythia": r".*pythia",
}
PARTS = {"r": "hook_resid_post", "m": "hook_mlp_out", "a": "hook_attn_out"}
"""Where Llama Scope's three kinds read."""


@pytest.fixture
def described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], SaeDescription]:
    """The description by release and id, where each repository holds the configurations that its publisher writes."""
    shapes = tmp_path / "params.safetensors"
    save_file({"w_enc": torch.zeros(D, K), "w_dec": torch.zeros(K, D)}, shapes)
    asked: dict[str, str] = {}

    def fetched(repository: str, name: str, commit: str) -> str:
        if name.endswith(".safetensors"):
            return str(shapes)
        if repository.startswith("google/gemma-scope-2-"):
            raise EntryNotFoundError(f"{repository} has no {name}")
        path = tmp_path / name.rpartition("/")[2]
        path.write_text(json.dumps(published(asked["release"], asked["id"], name)))
        return str(path)

    def description(name: str, identity: str) -> SaeDescription:
        asked.update({"release": name, "id": identity})
        return loading.describe_source(SaeSource("release", name, identity, revision="1" * 40))

    monkeypatch.setattr(loading, "_fetched", fetched)
    return description


def published(name: str, identity: str, file: str) -> dict[str, Any]:
    """The configuration of an autoencoder of unit size, as far as sae-lens reads it."""
    if name.startswith("llama_scope_lx"):
        (layer, part) = re.findall(r"l(\d+)([rma])_", identity)[0]
        hook = f"blocks.{layer}.{PARTS[part]}"
        norm = {"in": 1.0}
        return {"d_model": D, "d_sae": K, "hook_point_in": hook, "jump_relu_threshold": 1, "dataset_average_activation_norm": norm}  # fmt: skip
    if name == "llama_scope_r1_distill":
        layer = re.findall(r"/L(\d+)R/", file)[0]
        return {"d_model": D, "expansion_factor": 3, "hook_point_in": f"blocks.{layer}.hook_resid_post"}
    if name.startswith("sae_bench"):
        kind = "GatedAutoEncoder" if "gated" in name else "AutoEncoderTopK" if "topk" in name else "AutoEncoder"
        layer = int(re.findall(r"layer_(\d+)", file)[0])
        trainer = {"dict_class": kind, "k": 2, "activation_dim": D, "dict_size": K, "layer": layer, "lm_name": release(name).model}  # fmt: skip
        return {"trainer": trainer, "buffer": {"ctx_len": 128}}
    hook = re.findall(r"blocks\.\d+\.hook_[a-z]+(?:_[a-z]+)*", identity)[0]
    if name.endswith("hook-z-kk"):
        return {"act_size": D, "dict_size": K, "act_name": hook.replace("hook_z", "attn.hook_z")}
    return {"d_in": D, "d_sae": K, "hook_point": hook, "model_name": release(name).model}


def expected(name: str, identity: str) -> Site | str:
    """Where an autoencoder reads, by what it is called alone; or what is wrong with it."""
    if "transcoder" in name:
        return "reconstructs another place than it reads"
    if "gated" in name:
        return "no single pre-activation"
    if re.match(r"gemma-scope.*-att", name) or "hook_z" in identity:
        return "inside attention, before its output projection"
    if "embedding" in identity or identity == "blocks.0.hook_resid_pre":
        return "the embeddings"
    if "resid_mid" in identity:
        return "between attention and feed-forward part"
    layer = int(re.findall(r"(?:layer_?|blocks\.|^l)(\d+)", identity)[0])
    if "resid_pre" in identity:
        return Site(layer - 1)
    if re.search(r"-mlp|_lxm_|mlp_out", f"{name} {identity}"):
        return Site(layer, "mlp")
    if re.search(r"_lxa_|attn_out", f"{name} {identity}"):
        return Site(layer, "attention")
    return Site(layer)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_place_of_every_release_is_read_or_refused(
    described: Callable[[str, str], SaeDescription], family: str
) -> None:
    names = [name for name in releases() if re.match(FAMILIES[family], name)]
    read = 0
    for name in names:
        places = {expected(name, identity): identity for identity in release(name).paths}  # widths and sparsities aside
        for wanted, identity in places.items():
            if isinstance(wanted, str):
                with pytest.raises(UsageError, match=wanted) as caught:
                    described(name, identity)
                assert "\n" not in str(caught.value)
            else:
                found = described(name, identity)
                assert found.site == wanted, f"{name}:{identity}"
                assert relation_of(found.model, release(name).model) in ("same", "variant"), f"{name}:{identity}"
                read += 1
    assert len(names) >= 4
    assert read >= 20
