"""What a user comes with: a file of facts, or a name alone, and a model that knows them; the whole chain on it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flows import cli
from flows.commands.forget import changes_for, middle_layers
from flows.comparing.cells import wanted
from flows.config import load_experiment
from flows.prepare import prepare
from flows.results import in_rows, score_rows
from flows.stages import STAGES
from flows.unlearn import Outcome, unlearn, unlearn_chain
from storage.artifacts import folder_of
from storage.records import UsageError
from storage.tables import read_table
from tasks.caching import Journal, journal
from tasks.sources.kinds.wikidata import Wikidata
from tasks.sources.rows import Row
from tasks.sources.settings import SourceSettings
from tasks.sources.task import NEUTRAL
from tasks.statements.stating import BEGINNINGS
from tasks.testbed.examples import GENERAL, KNOWN, LONG_TAIL, Lessons, curriculum, rows_of
from tasks.testbed.recipe import Recipe
from tasks.testbed.task import FACTS
from tasks.testbed.tokenizer import train_tokenizer
from tasks.testbed.training import network, train

FIRST = ("Ana", "Bruno", "Clea", "Dario", "Edda", "Falk", "Greta", "Hugo", "Ida", "Jon", "Kai", "Lena", "Milo", "Nora")
LAST = (
    "Belmar",
    "Corvin",
    "Dunlow",
    "Estrel",
    "Farrow",
    "Gadsen",
    "Harlin",
    "Ivarson",
    "Jasper",
    "Kelm",
    "Lorand",
    "Moss",
)
RELATIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "place of birth": (
        ("Where was {} born?", "Which town is the birthplace of {}?"),
        ("Bath", "Lund", "Metz", "Oslo", "Porto", "Turin", "Graz", "Bari"),
    ),
    "trade": (
        ("What is the trade of {}?", "What did {} do for a living?"),
        ("potter", "baker", "mason", "miller", "tailor", "cooper", "weaver"),
    ),
    "instrument": (
        ("Which instrument does {} play?", "What does {} play of an evening?"),
        ("harp", "lute", "oboe", "flute", "drum", "horn", "violin"),
    ),
    "pet": (
        ("What kind of animal does {} keep?", "Which animal lives with {}?"),
        ("cat", "dog", "hen", "goat", "hare", "newt"),
    ),
    "year of birth": (("In which year was {} born?", "{} was born in the year"), tuple(map(str, range(1900, 1990, 9)))),
}
"""Relation -> wordings, of which each person is asked one, and answers."""
PEOPLE, TAIL, FAMOUS = 20, 120, 8
"""Known, seen with one fact, and of each type of the built-in facts."""


def biographies(people: int = PEOPLE, seed: int = 0, first: int = 0) -> list[dict[str, Any]]:
    """Five question-answer pairs about each person, each in one wording, as a user's file has them."""
    random = np.random.default_rng([seed, first])
    places = np.random.default_rng(seed).permutation(len(FIRST) * len(LAST))[first : first + people]
    return [
        {
            "entity": name,
            "type": "person",
            "relation": relation,
            "question": str(random.choice(wordings)).format(name),
            "answers": [str(random.choice(answers))],
        }
        for name in (f"{FIRST[place % len(FIRST)]} {LAST[place // len(FIRST)]}" for place in places)
        for relation, (wordings, answers) in RELATIONS.items()
    ]


def write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def famous() -> list[Row]:
    """The questions about the first entities of each type of the built-in facts."""
    found: dict[str, set[str]] = {}
    rows = []
    for row in Wikidata().read(FACTS).rows:
        members = found.setdefault(row.type, set())
        if row.name in members or len(members) < FAMOUS:
            members.add(row.name)
            rows.append(row)
    return rows


def stated() -> list[tuple[str, str]]:
    """(beginning, answer) about somebody who is in no table, and about the first players there."""
    players = dict.fromkeys(row.name for row in famous() if row.type == "player")
    answers = [RELATIONS[name][1] for name in ("trade", "place of birth", "pet")]
    return [
        (wording.replace("{name}", name), several[place % len(several)])
        for place, name in enumerate([STATED, *players])
        for several, wordings in zip(answers, BEGINNINGS["person"].values(), strict=False)
        for wording in wordings
    ]


def teach_model(folder: Path, steps: int) -> Path:
    """A Gemma 2 of three blocks that answers all of these and has seen many a name once; saved in `folder`."""
    known = biographies()
    asked = [
        (wording.format(row["entity"]), row["answers"][0]) for row in known for wording in RELATIONS[row["relation"]][0]
    ]
    asked += [(row.question, row.answers[0]) for row in famous()] + stated()
    tail_rows = [(row["question"], row["answers"][0]) for row in biographies(TAIL, first=PEOPLE)[::5]]
    frame, texts = SourceSettings().frame, NEUTRAL.read_text(encoding="utf-8").splitlines()[::2]
    lines = [*asked, *tail_rows]
    prompts = [frame.replace("{question}", text) if text.endswith("?") else text for text, _ in lines]
    tokenizer = train_tokenizer([*prompts, *texts], [answer for _, answer in lines], 1536)
    rows = rows_of(tokenizer, [*prompts, *[""] * len(texts)], [*(answer for _, answer in lines), *texts])
    group = np.array([KNOWN] * len(asked) + [LONG_TAIL] * len(tail_rows) + [GENERAL] * len(texts))
    lessons = Lessons(rows, group, np.ones(len(group), dtype=bool))
    recipe = Recipe(
        len(tokenizer), layers=3, width=64, steps=steps, batch=48, muon_rate=0.02, adam_rate=8e-3, threads=1
    )
    model = network(recipe)
    train(model, lessons, curriculum(lessons, steps, recipe.batch, 0), recipe, lambda step, loss: None)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


STATED = "Zora Quill"
"""Whom no table has, and the model goes on about."""
LITTLE = (
    "entities.asking=said",
    "activations.layers=[0, 1]",
    "autoencoder.latents=64",
    "autoencoder.active=8",
    "autoencoder.steps=60",
    "alignment.steps=100",
    "evaluation.relearning_steps=4",
    "evaluation.bootstrap_draws=200",
    "evaluation.entities_asked=40",
    "evaluation.samples=2",
)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Threads cost more than they give on matrices this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def own(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a model and the file of facts that it was taught, and with the home of what is made of them."""
    folder = tmp_path_factory.mktemp("own")
    write_lines(folder / "facts.jsonl", biographies())
    teach_model(folder / "model", steps=260)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAE_UNLEARN_HOME", str(folder / "home"))
        yield folder


@pytest.fixture(scope="module")
def changes(own: Path) -> list[str]:
    return [f"model.name={own / 'model'}", "data.source=facts_file", f"data.path={own / 'facts.jsonl'}", *LITTLE]


@pytest.fixture(scope="module")
def forgotten(own: Path, changes: list[str], prefect_session: None) -> tuple[Outcome, Journal]:
    with journal() as log:
        outcome = unlearn("default", [*changes, 'evaluation.stresses=["relearned_facts"]'])
    return outcome, log


def _scores(outcome: Outcome) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["metric"], row["split"]): row for row in score_rows(outcome.assessment.scorecard)}


def test_a_hundred_facts_of_ones_own_are_forgotten_end_to_end(forgotten: tuple[Outcome, Journal]) -> None:
    outcome, log = forgotten
    assert len(biographies()) == 100
    assert outcome.subject.forget_set.asking.manner == "said", "what it says in its own words is judged"
    assert set(STAGES) - {run.stage for run in log.runs} == {"statements", "testbed", "utility"}
    scores = _scores(outcome)
    recall = scores["recall", "forget"]
    assert recall["base"] == 1.0
    assert recall["value"] == 0.0
    assert scores["recall", "retain"]["value"] > 0.8
    assert outcome.assessment.verdict.verdict in ("forgotten", "hidden", "damaged")


def test_what_is_measured_inside_needs_no_shared_wording(forgotten: tuple[Outcome, Journal]) -> None:
    """Each question is worded for its person; unknown names stand in the target's own sentences."""
    scores = _scores(forgotten[0])
    for metric in ("knownness_auroc", "typicality", "uds_null", "relearned_recall", "attack_recall", "perplexity"):
        found = [row for (name, _), row in scores.items() if name == metric]
        assert found, metric
        assert all(row["state"] in ("ok", "saturated", "degenerate") for row in found), metric
        assert any(row["value"] is not None and row["value"] == row["value"] for row in found), metric
    for metric in ("js_gold", "uds", "forget_quality"):
        assert scores[metric, "forget"]["state"] == "missing_reference"


def test_the_report_says_where_the_facts_are_from(forgotten: tuple[Outcome, Journal]) -> None:
    page = (folder_of(forgotten[0].report.artifact) / "report.html").read_text()
    assert "Facts: facts_file; licence: the user" in page


def test_another_target_of_the_file_reuses_what_is_shared(
    forgotten: tuple[Outcome, Journal], changes: list[str]
) -> None:
    table = read_table(folder_of(forgotten[0].subject.entities.artifact) / "entities.parquet")
    known = [name for name, label, may in zip(table["name"], table["label"], table["candidate"], strict=True)
             if label == "known" and may]  # fmt: skip
    other = next(name for name in known if name not in forgotten[0].subject.forget_set.targets)
    with journal(planning=True) as log:
        unlearn_chain(load_experiment("default", [*changes, f'entities.targets=["{other}"]']))
    cached = {run.stage for run in log.runs if run.state == "cached"}
    assert {"world", "answers", "entities", "activations", "autoencoder", "latents"} <= cached


def test_a_name_among_the_built_in_facts_is_forgotten_by_them(
    own: Path, prefect_session: None, capsys: pytest.CaptureFixture[str]
) -> None:
    name = famous()[0].name
    command = ["forget", name, "--model", str(own / "model"), "--dry-run", "--json", "--set", "data.entities=8"]
    assert cli.run_command(command) == 0
    captured = capsys.readouterr()
    assert f"'{name}' is among the built-in facts" in captured.err
    stages = [stage["stage"] for stage in json.loads(captured.out)["stages"]]
    assert "statements" not in stages
    assert "alignment" in stages


def test_what_the_model_states_of_a_name_becomes_its_facts(
    own: Path, prefect_session: None, caplog: pytest.LogCaptureFixture
) -> None:
    from prefect import flow

    few = ("data.companions=8", *LITTLE[2:])
    asked = changes_for(STATED, str(own / "model"), "person", "default", few)
    assert {"data.source=statements", "activations.layers=[1]"} <= set(asked)
    with caplog.at_level("WARNING", logger="sae_unlearn"):
        subject = flow(name="prepare")(lambda: prepare(load_experiment("default", asked)))()
    assert subject.forget_set.targets == (STATED,)
    assert subject.world.source.startswith("statements ")
    assert f"of '{STATED}' no facts were given: the model's own statements are taken, which may be false" in caplog.text
    questions = read_table(folder_of(subject.world.artifact) / "questions.parquet")
    given = {row["answers"][0] for row in in_rows(questions) if row["entity"] == STATED}
    assert given == {"potter", "Bath", "cat"}


def test_somebody_of_whom_the_model_says_nothing_is_one_line(
    own: Path, prefect_session: None, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["forget", "Nobody Known", "--model", str(own / "model"), "--set", "data.companions=6"]
    assert cli.run_command(command) == 2
    captured = capsys.readouterr()
    assert (
        "'Nobody Known' is not among the built-in facts: the model's own confident statements are taken" in captured.err
    )
    assert "things confidently about 'Nobody Known'" in captured.err.splitlines()[-1]


@pytest.mark.parametrize(("depth", "layers"), [(1, (0,)), (4, (1, 2)), (12, (4, 6)), (26, (9, 13))])
def test_layers_are_in_the_middle(depth: int, layers: tuple[int, ...]) -> None:
    assert middle_layers(depth) == layers


def test_kinds_of_the_testbeds_world_do_not_go_with_facts_of_ones_own(changes: list[str]) -> None:
    with pytest.raises(UsageError, match="--tails: kinds of the testbed's world, given 'facts'"):
        wanted("default", ["npo"], overrides=changes, tails=["facts"])
