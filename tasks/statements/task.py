"""Door of the statements stage: the model's own confident statements become the candidate facts."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from storage.records import ModelRef, Statements, UsageError
from storage.tables import read_table
from storage.weights import loading_of
from tasks import catalogue
from tasks.caching import new_artifact, stage
from tasks.statements.settings import StatementSettings

if TYPE_CHECKING:
    from tasks.statements.stating import Statement

logger = logging.getLogger("sae_unlearn")

FACTS = "testbed/facts.parquet"
OTHERS = {"person": "player", "work": "movie", "place": "city"}
"""Type -> that of the built-in facts whose names are the others."""
NEW_TOKENS = 16
FEWEST_RELATIONS, FEWEST_OTHERS = 2, 3
"""What a world needs: relations of a target, and entities to be retained beside it."""


@stage("statements", tags=("gpu",))
def state_facts(model: ModelRef, settings: StatementSettings) -> Statements:
    """Let the model go on with what is begun about each name; `facts.jsonl` holds what it states confidently.

    The file is of the form that a user's own facts have, so that it can be read, mended and given instead.

    Raises: UsageError for no name, or when it states too little about a name, or about the others.
    """
    from tasks.models.generate import greedy, sample
    from tasks.models.load import load_model
    from tasks.models.worlds import encode_world
    from tasks.statements.stating import beginnings, confident

    if not settings.include:
        raise UsageError('[data] include: source "statements" asks about names; give one, e.g. include = ["Some Name"]')
    loaded = load_model(**loading_of(model), device=settings.device)
    begun = beginnings([*settings.include, *_others(settings)], settings.type)
    table = {
        "prompt": [each.text for each in begun],
        "name_start": [each.wording.index("{name}") for each in begun],
        "name_end": [each.wording.index("{name}") + len(each.name) for each in begun],
        "answers": [[] for _ in begun],
    }
    prompts = [each.prompt for each in encode_world(loaded, table, range(len(begun)))]

    def text(ids: Sequence[int]) -> str:
        return str(loaded.tokenizer.decode(list(ids), skip_special_tokens=True))

    said = greedy(loaded, prompts, max_new_tokens=NEW_TOKENS)
    drawn = sample(loaded, prompts, settings.samples, max_new_tokens=NEW_TOKENS, seed=settings.statement_seed)
    found = confident(
        begun, [text(ids) for ids in said], [[text(ids) for ids in several] for several in drawn], settings.agreement
    )
    _check(found, settings)
    with new_artifact() as build:
        rows = [_row(each, settings.type) for each in found]
        (build.folder / "facts.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return Statements(build.artifact, len(found))


def _others(settings: StatementSettings) -> list[str]:
    """Names of the type in the built-in facts, the lowest Wikidata numbers first: they tend to be the better known."""
    table = read_table(catalogue.TASKS / FACTS, columns=["entity", "name", "type"])
    rows = [row for row, kind in enumerate(table["type"]) if kind == OTHERS[settings.type]]
    rows.sort(key=lambda row: int(table["entity"][row][1:]))
    asked = {name.casefold() for name in settings.include}
    names = [str(table["name"][row]) for row in rows]
    return [name for name in names if name.casefold() not in asked][: settings.companions]


def _check(found: Sequence[Statement], settings: StatementSettings) -> None:
    """That a world can be made of it; what is stated of the names asked for is said."""
    stated: dict[str, dict[str, str]] = defaultdict(dict)
    for each in found:
        stated[each.name][each.relation] = each.answer
    for name in settings.include:
        facts = stated[name]
        if len(facts) < FEWEST_RELATIONS:
            raise UsageError(
                f"the model states {len(facts)} things confidently about '{name}' ({', '.join(facts) or 'none'}), and "
                f"{FEWEST_RELATIONS} are needed to forget one and test another; give facts of your own (data.source = "
                '"facts_file"), or lower data.agreement'
            )
        logger.warning(
            "%-13s of '%s' no facts were given: the model's own statements are taken, which may be false: %s",
            "statements", name, "; ".join(f"{relation}: {answer}" for relation, answer in facts.items()),
        )  # fmt: skip
    others = [name for name, facts in stated.items() if facts and name not in settings.include]
    if len(others) < FEWEST_OTHERS:
        raise UsageError(
            f"the model states something confidently about {len(others)} others of type '{settings.type}', and "
            f"{FEWEST_OTHERS} are needed to be retained; raise data.companions, or give facts of your own (data.source = "
            '"facts_file")'
        )


def _row(statement: Statement, kind: str) -> dict[str, Any]:
    return {
        "entity": statement.name,
        "type": kind,
        "relation": statement.relation,
        "question": statement.question,
        "answers": [statement.answer],
    }
