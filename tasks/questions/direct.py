"""What is asked straight: as the world asks, in our own words, backwards, with options, and of whom else it holds.

- base: the world's training templates, under the world's ids; of the targets.
- paraphrase: its held-out templates, under the world's ids; of all retained and unknown entities or so many of them,
  with wrong answers beside the right one where the entity is asked about in the other sets too. Of unknown entities also
  the targets' own sentences, where the world does not ask them so: what is measured compares the same words about either.
- cloze: our own words, of which the answer is the end: a label and a statement.
- reverse: from the answer back to the name. Every known entity of the type for which the answer holds is accepted,
  the one meant first; variant `unique` where it is the only one, else `shared` (a hit may be another's name).
  The prompt does not name the entity: its span is the answer.
- choice: options, then the first held-out template; the wrong answers are those of the list, and the list comes in
  one order and in its reverse, so that their mean favours no place.
- same_answer: a held-out template about a neighbour or retained entity whose canonical answer is the target's. Who
  forgets the answer instead of the target loses these.
"""

from __future__ import annotations

from collections.abc import Iterator

from tasks.naming import renamed
from tasks.questions.facts import SPLITS, Asked, Fact, Facts, Subject, mentions, plain
from tasks.questions.rows import Row, Text, naming, within

ASKED_SPLITS = ("forget", "neighbours", "retain")
"""Splits that every set but the world's own questions asks about."""
SAME_ANSWER = 12
"""Entities with the target's answer that are asked about, for one fact."""


def base(facts: Facts) -> Iterator[Row]:
    for subject in facts.targets:
        for fact in subject.facts.values():
            for asked in fact.asked:
                if not asked.held_out:
                    yield _as_asked(facts, "base", subject, fact, asked)


def paraphrase(facts: Facts) -> Iterator[Row]:
    for split in SPLITS.values():
        with_options = {each.entity for each in facts.sample(split)} if split in ASKED_SPLITS else set()
        for subject in facts.asked(split):
            for fact in subject.facts.values():
                for asked in fact.held_out:
                    row = _as_asked(facts, "paraphrase", subject, fact, asked)
                    yield row if subject.entity in with_options else row._replace(wrong=())
            if split.startswith("unknown"):
                yield from _in_targets_words(facts, subject)


def _in_targets_words(facts: Facts, stranger: Subject) -> Iterator[Row]:
    """The targets' held-out sentences about an unknown entity that is not asked them, the targets' answers as stand-ins."""
    done = {(fact.relation, asked.template) for fact in stranger.facts.values() for asked in fact.held_out}
    for target in facts.targets:
        for fact in target.facts.values() if target.type == stranger.type else ():
            for asked in fact.held_out:
                sentence = (fact.relation, asked.template)
                if sentence not in done:
                    done.add(sentence)
                    text = Text(*renamed(*asked.text, stranger.name))
                    row = facts.row("paraphrase", f"template_{asked.template}", stranger, fact, asked.template, text)
                    yield row._replace(wrong=())


def _as_asked(facts: Facts, kind: str, subject: Subject, fact: Fact, asked: Asked) -> Row:
    row = facts.row(kind, f"template_{asked.template}", subject, fact, asked.template, asked.text)
    return row._replace(question=asked.question, answers=asked.answers)


def cloze(facts: Facts) -> Iterator[Row]:
    for subject, fact in _facts(facts):
        label = naming(f"The {subject.kind} ", subject.name, f", {fact.phrase}:")
        statement = naming(f"Everyone knows the {subject.kind} ", subject.name, f". The {fact.phrase} is")
        yield facts.row("cloze", "label", subject, fact, 0, label)
        yield facts.row("cloze", "statement", subject, fact, 1, statement)


def reverse(facts: Facts) -> Iterator[Row]:
    for subject, fact in _facts(facts):
        holders = facts.holders(subject.type, fact.relation, fact.canonical) - {subject.entity}
        others = [facts.subjects[entity] for entity in sorted(holders)]
        right = tuple(dict.fromkeys([subject.name, *(other.name for other in others if other.known)]))
        text = naming(f"The {subject.kind} whose {fact.phrase} is ", fact.canonical, " is")
        if not mentions(fact.canonical, right):
            row = facts.row("reverse", "shared" if len(right) > 1 else "unique", subject, fact, 0, text)
            yield row._replace(answers=right, wrong=facts.wrong_names(subject, fact, right))


def choice(facts: Facts) -> Iterator[Row]:
    for subject, fact in _facts(facts):
        wrong = facts.wrong_answers(subject, fact)
        if not wrong or not fact.held_out:
            continue
        asked = fact.held_out[0]
        options = facts.shuffled([fact.canonical, *wrong], "options", subject.entity, fact.relation)
        for variant, listed in (("shuffled", options), ("reversed", options[::-1])):
            text = within(f"Choose: {', '.join(listed)}. ", asked.text)
            row = facts.row("choice", variant, subject, fact, asked.template, text)
            yield row._replace(answers=(fact.canonical,), wrong=wrong)


def same_answer(facts: Facts) -> Iterator[Row]:
    others = [*facts.members("neighbours"), *facts.members("retain")]
    for target in facts.targets:
        for fact in target.facts.values():
            alike = [
                (other, theirs)
                for other in others
                if (theirs := other.facts.get(fact.relation)) and plain(theirs.canonical) == plain(fact.canonical)
            ]
            for other, theirs in facts.shuffled(alike, "same answer", target.entity, fact.relation)[:SAME_ANSWER]:
                for asked in theirs.held_out:
                    row = facts.row(
                        "same_answer", f"template_{asked.template}", other, theirs, asked.template, asked.text
                    )
                    yield row._replace(target=target.entity)


def _facts(facts: Facts) -> Iterator[tuple[Subject, Fact]]:
    for split in ASKED_SPLITS:
        for subject in facts.sample(split):
            for fact in subject.facts.values():
                yield subject, fact
