"""Shards: what they hold, that a killed extraction goes on, and that it does not matter how many processes make them."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from storage.artifacts import artifacts_root, building, folder_of
from storage.records import ActivationRef, Answers, Artifact, Asking, ModelRef, Site, UsageError, World, to_document
from storage.tables import read_table, write_table
from tasks.activations.extraction import rows_to_read
from tasks.activations.settings import ActivationSettings
from tasks.activations.task import extract_activations
from tasks.activations.workers import _check
from tasks.models.forward import read_sites
from tasks.models.load import load_model

ROOT = Path(__file__).parents[3]
NAMES = ("Ada", "Ada Berg", "Bo", "Cy Oak", "Di", "Ed", "Flo", "Gus", "Hal")
SENTENCES = ("{} is", "The {} was", "Of {} we say")
GENERAL = ("The sea is cold", "A red cup")
SETTINGS = ActivationSettings(layers=(0, 1), dtype="float32", shard_sequences=16)

KILLED = """
import json, os, signal, sys
import tasks.activations.task as door
from storage.artifacts import whole_file
from storage.records import from_document
from storage.tables import write_table, write_whole_table
from tasks.activations.settings import ActivationSettings

def write(path, columns):
    if not any(path.parent.glob("*.parquet")):
        return write_whole_table(path, columns)
    with whole_file(path) as partial:
        write_table(partial, columns)
        os.kill(os.getpid(), signal.SIGKILL)

door.write_whole_table = write
settings = ActivationSettings(layers=(0, 1), dtype="float32", shard_sequences=16)
door.extract_activations.directly("made", {}, *map(from_document, json.loads(sys.argv[1])), settings)
"""


def _kept(stage: str, tables: dict[str, dict[str, Any]]) -> Artifact:
    with building(stage, "made", {}) as build:
        for name, columns in tables.items():
            write_table(build.folder / f"{name}.parquet", columns)
    return build.artifact


@pytest.fixture
def asked(own_home: Path, tmp_path: Path) -> tuple[ModelRef, World, Answers]:
    """A random model in a folder, a world of nine names, and answers by which the last two are not clear."""
    prompts = [(name, text.format(name)) for name in NAMES for text in SENTENCES for _ in range(2)]
    words = Tokenizer(models.WordLevel(unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    texts = [prompt for _, prompt in prompts] + list(GENERAL)
    words.train_from_iterator(texts, trainers.WordLevelTrainer(special_tokens=special, show_progress=False))
    PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>"
    ).save_pretrained(tmp_path / "model")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2,
        bos_token_id=2, eos_token_id=1, pad_token_id=0, initializer_range=0.3,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    count = len(prompts)
    questions = {
        "entity": [name for name, _ in prompts],
        "relation": [("born", "home")[row % 2] for row in range(count)],
        "template": np.arange(count) % 3,
        "held_out": np.zeros(count, dtype=bool),
        "prompt": [prompt for _, prompt in prompts],
        "name_start": np.array([prompt.index(name) for name, prompt in prompts]),
        "name_end": np.array([prompt.index(name) + len(name) for name, prompt in prompts]),
        "answers": [["Oak"]] * count,
    }
    world = _kept("world", {"questions": questions, "general": {"text": list(GENERAL)}})
    clear = np.arange(len(NAMES)) < len(NAMES) - 2
    answers = _kept("answers", {"entities": {"entity": list(NAMES), "clear": clear}})
    model = ModelRef("folder", str(tmp_path / "model"))
    return model, World(world, "test", len(NAMES), count), Answers(answers, len(NAMES), Asking("exact"))


def _extract(*inputs: Any, key: str = "made", settings: ActivationSettings = SETTINGS) -> ActivationRef:
    """The door's own function, without Prefect around it."""
    made: ActivationRef = extract_activations.directly(key, {}, *inputs, settings)
    return made


def test_a_killed_extraction_goes_on_in_two_processes_and_gives_what_one_gives(
    asked: tuple[ModelRef, World, Answers],
) -> None:
    argument = json.dumps([to_document(each) for each in asked])
    killed = subprocess.run([sys.executable, "-c", KILLED, argument], cwd=ROOT, capture_output=True, check=False)
    assert killed.returncode == -9, killed.stderr.decode()
    (scratch,) = (artifacts_root() / ".scratch").iterdir()
    assert [path.name for path in scratch.glob("*.parquet")] == ["part-00000.parquet"]
    assert len(list(scratch.glob("*.partial"))) == 1
    first = (scratch / "part-00000.parquet").stat().st_mtime_ns

    resumed = folder_of(_extract(*asked, settings=ActivationSettings((0, 1), "float32", 16, workers=2)).artifact)
    assert (resumed / "part-00000.parquet").stat().st_mtime_ns == first
    plain = folder_of(_extract(*asked, key="plain").artifact)
    names = [path.name for path in sorted(plain.glob("*.parquet"))]
    assert names == [*(f"part-0000{number}.parquet" for number in range(3)), "rest-00000.parquet"]
    assert [path.name for path in sorted(resumed.iterdir())] == ["manifest.json", *names]
    for name in names:
        made, expected = read_table(resumed / name), read_table(plain / name)
        assert list(made) == list(expected)
        for column, values in expected.items():
            # A worker computes with fewer threads than a lone process: sums are then rounded in another order.
            np.testing.assert_allclose(made[column], values, rtol=1e-5, atol=1e-6, err_msg=f"{name}, {column}")


def test_a_shard_holds_the_states_it_says(asked: tuple[ModelRef, World, Answers]) -> None:
    folder = folder_of(_extract(*asked).artifact)
    loaded = load_model(asked[0].location)
    prompts = read_table(folder_of(asked[1].artifact) / "questions.parquet")["prompt"]
    unclear = read_table(folder / "rest-00000.parquet")
    assert set(unclear["question"]) == set(range(42, 54))
    last = unclear["before_end"] == 0
    ids = [tuple(loaded.tokenizer("<bos>" + prompts[row])["input_ids"]) for row in unclear["question"][last]]
    for site in (Site(0), Site(1)):
        states = read_sites(loaded, ids, [[len(each) - 1] for each in ids], [site])[site]
        np.testing.assert_allclose(unclear[site.name][last], states.numpy(), rtol=1e-5, atol=1e-5)
    clear = read_table(sorted(folder.glob("part-*.parquet")))
    assert (clear["question"] < 0).sum() == 4 + 3, "neutral text, every token but the beginning one"


def test_how_many_processes_is_in_no_key(asked: tuple[ModelRef, World, Answers]) -> None:
    inputs = dict(zip(("model", "world", "answers"), asked, strict=True))
    two = ActivationSettings((0, 1), "float32", 16, workers=2)
    assert extract_activations.explanation(inputs | {"settings": two}) == extract_activations.explanation(
        inputs | {"settings": SETTINGS}
    )


def test_a_process_that_ends_early_is_told_of() -> None:
    process = multiprocessing.get_context("fork").Process(target=os._exit, args=(3,))
    process.start()
    process.join()
    with pytest.raises(UsageError, match=r"ended with code 3 before its work was done.*fewer activations\.workers"):
        _check([process])


def test_first_training_wordings_of_each_fact_are_read_whatever_their_numbers() -> None:
    questions = {
        "entity": ["a"] * 7 + ["b"],
        "relation": ["r"] * 5 + ["s"] * 2 + ["r"],
        "template": [7, 8, 9, 40, 41, 0, 90, 0],
        "held_out": [False, False, False, False, True, True, False, False],
    }
    assert rows_to_read(questions, {"a"}) == [0, 1, 2, 4, 5, 6]
