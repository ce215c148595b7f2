"""Which commit of a hub model is meant, and which models can be compared."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from storage.records import UsageError
from tasks.models.hub import commit_of
from tasks.models.load import check_comparable

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def save(folder: Path, *, width: int = 16, layers: int = 2, extra: str = "") -> Path:
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
    check_comparable((save(tmp_path / "a"), ""), (save(tmp_path / "b"), ""))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": "d"}, "another tokenizer.*2 tokens differ, such as 'c'"),
        ({"width": 32}, "2 layers of width 32.*2 of width 16"),
        ({"layers": 3}, "3 layers of width 16"),
    ],
)
def test_another_kind_of_model_is_refused(tmp_path: Path, change: dict[str, int], message: str) -> None:
    base = save(tmp_path / "base")
    with pytest.raises(UsageError, match=message):
        check_comparable((base, ""), (save(tmp_path / "other", **change), ""))  # type: ignore[arg-type]


@pytest.mark.parametrize("harm", ["config", "weights", "tokenizer"])
def test_an_unreadable_model_is_refused(tmp_path: Path, harm: str) -> None:
    base, broken = save(tmp_path / "base"), tmp_path / "broken"
    shutil.copytree(base, broken)
    if harm == "config":
        (broken / "config.json").write_text("{")
    elif harm == "weights":
        (broken / "model.safetensors").rename(broken / "pytorch_model.bin")
    else:
        (broken / "tokenizer.json").write_text("no tokenizer")
    with pytest.raises(UsageError, match=r"broken"):
        check_comparable((base, ""), (broken, ""))


def test_a_commit_stands_for_itself() -> None:
    assert commit_of("owner/name", COMMIT) == COMMIT


def test_a_branch_is_asked_for_and_the_cache_where_it_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    asked = []

    def info(_self: object, repository: str, *, revision: str, timeout: float) -> SimpleNamespace:
        asked.append((repository, revision))
        return SimpleNamespace(sha=COMMIT)

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", info)
    assert commit_of("owner/name", "v1") == COMMIT
    assert asked == [("owner/name", "v1")]

    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", unreachable)
    with pytest.raises(UsageError, match=r"owner/name.*no network.*give a folder"):
        commit_of("owner/name")
    reference = tmp_path / "models--owner--name" / "refs" / "main"
    reference.parent.mkdir(parents=True)
    reference.write_text(COMMIT)
    assert commit_of("owner/name") == COMMIT
