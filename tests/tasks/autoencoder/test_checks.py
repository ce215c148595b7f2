"""A published autoencoder is used where it explains the model's states, and refused by cause where it does not."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from storage.records import ModelRef, Site, UsageError
from tasks.autoencoder.adoption import adopt_autoencoder, states_around
from tasks.autoencoder.checks import check_explains, check_fits_model, measure_fit, norm_scale
from tasks.autoencoder.settings import AutoencoderSettings
from tasks.autoencoder.training import train_autoencoder
from tasks.models.families import family_of
from tasks.models.load import LoadedModel
from tasks.models.published_saes.description import SaeDescription
from tasks.models.published_saes.names import relation_of
from tasks.models.published_saes.sources import parse_source
from tasks.models.sae import Autoencoder, load_sae

WORDS = 60
LAYERS, D = 3, 24
HUB = ModelRef("hub", "meta-llama/Llama-3.1-8B", "0" * 40)


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    """A random model of three layers whose states differ from layer to layer."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=WORDS + 3, hidden_size=D, intermediate_size=32, num_hidden_layers=LAYERS, num_attention_heads=4,
        num_key_value_heads=2, head_dim=6, initializer_range=0.4,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    vocabulary = {word: place for place, word in enumerate(["<s>", "</s>", "<unk>", *(f"w{i}" for i in range(WORDS))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    return LoadedModel(model, fast, family_of(model), torch.device("cpu"))


@pytest.fixture(scope="module")
def texts() -> list[str]:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randint(0, WORDS, (120, 12), generator=generator)
    return [" ".join(f"w{int(i)}" for i in row) for row in rows]


@pytest.fixture(scope="module")
def states(loaded: LoadedModel, texts: list[str]) -> dict[Site, torch.Tensor]:
    """Those of every layer."""
    return states_around(loaded, Site(1), texts)


@pytest.fixture(scope="module")
def trained(states: dict[Site, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an autoencoder of layer 1, as sae-lens writes it."""
    folder = tmp_path_factory.mktemp("trained") / "sae"
    settings = AutoencoderSettings(architecture="topk", latents=96, active=8, steps=400, learning_rate=3e-3)
    train_autoencoder(states[Site(1)], "blocks.1.hook_resid_post", settings, folder)
    return folder


def declared(folder: Path, copy: Path, **changes: Any) -> Path:
    """The same autoencoder, its configuration or its metadata changed."""
    shutil.copytree(folder, copy)
    config = json.loads((copy / "cfg.json").read_text())
    for name, value in changes.items():
        (config if name in config else config["metadata"])[name] = value
    (copy / "cfg.json").write_text(json.dumps(config))
    return copy


def test_fit_follows_from_the_definitions(trained: Path, states: dict[Site, torch.Tensor]) -> None:
    autoencoder, x = load_sae(trained), states[Site(1)]
    latents = autoencoder.encode(x)
    found = autoencoder.decode(latents)
    fit = measure_fit(autoencoder, x)
    assert fit.explained_variance == pytest.approx(1 - float((x - found).pow(2).sum() / (x - x.mean(0)).pow(2).sum()))
    assert fit.active == pytest.approx(float((latents > 0).float().sum(-1).mean()))
    assert fit.dead == pytest.approx(float(((latents > 0).sum(0) == 0).float().mean()))
    assert fit.norm_ratio == pytest.approx(float(found.norm(dim=-1).sum() / x.norm(dim=-1).sum()))
    assert fit.rows == len(x) == 120 * 12
    batched = measure_fit(autoencoder, x, budget=7 * autoencoder.latents)
    assert dataclasses.asdict(batched) == pytest.approx(dataclasses.asdict(fit))
    with pytest.raises(UsageError, match="do not differ"):
        measure_fit(autoencoder, x[:1].expand(4, -1))


def test_the_beginning_token_is_left_out(loaded: LoadedModel, texts: list[str]) -> None:
    from tasks.models.forward import read_sites

    found = states_around(loaded, Site(0), texts[:2], rows=20)
    assert set(found) == {Site(0), Site(1)}
    assert set(states_around(loaded, Site(2, "mlp"), texts[:1])) == {Site(1, "mlp"), Site(2, "mlp")}
    assert len(found[Site(0)]) == 20
    ids = [[0, *loaded.tokenizer(text, add_special_tokens=False)["input_ids"]] for text in texts[:2]]
    expected = read_sites(loaded, ids, [range(1, 13), range(1, 9)], [Site(0)])[Site(0)]
    assert torch.equal(found[Site(0)], expected)
    with pytest.raises(UsageError, match="no token beyond the first"):
        states_around(loaded, Site(0), ["", ""])


def test_an_autoencoder_is_adopted_at_its_layer(
    loaded: LoadedModel, texts: list[str], trained: Path, states: dict[Site, torch.Tensor], tmp_path: Path
) -> None:
    source = parse_source(f"folder:{declared(trained, tmp_path / 'x', model_name='meta-llama/Meta-Llama-3.1-8B')}")
    adopted = adopt_autoencoder(source, loaded, HUB, texts, tmp_path / "out")
    assert (adopted.site, adopted.latents, adopted.architecture, adopted.warnings) == (Site(1), 96, "topk", ())
    assert adopted.fit.explained_variance > 0.6
    assert adopted.source.revision
    kept = load_sae(tmp_path / "out" / "residual_1")
    assert torch.equal(kept.encode(states[Site(1)]), load_sae(trained).encode(states[Site(1)]))
    again = adopt_autoencoder(source, loaded, HUB, texts, tmp_path / "again")
    assert again == adopted
    for file in ("cfg.json", "sae_weights.safetensors"):
        first, second = (tmp_path / name / "residual_1" / file for name in ("out", "again"))
        assert first.read_bytes() == second.read_bytes()
        assert str(tmp_path).encode() not in first.read_bytes()


@pytest.mark.parametrize("layer", [0, 2])
def test_one_layer_off_is_refused(
    loaded: LoadedModel, texts: list[str], trained: Path, tmp_path: Path, layer: int
) -> None:
    for hook in (f"blocks.{layer}.hook_resid_post", f"blocks.{layer + 1}.hook_resid_pre"):
        source = parse_source(f"folder:{trained}#{hook}")
        with pytest.raises(
            UsageError, match=r"at residual_1: its layer is off by one; append #blocks\.1.hook_resid_post"
        ):
            adopt_autoencoder(source, loaded, HUB, texts, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    adopted = adopt_autoencoder(parse_source(f"folder:{trained}#blocks.2.hook_resid_pre"), loaded, HUB, texts, tmp_path)
    assert adopted.site == Site(1)


def test_what_is_written_of_the_scale_is_folded_in(
    loaded: LoadedModel, texts: list[str], trained: Path, states: dict[Site, torch.Tensor], tmp_path: Path
) -> None:
    """An autoencoder that reads states of mean norm √D, and says so, is kept as one that reads them as they are."""
    folder = declared(trained, tmp_path / "unfolded")
    scaled(folder, 1 / norm_scale(states[Site(1)]), normalize_activations="expected_average_only_in")
    adopted = adopt_autoencoder(parse_source(f"folder:{folder}"), loaded, HUB, texts, tmp_path / "out")
    x = states[Site(1)]
    kept, original = load_sae(tmp_path / "out" / adopted.site.name), load_sae(trained)
    assert kept.sae.cfg.normalize_activations == "none"
    assert torch.allclose(kept.encode(x), original.encode(x), atol=1e-4)
    assert torch.allclose(kept.decode(kept.encode(x)), original.decode(original.encode(x)), atol=1e-4)


def test_one_of_centred_states_is_measured_on_them(
    loaded: LoadedModel, texts: list[str], trained: Path, states: dict[Site, torch.Tensor], tmp_path: Path
) -> None:
    folder = declared(trained, tmp_path / "x", model_from_pretrained_kwargs={"center_writing_weights": True})
    adopted = adopt_autoencoder(parse_source(f"folder:{folder}"), loaded, HUB, texts, tmp_path / "out")
    x = states[Site(1)]
    centred = x - x.mean(-1, keepdim=True)
    expected = measure_fit(load_sae(trained), centred).explained_variance
    assert adopted.fit.explained_variance == pytest.approx(expected, abs=1e-4)
    kept = load_sae(tmp_path / "out" / "residual_1")
    assert torch.allclose(kept.encode(x), load_sae(trained).encode(centred), atol=1e-3)


def scaled(folder: Path, scale: float, **more: Any) -> Autoencoder:
    """Rewrite an autoencoder as one that reads and writes states divided by a scale, which its configuration may say."""
    autoencoder = load_sae(folder)
    autoencoder.sae.fold_activation_norm_scaling_factor(scale)
    for name, value in more.items():
        setattr(autoencoder.sae.cfg, name, value)
    autoencoder.sae.save_model(str(folder))
    return autoencoder


def jumprelu(of: Path, states: torch.Tensor) -> Autoencoder:
    """An autoencoder of the same latents that fires above a threshold instead of the k largest."""
    import sae_lens

    source = load_sae(of).sae
    config = sae_lens.JumpReLUSAEConfig(d_in=D, d_sae=96, apply_b_dec_to_input=True)
    sae = sae_lens.JumpReLUSAE(config)
    for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
        getattr(sae, name).data = getattr(source, name).data.clone()
    sae.threshold.data.fill_(float(load_sae(of).pre_activations(states).quantile(1 - 8 / 96)))
    return Autoencoder(sae.requires_grad_(False))


def test_causes_are_told_apart(trained: Path, states: dict[Site, torch.Tensor]) -> None:
    site, x = Site(1), states[Site(1)]
    right = jumprelu(trained, x)
    fit, _ = check_explains(right, site, x)
    assert fit.explained_variance > 0.5

    directions = torch.randn(500, D, generator=torch.Generator().manual_seed(2))
    directions *= 100 * x.norm(dim=-1).median() / directions.norm(dim=-1, keepdim=True)
    missed = (directions - right.decode(right.encode(directions))).norm(dim=-1).argmax()
    sinks = x.clone()
    sinks[::100] = directions[missed]  # what a dictionary of other states has no words for
    with pytest.raises(UsageError, match=r"without the 15 states over 10 times.*beginning tokens"):
        check_explains(right, site, sinks)

    with pytest.raises(UsageError, match=r"of states times 16.* explains 0\.\d+, so its normalisation"):
        check_explains(right, site, x / 16)

    alien = torch.randn(len(x), D, generator=torch.Generator().manual_seed(9)) * x.std()
    with pytest.raises(UsageError, match=r"expected at least 0\.95.*another model"):
        check_explains(right, site, alien, minimum=0.95)

    right.sae.W_dec.data *= 50
    with pytest.raises(UsageError, match="times as long as the states, so a normalisation is likely left out"):
        check_explains(right, site, x)


def test_the_bias_rule_is_told(trained: Path, states: dict[Site, torch.Tensor]) -> None:
    autoencoder = load_sae(trained)
    shift = torch.full((D,), 40.0)
    autoencoder.sae.b_dec.data += shift
    x = states[Site(1)] + shift
    assert check_explains(autoencoder, Site(1), x)[0].explained_variance > 0.6
    autoencoder.sae.cfg.apply_b_dec_to_input = False
    with pytest.raises(UsageError, match="with the other value of apply_b_dec_to_input"):
        check_explains(autoencoder, Site(1), x)
    assert autoencoder.sae.cfg.apply_b_dec_to_input is False


def test_other_sparsity_than_published_is_a_warning(trained: Path, states: dict[Site, torch.Tensor]) -> None:
    autoencoder, x = load_sae(trained), states[Site(1)]
    assert check_explains(autoencoder, Site(1), x, listed=10.0)[1] == ()
    (warning,) = check_explains(autoencoder, Site(1), x, listed=100.0)[1]
    assert "its publisher states 100" in warning


def description(**changes: Any) -> SaeDescription:
    return dataclasses.replace(
        SaeDescription("jumprelu", D, 96, "blocks.1.hook_resid_post", Site(1), "gemma-2-2b", False, False), **changes
    )


@pytest.mark.parametrize(
    ("changes", "model", "message"),
    [
        ({"width": 32}, {}, "made for gemma-2-2b, and reads states of width 32; the model's residual_1 has width 24"),
        ({"site": Site(3)}, {}, "reads residual_3; the model has layers 0 to 2"),
        ({}, {"family": "llama"}, "made for gemma-2-2b, of the family gemma2; the model is of the family llama"),
        ({}, {"name": "google/gemma-2-9b", "certain": True}, "made for gemma-2-2b, the model is google/gemma-2-9b"),
    ],
)
def test_an_autoencoder_of_another_model_is_refused(
    changes: dict[str, Any], model: dict[str, Any], message: str
) -> None:
    given: dict[str, Any] = {
        "width": D,
        "layers": LAYERS,
        "family": "gemma2",
        "name": "google/gemma-2-2b",
        "certain": True,
    }
    assert check_fits_model(description(), **given) == ()
    with pytest.raises(UsageError, match=message) as caught:
        check_fits_model(description(**changes), **{**given, **model})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "model", "message"),
    [
        ({"model": ""}, {}, "does not say which model"),
        ({}, {"name": "google/gemma-2-2b-it"}, "a variant"),
        ({}, {"name": "my-model", "certain": False}, "cannot be told"),
        ({}, {"name": ""}, "cannot be told"),
    ],
)
def test_an_autoencoder_that_may_not_belong_is_warned_of(
    changes: dict[str, Any], model: dict[str, Any], message: str
) -> None:
    given: dict[str, Any] = {
        "width": D,
        "layers": LAYERS,
        "family": "gemma2",
        "name": "google/gemma-2-2b",
        "certain": True,
    }
    (warning,) = check_fits_model(description(**changes), **{**given, **model})
    assert message in warning


def test_neurons_have_a_width_of_their_own(
    loaded: LoadedModel, texts: list[str], trained: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="reads states of width 24; the model's neurons_1 has width 32"):
        adopt_autoencoder(parse_source(f"folder:{trained}#blocks.1.mlp.hook_post"), loaded, HUB, texts, tmp_path)


def test_a_wrong_model_is_refused_before_weights_are_read(
    loaded: LoadedModel, texts: list[str], trained: Path, tmp_path: Path
) -> None:
    folder = declared(trained, tmp_path / "x", model_name="google/gemma-2-2b")
    (folder / "sae_weights.safetensors").write_bytes(b"no weights")
    with pytest.raises(UsageError, match="of the family gemma2; the model is of the family llama"):
        adopt_autoencoder(parse_source(f"folder:{folder}"), loaded, HUB, texts, tmp_path / "out")


@pytest.mark.parametrize(
    ("made_for", "in_use", "relation"),
    [
        ("gpt2-small", "openai-community/gpt2", "same"),
        ("meta-llama/Meta-Llama-3-8B-Instruct", "meta-llama/Llama-3-8B-Instruct", "same"),
        ("google/gemma-3-1b-pt", "google/gemma-3-1b-pt", "same"),
        ("gemma-2-9b", "google/gemma-2-9b-it", "variant"),
        ("Qwen/Qwen3-1.7B-Base", "Qwen/Qwen3-1.7B", "variant"),
        ("mistral-7b", "mistralai/Mistral-7B-v0.1", "variant"),
        ("gemma-2-2b", "someone/gemma-2-2b-unlearned", "variant"),
        ("gemma-2-2b", "google/gemma-2-27b", "other"),
        ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.2-1B", "other"),
    ],
)
def test_names_of_models(made_for: str, in_use: str, relation: str) -> None:
    assert relation_of(made_for, in_use) == relation
