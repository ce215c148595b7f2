"""A saved model comes back whole or cut, and what cannot be read is said in one line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

from storage.records import Site, UsageError
from tasks.models.forward import all_residuals, next_token_log_probabilities, read_sites
from tasks.models.load import LoadedModel, load_model, pick_device


@pytest.fixture(scope="module", params=["gemma2", "gpt2", "qwen2"])
def saved(
    request: pytest.FixtureRequest,
    fresh: Callable[..., LoadedModel],
    tokenizers: dict[str, PreTrainedTokenizerFast],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[LoadedModel, Path]:
    folder = tmp_path_factory.mktemp("model")
    loaded = fresh(request.param, num_hidden_layers=3)
    loaded.model.save_pretrained(folder)
    tokenizers["byte_level"].save_pretrained(folder)
    return loaded, folder


@pytest.fixture
def copy(saved: tuple[LoadedModel, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved[1], tmp_path / "copy"))


def test_whole_and_cut_models_read_the_same(saved: tuple[LoadedModel, Path], sequences: list[list[int]]) -> None:
    original, folder = saved
    wanted = [[len(sequence) - 1] for sequence in sequences]
    whole, cut = load_model(folder), load_model(str(folder), blocks=2)
    assert (len(whole.blocks), len(cut.blocks)) == (3, 2)
    assert whole.family == original.family
    assert not whole.model.training
    assert whole.width == 32
    assert whole.tokenizer.eos_token == "<eos>"
    expected = read_sites(original, sequences, wanted, all_residuals(original))
    for model in (whole, cut):
        found = read_sites(model, sequences, wanted, all_residuals(model))
        for site in found:
            assert torch.equal(found[site], expected[site])
    assert torch.equal(
        next_token_log_probabilities(whole, sequences), next_token_log_probabilities(original, sequences)
    )
    with pytest.raises(UsageError, match="without its head"):
        next_token_log_probabilities(cut, sequences)


def test_bfloat16_on_request(saved: tuple[LoadedModel, Path]) -> None:
    assert next(load_model(saved[1], dtype="bfloat16").model.parameters()).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"blocks": 4}, "the model has 3, give 1 to 3"),
        ({"blocks": 0}, "out of range"),
        ({"dtype": "float8"}, "expected one of float32"),
        ({"dtype": "float16"}, "use float32 or bfloat16"),
        ({"device": "tpu"}, "expected auto, cpu or cuda"),
    ],
)
def test_wrong_arguments(saved: tuple[LoadedModel, Path], arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_model(saved[1], **arguments)  # type: ignore[arg-type]


def test_a_folder_that_is_not_there_or_holds_no_model(tmp_path: Path, copy: Path) -> None:
    with pytest.raises(UsageError, match="is not a folder"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"no config\.json"):
        load_model(tmp_path)
    (copy / "model.safetensors").rename(copy / "model.bin")
    with pytest.raises(UsageError, match="pickles are not read"):
        load_model(copy)


def test_weights_that_cannot_be_read(copy: Path) -> None:
    (copy / "model.safetensors").write_bytes(b"not a tensor in sight")
    with pytest.raises(UsageError, match="cannot be read"):
        load_model(copy)


def test_incomplete_weights_are_never_filled_with_random_numbers(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    lost = next(name for name in weights if "mlp" in name and name.endswith("weight"))
    del weights[lost]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match="lack 1 tensors"):
        load_model(copy)


def test_an_unknown_architecture_names_the_known_ones(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"model_type": "bloom"}))
    with pytest.raises(UsageError, match="'bloom' is not supported; known: gemma2, gemma3, llama"):
        load_model(copy)


def test_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match="neither a folder nor to be had from the hub"):
        load_model("nobody/no-such-model", revision="0" * 40)


def test_devices() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="use device = 'auto' or 'cpu'"):
            pick_device("cuda")


def test_sites_of_a_cut_model_end_where_it_was_cut(saved: tuple[LoadedModel, Path]) -> None:
    with pytest.raises(UsageError, match="layers 0 to 0"):
        read_sites(load_model(saved[1], blocks=1), [[1, 2]], [[1]], [Site(1)])
