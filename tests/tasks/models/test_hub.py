"""Models of a hub: which commit is meant, what is read and run of it, and what is said when it cannot be had."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

from storage.records import UsageError
from tasks.models.forward import next_token_log_probabilities
from tasks.models.hub import commit_of, fetch, licence_of
from tasks.models.load import LoadedModel, check_comparable, load_model
from tasks.models.prompts import encode_texts

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TEXTS = ["The city of Paris", "Ada Lovelace was", "The city"]
FAMILIES = ["gemma2", "llama", "qwen3", "gpt_neox", "gpt2"]
CODE = "from pathlib import Path\nPath({trace!r}).touch()\n"
"""What an unwanted module would do when it is imported."""


@pytest.fixture(scope="module")
def made(
    fresh: Callable[..., LoadedModel],
    tokenizers: dict[str, PreTrainedTokenizerFast],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], Path]:
    """A folder with a small model of the family and its tokenizer: leave it alone."""
    folders: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in folders:
            folders[family] = tmp_path_factory.mktemp(family)
            tokenizer = tokenizers["byte_level"]
            fresh(family, vocab_size=len(tokenizer)).model.save_pretrained(folders[family])
            tokenizer.save_pretrained(folders[family])
        return folders[family]

    return folder


@pytest.fixture
def copy(made: Callable[[str], Path], tmp_path: Path) -> Path:
    """A folder with a llama, to be changed."""
    return Path(shutil.copytree(made("llama"), tmp_path / "copy"))


def answers(loaded: LoadedModel) -> torch.Tensor:
    return next_token_log_probabilities(loaded, encode_texts(loaded.tokenizer, loaded.family, TEXTS))


def refusal(call: Callable[[], object]) -> str:
    """What is said, which must be one line."""
    with pytest.raises(UsageError) as caught:
        call()
    said = str(caught.value)
    assert len(said.splitlines()) == 1
    assert len(said) < 450
    return said


@pytest.mark.parametrize("family", FAMILIES)
def test_a_hub_model_is_the_folder_it_was_made_from(hub: Any, made: Callable[[str], Path], family: str) -> None:
    """And it is still there when the hub is not."""
    commit = hub.publish("org/name", made(family))
    expected = load_model(made(family))
    found = load_model("org/name", revision=commit)
    assert found.tokenizer.get_vocab() == expected.tokenizer.get_vocab()
    assert torch.equal(answers(found), answers(expected))
    asked = len(hub.requests)
    load_model("org/name", revision=commit)
    assert len(hub.requests) == asked
    assert commit_of("org/name") == commit
    hub.stop()
    assert commit_of("org/name") == commit
    for revision in (commit, "main", ""):
        offline = load_model("org/name", revision=revision)
        assert torch.equal(answers(offline), answers(expected))
        assert len(load_model("org/name", revision=revision, blocks=1).blocks) == 1


def test_a_branch_moves_and_a_commit_does_not(hub: Any, copy: Path) -> None:
    first = hub.publish("org/name", copy)
    hub.publish("org/name", copy, revision="v1")
    assert commit_of("org/name") == commit_of("org/name", "main") == commit_of("org/name", "v1") == first
    before = answers(load_model("org/name", revision=first))
    weights = load_file(copy / "model.safetensors")
    save_file({name: -each for name, each in weights.items()}, copy / "model.safetensors", metadata={"format": "pt"})
    second = hub.publish("org/name", copy)
    assert commit_of("org/name") == second != first
    assert commit_of("org/name", "v1") == first
    assert not torch.allclose(answers(load_model("org/name", revision=second)), before, atol=0.1)
    assert torch.equal(answers(load_model("org/name", revision=first)), before)
    assert torch.equal(answers(load_model("org/name", revision="v1")), before)


def test_a_commit_stands_for_itself(hub: Any) -> None:
    assert commit_of("owner/name", COMMIT) == COMMIT
    assert not hub.requests


def test_nothing_but_what_a_model_is_read_from_is_fetched(hub: Any, copy: Path) -> None:
    for name in ("pytorch_model.bin", "modeling_llama.py", "consolidated.safetensors", "onnx/model.onnx"):
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_bytes(b"not to be read")
    (copy / "README.md").write_text("its licence")
    commit = hub.publish("org/name", copy)
    kept = {"README.md", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}
    folder = fetch("org/name", weights=False)
    assert {path.name for path in folder.iterdir()} == kept
    check_comparable((copy, ""), ("org/name", ""))
    assert not any("safetensors" in request.path for request in hub.requests)
    assert fetch("org/name", commit) == folder
    assert {path.name for path in folder.iterdir()} == kept | {"model.safetensors"}


@pytest.mark.parametrize("where", ["hub", "folder"])
@pytest.mark.parametrize("known", [True, False])
def test_code_that_comes_with_a_model_is_not_run(hub: Any, copy: Path, tmp_path: Path, where: str, known: bool) -> None:
    trace = tmp_path / "it was run"
    code = CODE.format(trace=str(trace))
    exec(compile(code, "own.py", "exec"), {})
    assert trace.exists()
    trace.unlink()
    (copy / "own.py").write_text(code)
    config = json.loads((copy / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "own.Config", "AutoModel": "own.Model", "AutoModelForCausalLM": "own.Model"}
    config["model_type"] = "llama" if known else "strange"
    (copy / "config.json").write_text(json.dumps(config))
    described = json.loads((copy / "tokenizer_config.json").read_text())
    described["auto_map"] = {"AutoTokenizer": [None, "own.Tokenizer"]}
    (copy / "tokenizer_config.json").write_text(json.dumps(described))
    hub.publish("org/name", copy)
    location: str | Path = "org/name" if where == "hub" else copy
    if known:  # transformers' own classes can read it
        assert type(load_model(location).model).__name__ == "LlamaForCausalLM"
        assert len(load_model(location, blocks=1).blocks) == 1
    else:
        said = refusal(lambda: load_model(location))
        assert f"the model in {location} needs code of its own" in said
        assert "never run; give a model of a family that is supported: gemma2, " in said
    assert not trace.exists()
    assert not any(request.path.endswith("own.py") for request in hub.requests)


def test_pickles_are_refused(hub: Any, copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    torch.save(weights, copy / "pytorch_model.bin")
    commit = hub.publish("org/name", copy)
    for revision in ("", "main", commit):
        said = refusal(lambda revision=revision: load_model("org/name", revision=revision))  # type: ignore[misc]
        assert "org/name holds no *.safetensors, and pickles are not read; save it" in said
    assert not any("pytorch_model" in request.path or request.method == "POST" for request in hub.requests)


def test_a_repository_without_a_model(hub: Any, tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "README.md").write_text("no model here")
    hub.publish("org/name", folder)
    assert "org/name holds no config.json" in refusal(lambda: load_model("org/name"))


def test_a_gated_model(hub: Any, made: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    commit = hub.publish("org/name", made("llama"), gated=True)
    said = refusal(lambda: load_model("org/name", revision=commit))
    assert f"gated and no token was given; accept its licence at {hub.address}/org/name and set HF_TOKEN" in said
    monkeypatch.setenv("HF_TOKEN", "mine")
    assert "the hub refuses the token in use for 'org/name'" in refusal(lambda: load_model("org/name", revision=commit))
    assert "set HF_TOKEN to a valid one, or unset it" in refusal(lambda: commit_of("org/name"))
    hub.accounts["mine"] = set()
    said = refusal(lambda: load_model("org/name"))
    assert f"may not read it; accept its licence at {hub.address}/org/name with that account" in said
    hub.accounts["mine"].add("org/name")
    assert torch.equal(answers(load_model("org/name")), answers(load_model(made("llama"))))


@pytest.mark.parametrize("read", [commit_of, load_model])
def test_what_the_hub_does_not_have(hub: Any, made: Callable[[str], Path], read: Callable[..., object]) -> None:
    hub.publish("org/name", made("llama"))
    said = refusal(lambda: read("org/other"))
    assert "'org/other' is neither a folder nor a model that the hub shows; check the name, set HF_TOKEN" in said
    said = refusal(lambda: read("org/name", revision="v9"))
    assert f"'org/name' has no revision 'v9' on the hub; give a branch, a tag or a commit that {hub.address}" in said
    said = refusal(lambda: read("one/too/many"))
    assert "'one/too/many' (revision main) is neither a folder nor to be had from the hub" in said
    assert f"no revision '{COMMIT}'" in refusal(lambda: load_model("org/name", revision=COMMIT))


def test_what_the_hub_has_no_more_is_not_taken_from_the_cache(hub: Any, made: Callable[[str], Path]) -> None:
    commit = hub.publish("org/name", made("llama"), revision="draft")
    load_model("org/name", revision="draft")
    del hub.repositories["model", "org/name"].references["draft"]
    assert "has no revision 'draft'" in refusal(lambda: load_model("org/name", revision="draft"))
    assert load_model("org/name", revision=commit).family.name == "llama"


def test_neither_hub_nor_cache(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.stop()
    expected = r"'org/name' (revision main) is neither a folder nor to be had from the hub or its cache: "
    assert expected in refusal(lambda: load_model("org/name"))
    assert expected in refusal(lambda: commit_of("org/name"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    said = refusal(lambda: load_model("org/name", revision=COMMIT))
    assert f"(revision {COMMIT}) is neither a folder nor to be had from the hub or its cache" in said
    assert "HF_HUB_OFFLINE" in said


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("---\nlicense: apache-2.0\n---\nText.", ("apache-2.0", "")),
        ("---\nlicense: other\nlicense_name: its-own\n---\n", ("other", "its-own")),
        ("No front matter.", ("", "")),
        ("---\nlicense: [a\n---\n", ("", "")),
        (None, ("", "")),
    ],
)
def test_licence_is_what_the_card_states(tmp_path: Path, card: str | None, expected: tuple[str, str]) -> None:
    if card is not None:
        (tmp_path / "README.md").write_text(card)
    assert licence_of(tmp_path) == expected
