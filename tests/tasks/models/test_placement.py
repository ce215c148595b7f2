"""A model whose weights lie on disk or in the host's memory reads as one that is loaded whole and is saved whole; what
would train or change an offloaded weight is refused."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast

from storage.records import Site, UsageError
from tasks.alignment.parameters import all_weights
from tasks.evaluation.internals.gradients import observe_gradients
from tasks.evaluation.relearning import teach
from tasks.evaluation.stress import make_stressed
from tasks.models import placement
from tasks.models.adapters import adapted
from tasks.models.forward import all_residuals, next_token_log_probabilities, read_sites
from tasks.models.generate import greedy
from tasks.models.intervention.offset import Offsetting
from tasks.models.load import LoadedModel, load_model, save_model
from tasks.models.patching import patch_answers
from tasks.models.placement import check_fits
from tasks.models.release import plain
from tasks.models.scoring import score_answers

PROMPTS, ANSWERS = [[1, 5, 6], [1, 5, 7, 8]], [[[9, 10]], [[11]]]
WORLD: dict[str, Any] = {"prompt": ["Who is Ada?"], "name_start": [7], "name_end": [10], "answers": [["Paris"]]}


@pytest.fixture(scope="module", params=["gemma2", "gpt2"])
def saved(
    request: pytest.FixtureRequest,
    fresh: Callable[..., LoadedModel],
    tokenizers: dict[str, PreTrainedTokenizerFast],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = tmp_path_factory.mktemp("model")
    fresh(request.param, num_hidden_layers=3, vocab_size=400).model.save_pretrained(folder)
    tokenizers["byte_level"].save_pretrained(folder)
    return folder


@pytest.fixture
def offloaded(saved: Path, monkeypatch: pytest.MonkeyPatch) -> LoadedModel:
    """Loaded where the host's memory holds a part of the model at most: the blocks are left on disk."""
    monkeypatch.setattr(placement, "get_max_memory", lambda: {"cpu": 60_000})
    loaded = load_model(saved, placement="offload")
    assert all(each.is_meta for each in loaded.blocks.parameters())
    return loaded


def _everything(loaded: LoadedModel) -> list[Any]:
    """States, answers, scores and patched scores."""
    sites = [*all_residuals(loaded), Site(1, "mlp"), Site(1, "neurons")]
    states = read_sites(loaded, PROMPTS, [[0, 2], [3]], sites)
    patches = {Site(1): torch.ones(3, loaded.width)}
    kept, patched = patch_answers(loaded, PROMPTS, [each[0] for each in ANSWERS], [0, 1], patches)
    scores = score_answers(loaded, PROMPTS, ANSWERS)
    return [*states.values(), scores.log_probability, scores.rank, kept, *patched.values()]


def test_what_is_read_is_the_same(saved: Path, offloaded: LoadedModel) -> None:
    whole = load_model(saved)
    torch.testing.assert_close(_everything(offloaded), _everything(whole))
    assert greedy(offloaded, PROMPTS, max_new_tokens=5) == greedy(whole, PROMPTS, max_new_tokens=5)
    cut = load_model(saved, blocks=2, placement="offload")
    expected = read_sites(load_model(saved, blocks=2), PROMPTS, [[2], [3]], [Site(1)])
    torch.testing.assert_close(read_sites(cut, PROMPTS, [[2], [3]], [Site(1)]), expected)


def test_weights_in_the_host_are_fetched_for_every_pass(saved: Path) -> None:
    whole, hosted = load_model(saved), load_model(saved)
    cpu_offload(hosted.model, execution_device=torch.device("cpu"))
    assert all(each.is_meta for each in hosted.blocks.parameters())
    torch.testing.assert_close(_everything(hosted), _everything(whole))


def test_an_offloaded_model_is_saved_whole(saved: Path, offloaded: LoadedModel, tmp_path: Path) -> None:
    save_model(offloaded, tmp_path)
    found, expected = (load_file(folder / "model.safetensors") for folder in (tmp_path, saved))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def _adapt(loaded: LoadedModel) -> None:
    with adapted(loaded, None, rank=2, alpha=4.0):
        pass


@pytest.mark.parametrize(
    ("change", "doing"),
    [
        (_adapt, "merging adapters"),
        (all_weights, "taking gradients of weights"),
        (lambda loaded: observe_gradients(loaded, WORLD, [0]), "taking gradients of weights"),
        (lambda loaded: teach(loaded, WORLD, [0], steps=1, learning_rate=0.1, seed=0), "training weights"),
        (lambda loaded: make_stressed(loaded, "int8", (), {}, {}, {}, 0), "the stress 'int8'"),
    ],
)
def test_offloaded_weights_are_not_changed(
    offloaded: LoadedModel, change: Callable[[LoadedModel], Any], doing: str
) -> None:
    with pytest.raises(UsageError, match=f"'offload': {doing} needs weights that lie on a device, and .* such as "):
        change(offloaded)


def test_an_offset_lies_on_one_device(offloaded: LoadedModel) -> None:
    with pytest.raises(UsageError, match="placement = 'one'"):
        Offsetting(offloaded, None)  # type: ignore[arg-type]


def test_what_fits_is_not_offloaded_and_trains(saved: Path) -> None:
    loaded = load_model(saved, placement="offload")
    before = next_token_log_probabilities(loaded, PROMPTS)
    torch.testing.assert_close(before, next_token_log_probabilities(load_model(saved), PROMPTS))
    losses = teach(loaded, WORLD, [0], steps=3, learning_rate=0.01, seed=0, rank=2)
    assert losses[-1] < losses[0]
    assert not torch.equal(before, next_token_log_probabilities(loaded, PROMPTS))


def test_plain_transformers_place_it_so_too(saved: Path, tmp_path: Path) -> None:
    rows = [
        {"text": "Ada", "prompt": prompt, "answer": answer[0]} for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)
    ]
    asked = {"model": str(saved), "edited": False, "adapter": "", "base": "", "dtype": "float32", "device": "cpu"}

    def answered(where: str) -> Sequence[float]:
        (tmp_path / "asked.json").write_text(json.dumps(asked | {"rows": rows, "placement": where}))
        plain.main(str(tmp_path / "asked.json"), str(tmp_path / "answered.json"))
        found: Sequence[float] = json.loads((tmp_path / "answered.json").read_text())["model"]
        return found

    assert answered("offload") == pytest.approx(answered("one"))


def test_spreading_wants_gpus_that_hold_the_model(saved: Path, offloaded: LoadedModel) -> None:
    with pytest.raises(UsageError, match=r"divides a model among GPUs, and here it would run on the CPU .* 'offload'"):
        load_model(saved, device="cpu", placement="spread")
    with pytest.raises(UsageError, match="do not fit on the GPUs"):
        check_fits(offloaded.model)
    with pytest.raises(UsageError, match="expected one of one, spread, offload"):
        load_model(saved, placement="everywhere")
