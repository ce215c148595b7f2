"""Questions through a fact of the subject that is not itself asked for: two facts make the answer.

- comparison: "Is the R of A the same as that of B?", of facts that some B shares: once with a B that shares the
  canonical answer (yes) and once with one that shares no answer (no), so that always saying the same scores a half.
- another: "Another T with the same R as A is": from A to its answer, and back to whom else it belongs.
- description: "The S of the T whose R is X is": from an answer that A alone has in this world to A's other fact.
  The prompt names A only so; its span is X.

Set `multi_hop` asks so about the targets, with B no target; `multi_hop_beside` about retained entities, with nobody
to be forgotten on either side. A bridge over an answer that is itself an entity (the country of the birthplace of A)
is not built: answers are texts without ids, and an equal text is no evidence (a movie may be called "360", as high as
a town may lie).
"""

from __future__ import annotations

from collections.abc import Iterator

from tasks.questions.facts import Fact, Facts, Subject, mentions, plain, share
from tasks.questions.rows import Row, naming

YES, NO = ("yes", "Yes"), ("no", "No")


def multi_hop(facts: Facts) -> Iterator[Row]:
    for target in facts.targets:
        yield from _hops(facts, "multi_hop", target)


def multi_hop_beside(facts: Facts) -> Iterator[Row]:
    forgotten = {target.name for target in facts.targets}
    for subject in facts.sample("retain"):
        for row in _hops(facts, "multi_hop_beside", subject):
            if not forgotten & set(row.answers):
                yield row


def _hops(facts: Facts, kind: str, subject: Subject) -> Iterator[Row]:
    for fact in subject.facts.values():
        others = [
            (peer, theirs)
            for peer in facts.peers
            if peer.type == subject.type and peer != subject and (theirs := peer.facts.get(fact.relation))
        ]
        alike = [peer for peer, theirs in others if plain(theirs.canonical) == plain(fact.canonical)]
        unlike = [peer for peer, theirs in others if not share(fact, theirs)]
        alike, unlike = (
            facts.shuffled(peers, "hop", subject.entity, fact.relation, answer)
            for peers, answer in ((alike, "yes"), (unlike, "no"))
        )
        if alike and unlike:
            yield _comparison(facts, kind, subject, fact, alike[0], YES, NO)
            yield _comparison(facts, kind, subject, fact, unlike[0], NO, YES)
        if alike:
            yield _another(facts, kind, subject, fact, alike[0])
        yield from _description(facts, kind, subject, fact)


def _comparison(
    facts: Facts,
    kind: str,
    subject: Subject,
    fact: Fact,
    other: Subject,
    right: tuple[str, ...],
    wrong: tuple[str, ...],
) -> Row:
    before = f"Is the {fact.phrase} of the {subject.kind} "
    after = f" the same as that of the {other.kind} {other.name}? Answer yes or no:"
    row = facts.row(kind, f"comparison_{right[0]}", subject, fact, 0, naming(before, subject.name, after))
    return row._replace(answers=right, wrong=wrong)


def _another(facts: Facts, kind: str, subject: Subject, fact: Fact, first: Subject) -> Row:
    text = naming(f"Another {subject.kind} with the same {fact.phrase} as ", subject.name, " is")
    holders = set().union(*(facts.holders(subject.type, fact.relation, answer) for answer in fact.answers))
    others = [facts.subjects[entity] for entity in sorted(holders - {subject.entity})]
    right = tuple(dict.fromkeys([first.name, *(other.name for other in others if other.known)]))
    row = facts.row(kind, "another", subject, fact, 1, text)
    return row._replace(answers=right, wrong=facts.wrong_names(subject, fact, right))


def _description(facts: Facts, kind: str, subject: Subject, fact: Fact) -> Iterator[Row]:
    telling = [
        other
        for other in subject.facts.values()
        if other.relation != fact.relation
        and facts.holders(subject.type, other.relation, other.canonical) == {subject.entity}
        and not mentions(other.canonical, fact.answers)
    ]
    for other in facts.shuffled(telling, "description", subject.entity, fact.relation)[:1]:
        before = f"The {fact.phrase} of the {subject.kind} whose {other.phrase} is "
        yield facts.row(kind, "description", subject, fact, 2, naming(before, other.canonical, " is"))
