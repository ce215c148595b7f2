"""Our view of an autoencoder agrees with sae-lens' own encode and decode."""

from pathlib import Path
from typing import Any

import pytest
import torch

from storage.records import UsageError
from tasks.models.sae import Autoencoder, load_sae

D, K = 8, 40


def saved(folder: Path, architecture: str, **more: Any) -> Autoencoder:
    import sae_lens

    settings = {"d_in": D, "d_sae": K, "dtype": "float32", "device": "cpu", "normalize_activations": "none"}
    name = {"jumprelu": "JumpReLUSAE", "topk": "TopKSAE", "standard": "StandardSAE", "gated": "GatedSAE"}[architecture]
    sae = getattr(sae_lens, name)(getattr(sae_lens, f"{name}Config")(**settings, **more))
    generator = torch.Generator().manual_seed(0)
    for parameter in sae.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator).abs() ** 0.5 * parameter.shape[-1] ** -0.2
        parameter.data *= torch.randint(0, 2, parameter.shape, generator=generator) * 2 - 1
    if hasattr(sae, "threshold"):
        sae.threshold.data = sae.threshold.data.abs()
    sae.save_model(str(folder))
    return load_sae(folder)


CASES = [
    ("jumprelu", {"apply_b_dec_to_input": False}),
    ("jumprelu", {"apply_b_dec_to_input": True}),
    ("topk", {"k": 5, "rescale_acts_by_decoder_norm": True}),
    ("topk", {"k": 5, "rescale_acts_by_decoder_norm": False}),
    ("standard", {}),
]


@pytest.mark.parametrize(("architecture", "more"), CASES)
def test_activations_follow_from_pre_activations(tmp_path: Path, architecture: str, more: dict[str, Any]) -> None:
    autoencoder = saved(tmp_path, architecture, **more)
    assert (autoencoder.width, autoencoder.latents, autoencoder.architecture) == (D, K, architecture)
    x = torch.randn(20, D, generator=torch.Generator().manual_seed(1)) * 3
    pre, activations = autoencoder.pre_activations(x), autoencoder.encode(x)
    threshold = autoencoder.threshold
    if threshold is None:
        assert architecture == "topk"
        threshold = pre.topk(5, dim=-1).values[:, -1:] - 1e-6
    assert torch.allclose(activations, torch.relu(pre) * (pre > threshold), atol=1e-5)
    assert 0 < float((activations > 0).float().mean()) < 1
    chosen = torch.tensor([3, 0, 17])
    assert torch.allclose(autoencoder.pre_activations(x, chosen), pre[:, chosen], atol=1e-5)
    assert autoencoder.decode(activations).shape == x.shape
    assert autoencoder.decoder_rows.shape == (K, D)


def test_a_gradient_reaches_latents_that_are_off(tmp_path: Path) -> None:
    autoencoder = saved(tmp_path, "jumprelu")
    x = torch.randn(1, D, generator=torch.Generator().manual_seed(2), requires_grad=True)
    off = (autoencoder.encode(x)[0] == 0).nonzero()[0]
    (through_encode,) = torch.autograd.grad(autoencoder.encode(x)[0, off].sum(), x)
    (through_pre,) = torch.autograd.grad(autoencoder.pre_activations(x, off).sum(), x)
    assert float(through_encode.abs().max()) == 0
    assert float(through_pre.abs().max()) > 0
    assert not any(parameter.requires_grad for parameter in autoencoder.sae.parameters())


def test_a_gated_autoencoder_has_no_single_pre_activation(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="gated autoencoder"):
        saved(tmp_path, "gated").pre_activations(torch.zeros(1, D))


def test_a_folder_without_an_autoencoder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no cfg\.json"):
        load_sae(tmp_path)
    (tmp_path / "cfg.json").write_text("{}")
    (tmp_path / "sae_weights.safetensors").write_bytes(b"")
    with pytest.raises(UsageError, match="cannot be read"):
        load_sae(tmp_path)
