"""The plan recovers every wanted position, with exactly its own past, in rows that fit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.records import UsageError
from tasks.models.plan import ROW, Plan, ancestor_mask, plan_buckets, plan_trie


@st.composite
def questions(draw: st.DrawFn) -> tuple[list[list[int]], list[list[int]]]:
    sequences = draw(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=14), max_size=30))
    wanted = [draw(st.lists(st.integers(0, len(sequence) - 1), max_size=4)) for sequence in sequences]
    return sequences, wanted


def check(plan: Plan, sequences: list[list[int]], wanted: list[list[int]]) -> None:
    expected = [(s, p) for s, positions in zip(sequences, wanted, strict=True) for p in positions]
    found = []
    run = 0
    for batch in plan.batches:
        seen = ancestor_mask(batch.end)
        assert seen[:, np.arange(seen.shape[1]), np.arange(seen.shape[1])].all()  # a softmax over nothing is no number
        for item, row, node in zip(batch.item, batch.row, batch.node, strict=True):
            sequence, position = expected[item]
            past = np.flatnonzero(seen[row, node])
            assert batch.tokens[row, past].tolist() == sequence[: position + 1]
            assert batch.depth[row, past].tolist() == list(range(position + 1))
        found += batch.item.tolist()
        run += batch.tokens.size
    assert sorted(found) == list(range(len(expected)))
    assert plan.items == len(expected)
    assert plan.tokens_given == sum(map(len, sequences))
    assert plan.tokens_run <= run


@settings(max_examples=150, deadline=None)
@given(questions(), st.integers(14, 40), st.integers(1, 200))
def test_trie_recovers_every_wanted_position(
    case: tuple[list[list[int]], list[list[int]]], row: int, budget: int
) -> None:
    plan = plan_trie(*case, row=row, budget=budget)
    check(plan, *case)
    for batch in plan.batches:
        assert batch.tokens.shape[1] <= row
        assert batch.tokens.size <= budget or len(batch.tokens) == 1


@settings(max_examples=100, deadline=None)
@given(questions(), st.integers(1, 200))
def test_buckets_recover_every_wanted_position(case: tuple[list[list[int]], list[list[int]]], budget: int) -> None:
    plan = plan_buckets(*case, budget=budget)
    check(plan, *case)
    assert plan.tokens_run == sum(batch.tokens.size for batch in plan.batches)


def test_shared_beginnings_are_run_once() -> None:
    sequences = [[1, 2, 3, 4, 9], [1, 2, 3, 5], [1, 2, 3, 4, 8, 8], [1, 7]]
    plan = plan_trie(sequences, [[3], [3], [3], [1]])
    assert plan.tokens_given == 17
    assert plan.tokens_run == 6  # 1 2 3 4, then 5, then 7: what follows the last wanted position is not run
    assert len(plan.batches) == 1


def test_a_bucket_holds_no_sequence_that_another_begins_with() -> None:
    plan = plan_buckets([[1, 2], [1, 2, 3], [1, 2, 3], [4]], [[0, 1], [2], [2], [0]])
    assert plan.tokens_run == 4


def test_a_row_is_of_bounded_size_and_a_longer_sequence_its_own_length() -> None:
    random = np.random.default_rng(0)
    sequences = [[1, *random.integers(2, 999, size=9).tolist()] for _ in range(100)]
    plan = plan_trie(sequences, [[9]] * 100, budget=512)
    assert max(batch.tokens.shape[1] for batch in plan.batches) <= ROW <= 128
    assert plan.tokens_run > ROW
    (batch,) = plan_trie([list(range(300))], [[299]]).batches
    assert batch.tokens.shape == (1, 300)


def test_the_plan_does_not_depend_on_the_order_of_questions() -> None:
    sequences = [[1, 2, 3], [1, 4], [1, 2, 5]]
    forward = plan_trie(sequences, [[2], [1], [2]]).batches[0]
    backward = plan_trie(sequences[::-1], [[2], [1], [2]]).batches[0]
    assert (forward.tokens == backward.tokens).all()


@pytest.mark.parametrize("position", [-1, 3])
def test_a_position_outside_its_sequence_is_refused(position: int) -> None:
    with pytest.raises(UsageError, match="sequence 1 has 3 tokens"):
        plan_trie([[1, 2], [1, 2, 3]], [[0], [position]])


def test_nothing_wanted_is_nothing_run() -> None:
    for plan in (plan_trie([[1, 2]], [[]]), plan_buckets([[1, 2]], [[]])):
        assert (plan.items, plan.tokens_run, plan.batches) == (0, 0, ())
