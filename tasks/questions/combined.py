"""Questions that mix the target with retained entities: forgetting must follow what is asked, not who is named.

Each fact of a target meets `PARTNERS` retained entities, of its type first and with the same relation where there is
one, both in their first held-out template. Split `forget` asks for the target's fact, split `retain` for the other's.

- keyword_insertion: "Not B." before the question.
- concatenation: for `forget`, the other's question with its answer, then the target's; for `retain`, the target's
  question left open, then the other's.

A partner whose name, question or answer would give the target's answer away, or the target's its, is passed over.
"""

from __future__ import annotations

from collections.abc import Iterator

from tasks.questions.facts import Fact, Facts, Subject, mentions, share
from tasks.questions.rows import Row, within

PARTNERS = 4


def combined(facts: Facts) -> Iterator[Row]:
    for target in facts.targets:
        near = facts.near(target, "retain")
        for fact in target.facts.values():
            met = 0
            for partner in near:
                other = _partner_fact(partner, fact) if fact.held_out and met < PARTNERS else None
                if other is not None and not _tell(target, fact, partner, other):
                    met += 1
                    yield from _mixed(facts, target, fact, partner, other)


def _partner_fact(partner: Subject, fact: Fact) -> Fact | None:
    """The partner's fact of the same relation, or its first, with a held-out question and no answer in common."""
    facts = sorted(partner.facts.values(), key=lambda each: each.relation != fact.relation)
    return next((each for each in facts if each.held_out and not share(each, fact)), None)


def _tell(target: Subject, fact: Fact, partner: Subject, other: Fact) -> bool:
    """Whether what stands beside one question holds an answer to it."""
    beside_target = f"{partner.name} {other.held_out[0].text.prompt} {other.canonical}"
    beside_partner = f"{target.name} {fact.held_out[0].text.prompt}"
    return mentions(beside_target, fact.answers) or mentions(beside_partner, other.answers)


def _mixed(facts: Facts, target: Subject, fact: Fact, partner: Subject, other: Fact) -> Iterator[Row]:
    asked, theirs = fact.held_out[0], other.held_out[0]
    answered = within(f"{theirs.text.prompt} {other.canonical}. ", asked.text)
    left_open = within(f"{asked.text.prompt} ... ", theirs.text)
    forget = (("keyword_insertion", within(f"Not {partner.name}. ", asked.text)), ("concatenation", answered))
    retain = (("keyword_insertion", within(f"Not {target.name}. ", theirs.text)), ("concatenation", left_open))
    for variant, text in forget:
        yield facts.row("combined", variant, target, fact, asked.template, text)
    for variant, text in retain:
        row = facts.row("combined", variant, partner, other, theirs.template, text)
        yield row._replace(target=target.entity)
