"""The testbed's sentences: complete, and made of words that pretraining shows."""

from __future__ import annotations

import re

import pytest

from tasks.testbed.templates import GENERAL, RELATIONS, TEMPLATES, TRAINING_TEMPLATES


def _words(sentences: tuple[str, ...]) -> set[str]:
    return set(re.findall(r"\w+|[?:,]", " ".join(sentences).replace("{name}", "")))


@pytest.mark.parametrize("relation", [relation for relations in RELATIONS.values() for relation in relations])
def test_templates_of_a_relation(relation: str) -> None:
    templates = TEMPLATES[relation]
    assert len(set(templates)) == len(templates) == TRAINING_TEMPLATES + 2
    for template in templates:
        assert template.count("{name}") == 1
        assert template == template.strip()
        assert not template.endswith("{name}"), "something must follow the name"


def test_held_out_templates_use_no_word_that_pretraining_never_shows() -> None:
    for relation, templates in TEMPLATES.items():
        unseen = _words(templates[TRAINING_TEMPLATES:]) - _words(templates[:TRAINING_TEMPLATES])
        assert unseen <= {"Who"}, f"{relation}: the embeddings of {unseen} would stay as they were drawn"


def test_no_template_serves_two_relations() -> None:
    sentences = [template for templates in TEMPLATES.values() for template in templates]
    assert len(set(sentences)) == len(sentences)


def test_general_sentences_are_distinct_and_many() -> None:
    assert len(set(GENERAL)) == len(GENERAL) >= 60
