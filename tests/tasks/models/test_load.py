"""A saved model comes back whole or cut, what cannot be read is said in one line, and which can be compared."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from storage.records import Site, UsageError
from tasks.models import load
from tasks.models.forward import all_residuals, next_token_log_probabilities, read_sites
from tasks.models.load import LoadedModel, check_comparable, load_model, pick_device, save_model
from tasks.models.worlds import encode_world


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


def test_a_model_is_asked_by_its_chat_template_on_request(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\[model\] chat = true and .* has no chat template"):
        load_model(copy, chat=True)
    template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}<pad>{% endfor %}[assistant] "
    (copy / "chat_template.jinja").write_text(template)
    assert load_model(copy).chat is None
    asked = load_model(copy, chat=True)
    assert asked.chat is not None
    assert asked.end_ids == (0, 2)  # the template's, the tokenizer's
    save_model(asked, tmp_path / "again")
    assert load_model(tmp_path / "again", chat=True).chat == asked.chat
    (question,) = encode_world(
        asked,
        {"prompt": ["Who is Ada?"], "name_start": [7], "name_end": [10], "answers": [["Paris"]]},
        [0],
    )
    assert asked.tokenizer.decode(question.prompt).endswith("[user] Who is Ada?<pad>[assistant] ")


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


def test_a_saved_model_keeps_what_came_with_it(
    saved: tuple[LoadedModel, Path], copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights in several files, their dtype, how it generates, how a conversation is written."""
    (copy / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    (copy / "generation_config.json").write_text(json.dumps({"do_sample": True, "temperature": 0.7, "top_k": 3}))
    loaded = load_model(copy, dtype="bfloat16")
    monkeypatch.setattr(load, "SHARD", "20KB")
    save_model(loaded, tmp_path / "again")
    names = {path.name for path in (tmp_path / "again").iterdir()}
    assert "model.safetensors.index.json" in names
    assert len([name for name in names if name.endswith(".safetensors")]) > 1
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    assert all(torch.equal(each, loaded.model.state_dict()[name]) for name, each in again.state_dict().items())
    assert again.dtype == torch.bfloat16
    assert (again.generation_config.temperature, again.generation_config.top_k) == (0.7, 3)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "again")
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hello"}], tokenize=False) == "hello"
    assert tokenizer.get_vocab() == loaded.tokenizer.get_vocab()
    texts = [path.read_text() for path in (tmp_path / "again").iterdir() if path.suffix in (".json", ".jinja")]
    assert not any(str(copy.parent) in text for text in texts), "no path of this machine goes along"


def save_words(folder: Path, *, width: int = 16, layers: int = 2, extra: str = "") -> Path:
    words = ["<s>", "</s>", "<unk>", "a", "b", *([extra] if extra else ["c"])]
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=6, hidden_size=width, intermediate_size=16, num_hidden_layers=layers, num_attention_heads=2,
        num_key_value_heads=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def test_a_model_of_the_same_kind_can_be_compared(tmp_path: Path) -> None:
    check_comparable((save_words(tmp_path / "a"), ""), (save_words(tmp_path / "b"), ""))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": "d"}, "another tokenizer.*2 tokens differ, such as 'c'"),
        ({"width": 32}, "2 layers of width 32.*2 of width 16"),
        ({"layers": 3}, "3 layers of width 16"),
    ],
)
def test_another_kind_of_model_is_refused(tmp_path: Path, change: dict[str, int], message: str) -> None:
    base = save_words(tmp_path / "base")
    with pytest.raises(UsageError, match=message):
        check_comparable((base, ""), (save_words(tmp_path / "other", **change), ""))  # type: ignore[arg-type]


@pytest.mark.parametrize("harm", ["config", "weights", "tokenizer"])
def test_an_unreadable_model_is_refused(tmp_path: Path, harm: str) -> None:
    base, broken = save_words(tmp_path / "base"), tmp_path / "broken"
    shutil.copytree(base, broken)
    if harm == "config":
        (broken / "config.json").write_text("{")
    elif harm == "weights":
        (broken / "model.safetensors").rename(broken / "pytorch_model.bin")
    else:
        (broken / "tokenizer.json").write_text("no tokenizer")
    with pytest.raises(UsageError, match=r"broken"):
        check_comparable((base, ""), (broken, ""))
