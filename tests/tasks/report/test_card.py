"""The card says what was judged, as a hub expects it, and names nobody where it is not to."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from storage.artifacts import folder_of
from storage.tables import read_table
from tasks.report.card import Base, CardContent, make_card

NAME = "Lionel Messi"


@pytest.fixture
def content(make_results: Callable[..., Any]) -> CardContent:
    results = make_results(name=NAME)
    return CardContent(
        base=Base("owner/model-2b", "c" * 40, on_hub=True, licence="apache-2.0"),
        method="sae_guided",
        targets=results.forget_set.targets,
        world=f"facts of {NAME}",
        settings=(("alignment.steps", "60"),),
        verdict=results.verdict.verdict,
        evidence=read_table(folder_of(results.verdict.artifact) / "verdict.parquet"),
        scores=read_table(folder_of(results.scorecard.artifact) / "scores.parquet"),
        reread="Read again.",
        edited=False,
        adapter=False,
        weights="d" * 32,
        version="0.1.0",
    )


def test_front_matter_is_what_a_hub_reads(content: CardContent, tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(make_card(content, named=True), encoding="utf-8")
    assert ModelCard.load(path).data.to_dict() == {
        "base_model": "owner/model-2b",
        "base_model_relation": "finetune",
        "library_name": "transformers",
        "license": "apache-2.0",
        "pipeline_tag": "text-generation",
        "tags": ["sae-unlearn", "unlearning"],
    }
    local = dataclasses.replace(content, base=Base("testbed"))
    data = ModelCard(make_card(local, named=True)).data.to_dict()
    assert not {"base_model", "base_model_relation", "license", "license_name"} & set(data)
    own = dataclasses.replace(content.base, licence="other", licence_name="its-own")
    assert ModelCard(make_card(dataclasses.replace(content, base=own), named=True)).data.license_name == "its-own"


def test_verdict_scores_and_provenance_stand_in_it(content: CardContent) -> None:
    text = make_card(content, named=True)
    for part in ("## Verdict: forgotten", "`sae_guided` of sae-unlearn 0.1.0", "c" * 40, "d" * 32, "Read again.", NAME):
        assert part in text
    assert "| `alignment.steps` | `60` |" in text
    assert "| Recall on unseen wordings, the targets | 0.980 | 0.100 [" in text
    assert text.count("| within |") >= 2, "the measures that decided"
    assert "That of the base model: apache-2.0." in text
    assert 'AutoModelForCausalLM.from_pretrained("FOLDER")' in text
    assert "peft" not in text


def test_a_card_for_a_hub_names_nobody(content: CardContent) -> None:
    published = make_card(content, named=False)
    assert "made to forget 1 entity not named here" in published
    for part in ("Lionel", "Messi", "facts of"):
        assert part not in published


def test_how_to_load_follows_what_was_saved(content: CardContent) -> None:
    edited = make_card(dataclasses.replace(content, edited=True), named=False)
    assert "from tasks.models.load import load_model" in edited
    assert "which has forgotten nothing" in edited
    assert "AutoModelForCausalLM" not in edited
    adapter = make_card(dataclasses.replace(content, adapter=True), named=False)
    assert f'from_pretrained("owner/model-2b", revision="{"c" * 40}")' in adapter
    assert 'subfolder="adapter"' in adapter
