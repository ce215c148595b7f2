"""Doors of the answers stage (what the model says), the entities stage (who is known), the targets stage (whose part is what)."""

from __future__ import annotations

import json

from storage.artifacts import folder_of
from storage.records import Answers, Asking, EntitySet, ForgetSet, ModelRef, World
from storage.tables import read_table, write_table
from storage.weights import loading_of
from tasks.caching import new_artifact, stage
from tasks.entities.settings import AskingSettings, LabelSettings, RoleSettings

SAID = "said.parquet"
"""In the artifact of the answers, where the model answered in its own words."""


@stage("answers", tags=("gpu",))
def ask_model(model: ModelRef, world: World, settings: AskingSettings) -> Answers:
    """Ask the model the held-out questions of every entity: what it got right, whatever that is then taken to mean.

    Entities of the long tail are left out: they were seen once, and serve as general text. `entities.parquet` says who is
    `clear`, known or unknown by the usual thresholds: on these an autoencoder is trained, so that neither it nor anything
    read with it depends on the thresholds of an experiment. Where the model answers in its own words, `said.parquet` keeps
    them; `asked.json` names a model that was not made here, and the digest of its chat template.
    """
    import numpy as np

    from tasks.answers.judging import names_of
    from tasks.entities.asking import ask, hits_exactly
    from tasks.entities.labels import asked_rows, label_entities
    from tasks.models.load import load_model
    from tasks.models.worlds import encode_world

    source = folder_of(world.artifact)
    entities = read_table(source / "entities.parquet")
    questions = read_table(source / "questions.parquet")
    chosen = asked_rows(questions, set(entities["entity"][entities["exposure"] != "long_tail"]))
    loaded = load_model(**loading_of(model), device="auto")
    encoded = encode_world(loaded, questions, chosen)
    said = None
    if settings.asking == "said" or (settings.asking == "auto" and model.source != "artifact"):
        said = ask(loaded, questions, chosen, encoded, names_of(entities), settings)
    answers = {
        "entity": questions["entity"][chosen],
        "relation": questions["relation"][chosen],
        "hit": hits_exactly(loaded, encoded) if said is None else said["right"],
        "tokens": np.array([question.name_last - question.name_first + 1 for question in encoded]),
    }
    usual = label_entities(answers["entity"], answers["relation"], answers["hit"], LabelSettings())
    with new_artifact() as build:
        write_table(build.folder / "answers.parquet", answers)
        clear = np.array([label != "dropped" for label, _ in usual.values()])
        write_table(build.folder / "entities.parquet", {"entity": list(usual), "clear": clear})
        if said is not None:
            write_table(build.folder / SAID, said)
        if model.source != "artifact":
            digest = "" if loaded.chat is None else loaded.chat.digest
            asked = {"model": model.location, "revision": model.revision, "chat_template": digest}
            (build.folder / "asked.json").write_text(json.dumps(asked, indent=1, sort_keys=True) + "\n")
    asking = Asking("exact") if said is None else Asking("said", settings.answer_tokens)
    return Answers(build.artifact, len(usual), asking)


@stage("entities")
def label_answers(world: World, answers: Answers, settings: LabelSettings) -> EntitySet:
    """Label every entity that was asked about known, unknown or dropped, by what the model answered.

    Where it answered in its own words, unknown entities are dropped until their names are as long, in the model's tokens,
    as those of the known ones, and some are set aside for the stop rule.
    """
    import numpy as np

    from tasks.entities.labels import halves, label_entities, set_aside, unmatched

    entities = read_table(folder_of(world.artifact) / "entities.parquet")
    answered = read_table(folder_of(answers.artifact) / "answers.parquet")
    in_own_words = answers.asking.manner == "said"
    labels = label_entities(answered["entity"], answered["relation"], answered["hit"], settings)
    tokens = dict(zip(answered["entity"], answered["tokens"].tolist(), strict=True))
    kept = [i for i, entity in enumerate(entities["entity"]) if entity in labels]
    ids = [str(entities["entity"][i]) for i in kept]
    types = [str(entities["type"][i]) for i in kept]
    verdicts = [labels[entity][0] for entity in ids]
    if in_own_words:
        for i in unmatched(types, verdicts, [tokens[entity] for entity in ids], settings.label_seed):
            verdicts[i] = "dropped"
    parts = halves(ids, types, verdicts, settings.label_seed)
    with new_artifact() as build:
        write_table(
            build.folder / "entities.parquet",
            {
                "entity": ids,
                "name": [str(entities["name"][i]) for i in kept],
                "type": types,
                "exposure": [str(entities["exposure"][i]) for i in kept],
                "candidate": np.array([bool(entities["candidate"][i]) for i in kept]),
                "tokens": np.array([tokens[entity] for entity in ids]),
                "recall": np.array([labels[entity][1] for entity in ids]),
                "label": verdicts,
                "half": set_aside(parts, types, verdicts) if in_own_words else parts,
            },
        )
    known, unknown, dropped = (verdicts.count(label) for label in ("known", "unknown", "dropped"))
    return EntitySet(build.artifact, known, unknown, dropped, answers.asking)


@stage("targets")
def choose_roles(world: World, entities: EntitySet, settings: RoleSettings) -> ForgetSet:
    """Find the targets among the known entities and give every other entity its part."""
    from tasks.entities.roles import assign_roles, find_targets

    table = read_table(folder_of(entities.artifact) / "entities.parquet")
    questions = read_table(folder_of(world.artifact) / "questions.parquet", columns=["entity", "relation", "answers"])
    answers: dict[str, set[tuple[str, str]]] = {}
    for entity, relation, accepted in zip(*questions.values(), strict=True):
        answers.setdefault(entity, set()).add((relation, accepted[0]))
    candidates = [
        entity for entity, is_candidate in zip(table["entity"], table["candidate"], strict=True) if is_candidate
    ]
    targets = find_targets(settings.targets, table, candidates)
    # A gold twin goes without the candidates, so nothing may retain them; where nobody was taught, there is none.
    withheld = set(table["entity"][table["candidate"] & (table["exposure"] == "known")])
    roles = assign_roles(targets, table, answers, withheld, settings)
    names = dict(zip(table["entity"], table["name"], strict=True))
    with new_artifact() as build:
        ids = sorted(roles)
        write_table(build.folder / "roles.parquet", {"entity": ids, "role": [roles[entity] for entity in ids]})
    return ForgetSet(build.artifact, tuple(names[target] for target in targets), entities.asking)
