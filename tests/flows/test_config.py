"""An experiment file says what it says, and every mistake in one is a line that names the remedy."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from flows.config import SECTIONS, Experiment, experiment_names, flat_settings, load_experiment
from storage.records import UsageError
from tasks import catalogue


def _file(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", experiment_names())
def test_every_experiment_that_comes_along_loads(name: str) -> None:
    assert load_experiment(name).name == name


def test_default_is_what_the_settings_say() -> None:
    assert load_experiment() == Experiment()


def test_every_part_is_fed_by_one_section() -> None:
    fed = [part for parts in SECTIONS.values() for part in parts]
    assert sorted(fed) == sorted(entry.name for entry in dataclasses.fields(Experiment) if entry.name != "name")


def test_file_gives_every_kind_of_value(tmp_path: Path) -> None:
    text = """
    [testbed]
    size = "tiny"
    seed = 3
    [entities]
    targets = ["One", "Two"]
    [activations]
    layers = [1]
    [alignment]
    learning_rate = 1
    [evaluation]
    device = "cpu"
    """
    experiment = load_experiment(_file(tmp_path, text))
    assert experiment.name == "mine"
    assert (experiment.world.size, experiment.world.seed, experiment.pretraining.seed) == ("tiny", 3, 3)
    assert experiment.roles.targets == ("One", "Two")
    assert experiment.activations.layers == (1,)
    assert experiment.alignment.learning_rate == 1.0
    assert isinstance(experiment.alignment.learning_rate, float)
    assert (experiment.observation.device, experiment.relearning.device) == ("cpu", "cpu")


@pytest.mark.parametrize(
    ("override", "targets"),
    [
        ("entities.targets=Some Name", ("Some Name",)),
        ("entities.targets=Name, the First", ("Name, the First",)),
        ("entities.targets=1917", ("1917",)),
        ("entities.targets=true", ("true",)),
        ('entities.targets="In quotes"', ("In quotes",)),
        ('entities.targets=["One", "Two"]', ("One", "Two")),
        ("entities.targets=[]", ()),
    ],
)
def test_names_can_be_given_as_they_are(override: str, targets: tuple[str, ...]) -> None:
    assert load_experiment("default", [override]).roles.targets == targets


def test_later_override_wins_over_the_file(tmp_path: Path) -> None:
    path = _file(tmp_path, "[alignment]\nsteps = 5\n")
    assert load_experiment(path).alignment.steps == 5
    assert load_experiment(path, ["alignment.steps=6", "alignment.steps=7"]).alignment.steps == 7


def test_settings_of_the_method_are_checked_against_its_fields(tmp_path: Path) -> None:
    field = next(entry for entry in dataclasses.fields(catalogue.load("alignment/methods", "npo")) if entry.init)
    path = _file(tmp_path, f'[alignment]\nmethod = "npo"\n[alignment.settings]\n{field.name} = 0.25\n')
    assert load_experiment(path).alignment.settings == ((field.name, 0.25),)
    other = load_experiment(path, [f"alignment.settings.{field.name}=0.5"])
    assert other.alignment.settings == ((field.name, 0.5),)


def test_default_of_the_method_said_aloud_is_the_same_experiment() -> None:
    field = next(entry for entry in dataclasses.fields(catalogue.load("alignment/methods", "npo")) if entry.init)
    plain = load_experiment("default", ["alignment.method=npo"])
    assert (
        load_experiment("default", ["alignment.method=npo", f"alignment.settings.{field.name}={field.default}"])
        == plain
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[alignment]\nlearning_rat = 1e-3\n", ["mine.toml: [alignment] learning_rat", "did you mean 'learning_rate'"]),
        ("[aligment]\n", ["mine.toml: section [aligment]", "did you mean 'alignment'"]),
        ("learning_rate = 3\n", ["'learning_rate' stands outside any section", "[autoencoder] or [alignment]"]),
        ("nothing = 3\n", ["the sections are: model, data, testbed"]),
        ("alignment = 3\n", ["'alignment' must be a section", "given 3", "[alignment]"]),
        (
            "[alignment]\nsteps = 1.5\n",
            ["[alignment] steps", "a whole number of at least 1", "given 1.5", "default is 60"],
        ),
        ("[alignment]\nsteps = true\n", ["expected a whole number", "given true"]),
        ("[alignment]\nsteps = 0\n", ["of at least 1", "given 0"]),
        ("[alignment]\nlearning_rate = nan\n", ["expected a number from", "given nan"]),
        ('[alignment]\nlearning_rate = "high"\n', ["a number", 'given "high"']),
        ('[testbed]\nsize = "smal"\n', ["one of tiny, small", "did you mean 'small'"]),
        ("[activations]\nlayers = [1, -2]\n", ["a list of whole numbers of at least 0", "given -2"]),
        ("[activations]\nlayers = 1\n", ["a list of whole numbers", "given 1"]),
        ("[activations]\nlayers = [1, 1]\n", ["each once"]),
        ("[entities]\ntargets = [3]\n", ["a list of texts in quotes", "given 3"]),
        ('[alignment]\nmethod = "npoo"\n', ["[alignment] method", "'npoo'", "did you mean 'npo'"]),
        ('[evaluation]\nmetrics = ["recal"]\n', ["[evaluation] metrics", "'recal'", "did you mean 'recall'"]),
        ("[alignment.settings]\nno_such_thing = 1\n", ["no_such_thing", "'sae_guided'"]),
        ("[alignment]\nsettings = 3\n", ["expected a section", "[alignment.settings]"]),
        ("[autoencoder]\nactive = 600\n", ["active", "at most latents = 512", "given 600"]),
        ("[entities]\nunknown_relations = 2\n", ["less than known_relations"]),
        ("[alignment]\nsteps = \n", ["mine.toml is not valid TOML", "line 2"]),
        ("[alignment\n", ["not valid TOML", "line 1"]),
        ('[model]\ndtype = "float8"\n', ["[model] dtype", "one of float32", 'given "float8"']),
        ("[model]\nchat = true\n", ["[model] chat", "testbed", "no chat template"]),
        ('[model]\nplacement = "spread"\n', ["[model] placement", "testbed", "name another model"]),
        ('[data]\nsource = "facts_file"\npath = "x"\n', ["[data] source", 'given "facts_file"', "[model] name"]),
        ("[data]\nentities = 3\n", ["[data] entities", "without a source", 'source = "facts_file"']),
        ('[data]\nsource = "tofo"\n', ["[data] source", "'tofo'", "did you mean 'tofu'"]),
        ('[autoencoder]\nsources = ["gemma"]\n', ["[autoencoder] sources", "'gemma'"]),
        ('[autoencoder]\nsources = ["gemma-scop-2b-pt-res-canonical:layer_12"]\n', ["did you mean", "gemma-scope-2b"]),
    ],
)
def test_mistake_in_a_file_is_one_line_with_the_remedy(tmp_path: Path, text: str, says: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        load_experiment(_file(tmp_path, text))
    message = str(caught.value)
    assert all(part in message for part in says), message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("alignment.steps", "expected section.key=value"),
        ("steps=3", "expected section.key=value"),
        ("aligment.steps=3", "did you mean 'alignment'"),
        ("alignment.step=3", "did you mean 'steps'"),
        ("alignment.steps=many", 'given "many"'),
        ("alignment.settings=3", "expected a section"),
    ],
)
def test_mistake_in_an_override_names_it(override: str, says: str) -> None:
    with pytest.raises(UsageError, match="--set") as caught:
        load_experiment("default", [override])
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("defalt", "did you mean 'default'"),
        ("../default", "neither an experiment nor a .toml file"),
        ("experiments/default", "neither an experiment nor a .toml file"),
        ("nowhere.toml", "is not there"),
        ("", "no experiment is named ''"),
    ],
)
def test_name_never_becomes_a_path(name: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_experiment(name)
    assert says in str(caught.value)


def test_file_that_is_no_text_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "binary.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="UTF-8"):
        load_experiment(str(path))


def test_flat_settings_can_be_given_back_as_overrides() -> None:
    experiment = load_experiment("quick", ['entities.targets=["One"]', "alignment.method=npo"])
    overrides = [f"{name}={json.dumps(value)}" for name, value in flat_settings(experiment).items()]
    assert dataclasses.replace(load_experiment("default", overrides), name="quick") == experiment
