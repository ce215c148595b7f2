"""A folder goes to a hub with its card, in private, once; what stands in the way is one line without the token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.utils import close_session

from storage.records import UsageError
from tasks.models.release.push import check_destination, push_model

SECRET = "hf_the_secret_of_this_test"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    (made / "adapter").mkdir(parents=True)
    (made / "config.json").write_text("{}")
    (made / "README.md").write_text("---\ntags: [a]\n---\nIt forgot Somebody.\n")
    (made / "model-00001-of-00002.safetensors").write_bytes(b"first" * 1000)
    (made / "model-00002-of-00002.safetensors").write_bytes(b"second" * 1000)
    (made / "adapter" / "adapter_config.json").write_text("{}")
    (tmp_path / "published.md").write_text("---\ntags: [a]\n---\nIt forgot one entity.\n")
    return made


@pytest.fixture
def signed_in(hub: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    hub.writers[SECRET] = ("me", "team")
    monkeypatch.setenv("HF_TOKEN", SECRET)
    return hub


def push(folder: Path, name: str = "me/name", **more: Any) -> str:
    return push_model(folder, folder.parent / "published.md", name, message="forgotten", **more)


def test_folder_and_card_arrive_in_private(signed_in: Any, folder: Path) -> None:
    check_destination("me/name")
    address = push(folder)
    repository = signed_in.repositories["model", "me/name"]
    assert repository.private
    assert address == f"{signed_in.address}/me/name/commit/{repository.references['main']}"
    arrived = Path(huggingface_hub.snapshot_download("me/name", token=SECRET))
    files = {path.relative_to(arrived).as_posix(): path.read_bytes() for path in arrived.rglob("*") if path.is_file()}
    own = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert set(files) == {".gitattributes", *own}
    assert files.pop("README.md").decode().endswith("It forgot one entity.\n")
    assert all(files[name] == content for name, content in own.items() if name != "README.md")
    with pytest.raises(huggingface_hub.errors.RepositoryNotFoundError):
        huggingface_hub.model_info("me/name", token=False)


def test_again_is_no_commit_and_a_changed_model_leaves_nothing_of_the_old(signed_in: Any, folder: Path) -> None:
    first = push(folder)
    repository = signed_in.repositories["model", "me/name"]
    assert push(folder) == first
    assert repository.messages == ["forgotten"]
    for part in folder.glob("model-*.safetensors"):
        part.unlink()
    (folder / "adapter" / "adapter_config.json").unlink()
    (folder / "model.safetensors").write_bytes(b"whole")
    push(folder)
    assert len(repository.messages) == 2
    there = set(huggingface_hub.list_repo_files("me/name", token=SECRET))
    assert there == {".gitattributes", "README.md", "config.json", "model.safetensors"}


def test_what_everyone_sees_is_asked_for(signed_in: Any, folder: Path) -> None:
    push(folder, "team/open", public=True)
    repository = signed_in.repositories["model", "team/open"]
    assert not repository.private
    (folder / "config.json").write_text("{ }")
    with pytest.raises(UsageError, match="everyone can see that repository; add --public"):
        push(folder, "team/open")
    assert len(repository.messages) == 1


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("name", "expected OWNER/NAME"),
        ("me/name/more", "expected OWNER/NAME"),
        ("me/na me", "no hub takes such a name"),
        ("me/../name", "expected OWNER/NAME"),
        ("me/..", "no hub takes such a name"),
        ("other/name", "may write to me, team"),
    ],
)
def test_a_wrong_name_is_one_line(signed_in: Any, name: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        check_destination(name)
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)


def test_no_token_is_one_line_whatever_was_stored(hub: Any, tmp_path: Path) -> None:
    Path(constants.HF_TOKEN_PATH).parent.mkdir(parents=True, exist_ok=True)
    Path(constants.HF_TOKEN_PATH).write_text(SECRET)
    with pytest.raises(UsageError, match=r"no token was given; .* set HF_TOKEN"):
        check_destination("me/name")
    assert not hub.requests


def refused(name: str, says: str, folder: Path | None = None) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        push(folder, name) if folder else check_destination(name)
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_hub_that_refuses_or_is_away_is_one_line(
    signed_in: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused("other/name", "may not write there", folder)
    monkeypatch.setenv("HF_TOKEN", f"{SECRET}_wrong")
    refused("me/name", "refuses the token in HF_TOKEN")
    monkeypatch.setenv("HF_TOKEN", SECRET)
    signed_in.stop()
    close_session()
    refused("me/name", "was not reached: .* nothing is computed anew")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    close_session()
    refused("me/name", "HF_HUB_OFFLINE is set")
