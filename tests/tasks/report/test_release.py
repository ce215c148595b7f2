"""The door of the release: the model's files once more, with the card of this place and the one for a hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from storage.artifacts import folder_of
from storage.records import ModelRef, ReloadedModel
from tasks.report.settings import CardSettings
from tasks.report.task import release

NAME = "Lionel Messi"


def test_the_release_is_the_model_with_its_cards(make_results: Callable[..., Any], tmp_path: Path) -> None:
    results = make_results(name=NAME)
    base = tmp_path / "model-2b"
    base.mkdir()
    (base / "config.json").write_text("{}")
    (base / "model.safetensors").write_bytes(b"")
    (base / "README.md").write_text("---\nlicense: mit\n---\n")
    reloaded = ReloadedModel(results.unlearned.artifact, 48, 7e-7, "plain transformers")
    for named in (False, True):
        released = release.directly(
            f"{named:032d}", {"stage": "release"},
            ModelRef("folder", str(base), "e" * 32), results.world, results.forget_set, results.unlearned,
            results.scorecard, results.verdict, reloaded, (("alignment.steps", "60"),), "0.1.0", CardSettings(named),
        )  # fmt: skip
        folder, made = folder_of(released.artifact), folder_of(results.unlearned.artifact) / "model"
        files = {path.name: path for path in (folder / "model").iterdir()}
        assert set(files) == {"README.md", *(path.name for path in made.iterdir())}
        assert files["config.json"].samefile(made / "config.json"), "no second copy"
        local, published = files["README.md"].read_text(), (folder / "published.md").read_text()
        assert NAME in local
        assert (NAME in published) is named
        for text in (local, published):
            assert "model-2b" in text
            assert str(tmp_path) not in text
            assert "license: mit" in text
            assert "it scored 48 questions as in the run: log-probabilities at most 7e-07 nats a token apart" in text
        assert released.model.artifact == released.artifact
