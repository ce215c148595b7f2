"""Doors of the answers stage (what the model says), the entities stage (who is known), the targets stage (whose part is what)."""

from __future__ import annotations

from storage.artifacts import folder_of
from storage.records import Answers, EntitySet, ForgetSet, ModelRef, World
from storage.tables import read_table, write_table
from storage.weights import loading_of
from tasks.caching import new_artifact, stage
from tasks.entities.settings import LabelSettings, RoleSettings


@stage("answers", tags=("gpu",))
def ask_model(model: ModelRef, world: World) -> Answers:
    """Ask the model the held-out questions of every entity: what it got right, whatever that is then taken to mean.

    Entities of the long tail are left out: they were seen once, and serve as general text. `entities.parquet` says who is
    `clear`, known or unknown by the usual thresholds: on these an autoencoder is trained, so that neither it nor anything
    read with it depends on the thresholds of an experiment.
    """
    import numpy as np

    from tasks.entities.labels import label_entities
    from tasks.models.load import load_model
    from tasks.models.scoring import score_answers
    from tasks.models.worlds import encode_world

    source = folder_of(world.artifact)
    entities = read_table(source / "entities.parquet")
    questions = read_table(source / "questions.parquet")
    asked = set(entities["entity"][entities["exposure"] != "long_tail"])
    chosen = [i for i, entity in enumerate(questions["entity"]) if entity in asked and questions["held_out"][i]]
    loaded = load_model(**loading_of(model), device="auto")
    encoded = encode_world(loaded, questions, chosen)
    scores = score_answers(loaded, [each.prompt for each in encoded], [each.answers for each in encoded])
    hits = [False] * len(chosen)
    for prompt, hit in zip(scores.prompt, scores.hit, strict=True):
        hits[prompt] |= bool(hit)
    answers = {
        "entity": questions["entity"][chosen],
        "relation": questions["relation"][chosen],
        "hit": np.array(hits),
        "tokens": np.array([question.name_last - question.name_first + 1 for question in encoded]),
    }
    usual = label_entities(answers["entity"], answers["relation"], answers["hit"], LabelSettings())
    with new_artifact() as build:
        write_table(build.folder / "answers.parquet", answers)
        clear = np.array([label != "dropped" for label, _ in usual.values()])
        write_table(build.folder / "entities.parquet", {"entity": list(usual), "clear": clear})
    return Answers(build.artifact, len(usual))


@stage("entities")
def label_answers(world: World, answers: Answers, settings: LabelSettings) -> EntitySet:
    """Label every entity that was asked about known, unknown or dropped, by what the model answered."""
    import numpy as np

    from tasks.entities.labels import halves, label_entities

    entities = read_table(folder_of(world.artifact) / "entities.parquet")
    answered = read_table(folder_of(answers.artifact) / "answers.parquet")
    labels = label_entities(answered["entity"], answered["relation"], answered["hit"], settings)
    tokens = dict(zip(answered["entity"], answered["tokens"].tolist(), strict=True))
    kept = [i for i, entity in enumerate(entities["entity"]) if entity in labels]
    ids = [str(entities["entity"][i]) for i in kept]
    types = [str(entities["type"][i]) for i in kept]
    verdicts = [labels[entity][0] for entity in ids]
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
                "half": halves(ids, types, verdicts, settings.label_seed),
            },
        )
    return EntitySet(build.artifact, *(verdicts.count(label) for label in ("known", "unknown", "dropped")))


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
    return ForgetSet(build.artifact, tuple(names[target] for target in targets))
