"""The experiments on real models: what is in them is there, and what they say they need is what the estimate says."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.cli import run_command
from flows.commands.console import estimate_line
from flows.config import EXPERIMENTS, Experiment, load_experiment
from flows.estimate import estimate
from flows.experiment import TESTBED
from flows.stages import STAGES
from storage.records import UsageError
from tasks.models.published_saes.sources import parse_source, release

CONFIGURATIONS = Path(__file__).parent / "configurations"
"""`config.json` of each experiment's model, as far as it decides the shape."""
REAL = sorted(path.stem for path in CONFIGURATIONS.glob("*.json"))
PARAMETERS = {
    "gemma-2-2b": 2_614_341_888,
    "gemma-2-9b-it": 9_241_705_984,
    "gemma-3-1b-it": 999_885_952,
    "gpt2-small": 124_439_808,
    "llama-3.1-8b": 8_030_261_248,
    "pythia-70m": 70_426_624,
    "qwen3-1.7b": 1_720_574_976,
}
"""As their publishers count them; of the last, whose file holds its tied head twice, the head once."""
MODELS = {  # as sae-lens names the model of a release
    "gemma-2-2b": "google/gemma-2-2b",
    "gemma-2-9b-it": "google/gemma-2-9b-it",
    "google/gemma-3-1b-it": "google/gemma-3-1b-it",
    "gpt2-small": "openai-community/gpt2",
    "meta-llama/Llama-3.1-8B": "meta-llama/Llama-3.1-8B",
    "pythia-70m-deduped": "EleutherAI/pythia-70m-deduped",
    "Qwen/Qwen3-1.7B-Base": "Qwen/Qwen3-1.7B-Base",
}
each = pytest.mark.parametrize("name", REAL)


@pytest.fixture
def shaped(tmp_path: Path) -> Callable[..., Experiment]:
    """An experiment whose model is a folder with its configuration alone."""

    def made(name: str, *changes: str) -> Experiment:
        shutil.copy(CONFIGURATIONS / f"{name}.json", tmp_path / "config.json")
        chosen = load_experiment(name, changes)
        return dataclasses.replace(chosen, model=dataclasses.replace(chosen.model, name=str(tmp_path)))

    return made


def test_every_experiment_on_a_real_model_has_a_shape_to_be_checked_with() -> None:
    own = [path.stem for path in EXPERIMENTS.glob("*.toml") if load_experiment(path.stem).model.name != TESTBED]
    assert sorted(own) == REAL == sorted(PARAMETERS)


@each
def test_autoencoders_are_listed_for_this_model_and_these_layers(name: str) -> None:
    chosen = load_experiment(name)
    layers = []
    for written in chosen.autoencoder.sources:
        source = parse_source(written)
        assert MODELS[release(source.location).model] == chosen.model.name.partition("@")[0]
        found = re.match(r"(?:layer_?|l|blocks\.)(\d+)", source.name)
        assert found, source.name
        layers.append(int(found[1]) - ("hook_resid_pre" in source.name))  # what enters a block left the one before
    assert tuple(layers) == chosen.activations.layers, "states are read where the autoencoders belong"


@each
def test_what_runs_is_pinned_to_a_commit_or_the_header_says_that_it_is_not(name: str) -> None:
    chosen = load_experiment(name)
    assert re.fullmatch(r"[^@]+@[0-9a-f]{40}", chosen.model.name)
    sources = [parse_source(written) for written in chosen.autoencoder.sources]
    pinned = [bool(re.fullmatch(r"[0-9a-f]{40}", source.revision)) for source in sources]
    assert len(set(pinned)) == 1
    unpinned = "of the autoencoders' repository none could be confirmed"
    assert (unpinned in " ".join((EXPERIMENTS / f"{name}.toml").read_text().replace("#", " ").split())) is not pinned[0]


@each
def test_the_header_says_what_the_estimate_says(shaped: Callable[..., Experiment], name: str) -> None:
    document = estimate(shaped(name))
    assert document["parameters"] == PARAMETERS[name]
    text = " ".join((EXPERIMENTS / f"{name}.toml").read_text().replace("#", " ").split())
    assert estimate_line(document).removeprefix("estimate: ") in text
    assert "not run on the weights" in text
    assert {stage["stage"] for stage in document["stages"]} <= set(STAGES)
    assert document["peak_bytes"] == max(stage["peak"] for stage in document["stages"])
    assert document["peak_bytes"] < 80e9, "one GPU"


def test_what_saves_memory_is_seen_to(shaped: Callable[..., Experiment]) -> None:
    def peak(stage: str, *changes: str) -> Any:
        found = {one["stage"]: one for one in estimate(shaped("gemma-2-2b", *changes))["stages"]}
        return found[stage]

    plain = peak("alignment")
    assert peak("alignment", "alignment.checkpointing=true")["working"] < plain["working"]
    assert peak("alignment", "alignment.accumulation=4")["working"] < plain["working"] / 3
    assert peak("alignment", "alignment.train=weights")["training"] == 20 * (2_614_341_888 - 256000 * 2304)
    assert peak("alignment", "model.dtype=float32")["weights"] > plain["weights"] + 2 * 2_614_341_888 - 1
    assert peak("alignment", "alignment.method=clamp")["training"] == 0, "an edit trains nothing"
    assert peak("relearning", "evaluation.relearning_rank=0")["training"] > 40 * peak("relearning")["training"]
    assert peak("activations", "activations.layers=[3]")["weights"] < peak("activations")["weights"]


def test_twice_the_throughput_is_not_slower(shaped: Callable[..., Experiment]) -> None:
    slow, fast = (estimate(shaped("gpt2-small"), each)["seconds"] for each in (0.1, 0.2))
    assert slow / 2.01 < fast < slow


def test_layers_that_the_model_does_not_have(shaped: Callable[..., Experiment]) -> None:
    with pytest.raises(UsageError, match=r"\[activations\] layers: expected blocks from 0 to 25, given 26") as refused:
        estimate(shaped("gemma-2-2b", "activations.layers=[3, 26]"))
    assert "\n" not in str(refused.value)


def test_the_command_says_it_before_anything_is_loaded(
    tmp_path: Path, own_home: Path, prefect_session: None, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(CONFIGURATIONS / "pythia-70m.json", tmp_path / "config.json")
    changes = [f"--set=model.name={tmp_path}", "--set=activations.layers=[2]"]
    assert run_command(["run", "quick", "--dry-run", *changes]) == 0
    shown = capsys.readouterr().out
    assert "Memory and time, estimated" in shown
    assert "0.07 billion parameters in float32" in shown
    assert "alignment" in shown
    assert run_command(["run", "quick", "--dry-run", "--json", "--throughput", "50", *changes]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["estimate"]["parameters"] == 70_426_624
    assert document["estimate"]["throughput_tflops"] == 50
    assert {stage["stage"] for stage in document["stages"]} > {"alignment", "verdict"}
    assert run_command(["run", "quick", "--dry-run", "--json"]) == 0
    assert "estimate" not in json.loads(capsys.readouterr().out), "the testbed needs none"
    assert not list(own_home.rglob("*.safetensors"))


def test_a_model_that_is_divided_is_estimated_as_if_on_one_device_and_it_is_said(
    shaped: Callable[..., Experiment],
) -> None:
    one, spread = (estimate_line(estimate(shaped("gpt2-small", f"model.placement={how}"))) for how in ("one", "spread"))
    assert "on the device (" in one
    assert spread == one.replace("on the device (", "on the device were it to hold the whole model (")
