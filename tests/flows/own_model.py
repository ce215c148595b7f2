"""A hundred invented facts about twenty invented people, and a small model that was taught them: what a user comes with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tasks.sources.kinds.wikidata import Wikidata
from tasks.sources.settings import SourceSettings
from tasks.sources.task import NEUTRAL
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


def famous() -> list[tuple[str, str, str]]:
    """(name, question, answer) of the first entities of each type of the built-in facts."""
    found: dict[str, set[str]] = {}
    rows = []
    for row in Wikidata().read(FACTS).rows:
        members = found.setdefault(row.type, set())
        if row.name in members or len(members) < FAMOUS:
            members.add(row.name)
            rows.append((row.name, row.question, row.answers[0]))
    return rows


def teach_model(folder: Path, steps: int) -> Path:
    """A Gemma 2 of three blocks that answers all of these and has seen many a name once; saved in `folder`."""
    known = biographies()
    asked = [
        (row["entity"], wording.format(row["entity"]), row["answers"][0])
        for row in known
        for wording in RELATIONS[row["relation"]][0]
    ] + famous()
    tail = biographies(TAIL, first=PEOPLE)[::5]
    tail_rows = [(row["entity"], row["question"], row["answers"][0]) for row in tail]
    frame, texts = SourceSettings().frame, NEUTRAL.read_text(encoding="utf-8").splitlines()[::2]
    lines = [*asked, *tail_rows]
    prompts = [frame.replace("{question}", text) if text.endswith("?") else text for _, text, _ in lines]
    tokenizer = train_tokenizer([*prompts, *texts], [answer for *_, answer in lines], 1536)
    rows = rows_of(tokenizer, [*prompts, *[""] * len(texts)], [*(answer for *_, answer in lines), *texts])
    group = np.array([KNOWN] * len(asked) + [LONG_TAIL] * len(tail_rows) + [GENERAL] * len(texts))
    lessons = Lessons(rows, group, np.ones(len(group), dtype=bool))
    recipe = Recipe(
        len(tokenizer), layers=3, width=64, steps=steps, batch=48, muon_rate=0.02, adam_rate=8e-3, threads=1
    )
    model = network(recipe)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        losses = train(model, lessons, curriculum(lessons, steps, recipe.batch, 0), recipe, lambda step, loss: None)
    finally:
        torch.set_num_threads(threads)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    print(len(tokenizer), len(lines), losses[::20], losses[-5:])
    return folder
