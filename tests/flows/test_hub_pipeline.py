"""The whole chain from ids of a hub: models that learnt the tiny world, one of each of five families, and an autoencoder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from flows import cli
from flows.config import load_experiment
from flows.prepare import prepare
from flows.results import score_rows
from flows.unlearn import Outcome, unlearn, unlearn_chain
from storage.artifacts import folder_of
from storage.records import ModelRef, Site
from storage.settings import tracking_uri
from storage.tables import read_table
from tasks.autoencoder.adoption import states_around
from tasks.autoencoder.settings import AutoencoderSettings
from tasks.autoencoder.training import train_autoencoder
from tasks.caching import Journal, journal
from tasks.models.hub import fetch
from tasks.models.load import load_model
from tasks.models.sae import load_sae
from tasks.testbed.examples import curriculum, lessons_of
from tasks.testbed.recipe import HEAD_WIDTH, RECIPES
from tasks.testbed.task import FACTS
from tasks.testbed.tokenizer import BOS, EOS, PAD, train_tokenizer
from tasks.testbed.training import train
from tasks.testbed.world import build_world

RECIPE = RECIPES["tiny"]
GROUPED: dict[str, Any] = {"num_key_value_heads": RECIPE.width // HEAD_WIDTH, "head_dim": HEAD_WIDTH}
OWN: dict[str, dict[str, Any]] = {
    "gemma2": GROUPED | {"query_pre_attn_scalar": HEAD_WIDTH, "attn_logit_softcapping": 50.0},
    "llama": GROUPED,
    "qwen3": GROUPED,
    "gpt_neox": {},
    "gpt2": {"n_inner": 2 * RECIPE.width},
}
"""What a family's configuration has beside what all have."""
NAMES = {
    "gemma2": "google/gemma-2-2b",
    "llama": "org/llama",
    "qwen3": "org/qwen3",
    "gpt_neox": "org/gpt_neox",
    "gpt2": "org/gpt2",
}
OFFLINE = "qwen3"
"""The family whose model is only fetched while the hub is there, and run without any network."""
SCOPE = "google/gemma-scope-2b-pt-res", "layer_1/width_16k/average_l0_8/params.npz"
"""Repository and path of the autoencoder, from which its place and the model that it was made for follow."""
LITTLE = (
    "activations.layers=[1]", "autoencoder.steps=40", "alignment.steps=2", "evaluation.stresses=[]",
    'evaluation.sets=["paraphrase"]', "evaluation.samples=1", "evaluation.relearning_draws=1",
    "evaluation.relearning_steps=1", "evaluation.relearning_rates=[5e-4]", "evaluation.unknown_entities=2",
    "evaluation.gradient_questions=2", "evaluation.bootstrap_draws=100",
)  # fmt: skip
"""Every stage, and little in each: that the pipeline runs is asked, not how well."""


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family's model, which is trained when first asked for: leave it alone."""

    @cache
    def folder(family: str) -> Path:
        made = tmp_path_factory.mktemp(family)
        save_learned(family, made)
        return made

    return folder


@pytest.fixture(scope="module")
def scope(learned: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of an autoencoder as Gemma Scope's are, trained on the gemma's own states."""
    folder = tmp_path_factory.mktemp("scope")
    _, questions, general = _world()
    loaded = load_model(learned("gemma2"))
    states = states_around(loaded, Site(1), [*general["text"], *questions["prompt"]], rows=6000)[Site(1)]
    settings = AutoencoderSettings(architecture="batchtopk", latents=128, active=8, steps=150, learning_rate=3e-3)
    train_autoencoder(states, "blocks.1.hook_resid_post", settings, folder / "made")
    sae = load_sae(folder / "made").sae
    arrays = {name: getattr(sae, name).detach() for name in ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")}
    arrays["b_enc"] = arrays["b_enc"] - arrays["b_dec"] @ arrays["W_enc"]  # Gemma Scope reads states as they are
    path = folder / "repository" / SCOPE[1]
    path.parent.mkdir(parents=True)
    np.savez(path, **{name: array.numpy() for name, array in arrays.items()})
    return folder / "repository"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, prefect_session: None) -> Path:
    """The home of all these runs, which share their world."""
    return tmp_path_factory.mktemp("pipelines") / "home"


@pytest.fixture(autouse=True)
def at_home(shared: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One thread, for matrices this small; and the shared home."""
    monkeypatch.setenv("SAE_UNLEARN_HOME", str(shared))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(*overrides: str) -> tuple[Outcome, Journal]:
    with journal() as log:
        return unlearn("quick", [*LITTLE, *overrides]), log


def to_compute(*overrides: str) -> set[str]:
    """The stages that a run would compute."""
    with journal(planning=True) as log:
        unlearn_chain(load_experiment("quick", [*LITTLE, *overrides]))
    return {each.stage for each in log.runs if each.state != "cached"}


@pytest.mark.parametrize("family", list(OWN))
def test_the_whole_chain_runs_from_ids_and_computes_nothing_twice(
    hub: Any,
    learned: Callable[[str], Path],
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    family: str,
) -> None:
    commit = hub.publish(NAMES[family], learned(family))
    overrides = [f"model.name={NAMES[family]}"]
    if family == "gemma2":
        pinned = hub.publish(SCOPE[0], request.getfixturevalue("scope"))
        overrides.append(f'autoencoder.sources=["hub:{"/".join(SCOPE)}"]')
    if family == OFFLINE:
        fetch(NAMES[family])
        hub.stop()
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    outcome, log = run(*overrides)
    assert outcome.subject.models.base == ModelRef("hub", NAMES[family], commit)
    assert {each.state for each in log.runs if each.stage != "world"} == {"computed"}
    rows = {(row["metric"], row["split"]): row for row in score_rows(outcome.assessment.scorecard)}
    assert rows["recall", "forget"]["base"] >= 0.5
    tracked = parameters_of(outcome)
    assert tracked["model.name"] == f"{NAMES[family]}@{commit}"
    quality = read_table(folder_of(outcome.insight.sae.artifact) / "quality.parquet")
    assert list(quality["site"]) == ["residual_1"]
    if family == "gemma2":
        assert tracked["autoencoder.sources"] == str((f"hub:{'/'.join(SCOPE)}@{pinned}",))
        assert list(quality["revision"]) == [pinned]
        assert quality["explained_variance"][0] > 0.5
    asked = len(hub.requests)
    hub.stop()
    again, log = run(*overrides)
    assert {each.state for each in log.runs} == {"cached"}
    assert again == outcome
    assert len(hub.requests) == asked


def test_a_commit_on_the_hub_recomputes_and_the_old_one_does_not(
    hub: Any, learned: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(learned("llama"), tmp_path / "copy"))
    name = f"model.name={NAMES['llama']}"
    first = hub.publish(NAMES["llama"], folder)
    run(name)
    assert to_compute(name) == set()
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] *= 1.01
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    second = hub.publish(NAMES["llama"], folder)
    assert to_compute(f"{name}@{first}") == set()
    assert {"answers", "activations", "alignment", "scores"} <= to_compute(name)
    assert "world" not in to_compute(name)
    with journal() as log:
        subject = prepare(load_experiment("quick", [*LITTLE, name]))
    assert subject.models.base.revision == second
    assert [(each.stage, each.state) for each in log.runs[:2]] == [("world", "cached"), ("answers", "computed")]


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("org/locked", [], "is gated and no token was given; accept its licence at {address}/org/locked and set HF_TOKEN"),
        ("org/open@v9", ["--dry-run"], "has no revision 'v9' on the hub; give a branch, a tag or a commit that {address}"),
        ("org/absent", ["--dry-run"], "is neither a folder nor a model that the hub shows; check the name, set HF_TOKEN"),
        ("gone/open", ["--dry-run"], "is neither a folder nor to be had from the hub or its cache"),
    ],
)  # fmt: skip
def test_what_cannot_be_had_ends_the_command_in_one_line(
    hub: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, more: list[str], message: str
) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "config.json").write_text("{}")
    hub.publish("org/locked", tmp_path / "files", gated=True)
    hub.publish("org/open", tmp_path / "files")
    if name.startswith("gone"):
        hub.stop()
    assert cli.run_command(["run", "quick", *more, "--set", f"model.name={name}"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    last = said.err.splitlines()[-1]
    assert last.startswith("sae-unlearn: ")
    assert message.format(address=hub.address) in last
    assert "Traceback" not in said.err


def parameters_of(outcome: Outcome) -> dict[str, str]:
    """What MLflow was told of the settings."""
    from mlflow import MlflowClient

    found: dict[str, str] = MlflowClient(tracking_uri()).get_run(outcome.tracked.run_id).data.params
    return found


def save_learned(family: str, folder: Path) -> None:
    """Train a model of the family on the world of the experiment `quick` and save it, with a tokenizer of its kind."""
    entities, questions, general = _world()
    tokenizer = _tokenizer(begins=family != "qwen3")
    lessons = lessons_of(tokenizer, entities, questions, general["text"])
    sizes = {
        "vocab_size": len(tokenizer), "hidden_size": RECIPE.width, "intermediate_size": 2 * RECIPE.width,
        "num_hidden_layers": RECIPE.layers, "num_attention_heads": RECIPE.width // HEAD_WIDTH,
        "max_position_embeddings": 128, "tie_word_embeddings": True,
        "pad_token_id": PAD, "eos_token_id": EOS, "bos_token_id": BOS,
    }  # fmt: skip
    config = AutoConfig.for_model(family, **(sizes | OWN[family]))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager" if family == "gemma2" else "sdpa")
    batches = curriculum(lessons, RECIPE.steps, RECIPE.batch, RECIPE.seed)
    train(_learner(model), lessons, batches, RECIPE, lambda step, loss: None)
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _learner(model: Any) -> Any:
    """The model under the names that the testbed's loop calls its parts by."""
    tables = [
        *(module for module in model.modules() if isinstance(module, nn.Embedding)),
        model.get_output_embeddings(),
    ]
    outside = {id(weight) for table in tables for weight in table.parameters()}

    def named() -> Iterator[tuple[str, nn.Parameter]]:
        for _, weight in model.named_parameters():
            yield "embedding" if id(weight) in outside else "inside", weight

    return SimpleNamespace(
        model=model.base_model, lm_head=model.get_output_embeddings(), named_parameters=named,
        parameters=model.parameters, train=model.train, zero_grad=model.zero_grad,
    )  # fmt: skip


@cache
def _world() -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Entities, questions and general texts of the experiment `quick`."""
    world = load_experiment("quick").world
    return build_world(read_table(FACTS), world.size, world.tail, world.seed)


def _tokenizer(*, begins: bool) -> PreTrainedTokenizerFast:
    """That of the testbed; Qwen's has no beginning token."""
    entities, questions, _ = _world()
    taught = [answer for answer in questions["taught"] if answer]
    made: PreTrainedTokenizerFast = train_tokenizer(list(entities["name"]), taught, RECIPE.vocabulary)
    if begins:
        return made
    backend = Tokenizer.from_str(made.backend_tokenizer.to_str())
    backend.post_processor = None
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
