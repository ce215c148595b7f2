"""Which tokens to run: equal beginnings of sequences are computed once.

In a causal model the state at a position depends on the tokens up to it alone. So sequences are cut after their last
wanted position, equal ones are merged, and what remains is laid out as a prefix tree. The tree is cut, depth first,
into rows of at most `row` nodes (the ancestors of the first node of a row are repeated there). A row is run as one
sequence in which a node sees its ancestors only.

In depth-first order a subtree is an interval: node k is an ancestor of q, or q itself, when k <= q < end[k].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from storage.records import UsageError

ROW = 64
"""Nodes in a row, at most: longer rows repeat fewer ancestors, shorter ones spend less on attention. At width 128 rows
of 64 cost a quarter less than rows of 128."""
WIDE = 512
"""Width from which rows of twice as many are run: at 576 they cost the same for prompts, and a tenth less for answers."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows to be run together, and where the wanted states are in them."""

    tokens: Int[np.ndarray, "R T"]
    depth: Int[np.ndarray, "R T"]
    """Position in its sequence of each node, from 0; 0 at padding."""
    end: Int[np.ndarray, "R T"]
    """One past the last node of the subtree of each node, within its row."""
    item: Int[np.ndarray, " n"]
    """Which wanted states lie here, as indices in the order of (sequence, wanted position)."""
    row: Int[np.ndarray, " n"]
    node: Int[np.ndarray, " n"]


@dataclass(frozen=True, eq=False)
class Plan:
    """Batches that together hold every wanted state once."""

    batches: tuple[Batch, ...]
    items: int
    """Wanted states, N."""
    tokens_given: int
    """Tokens of all sequences, as given."""
    tokens_run: int
    """Nodes of all rows, without padding."""
    trie: bool
    """Whether rows hold trees (a mask is needed) or plain sequences of one length."""


def ancestor_mask(end: Int[np.ndarray, "R T"]) -> Bool[np.ndarray, "R T T"]:
    """True where the node of the second axis may see the node of the third."""
    index = np.arange(end.shape[1])
    query, key = index[None, :, None], index[None, None, :]
    return (key <= query) & (query < end[:, None, :])


def plan_trie(
    sequences: Sequence[Sequence[int]], wanted: Sequence[Sequence[int]], *, budget: int = 2048, row: int = ROW
) -> Plan:
    """Plan for a model that takes an ancestor mask.

    sequences  token ids, from the beginning token on.
    wanted     positions of each sequence whose state is wanted; may be empty.
    budget     tokens in a batch, about.
    row        nodes in a row, at most; a longer sequence has a row of its own length.

    Raises: UsageError for a position outside its sequence.
    """
    cuts, place, position = _cut(sequences, wanted)
    if not cuts:
        return Plan((), 0, _total(sequences), 0, True)
    tree = _tree(cuts, row)
    rows, nodes = tree.row[place], tree.path[place, position]
    batches = []
    # Rows of about one size together; stable, so that the order is a function of the input alone.
    order = np.argsort(-tree.used, kind="stable")
    for chunk in _chunks(tree.used[order], budget):
        batches.append(_batch(tree, order[chunk], rows, nodes))
    return Plan(tuple(batches), len(rows), _total(sequences), int(tree.used.sum()), True)


def plan_buckets(sequences: Sequence[Sequence[int]], wanted: Sequence[Sequence[int]], *, budget: int = 2048) -> Plan:
    """Plan for a model that takes no such mask: distinct sequences, in batches of one length, without padding.

    Raises: UsageError for a position outside its sequence.
    """
    cuts, place, position = _cut(sequences, wanted)
    if not cuts:
        return Plan((), 0, _total(sequences), 0, False)
    host = _hosts(cuts)[place]
    lengths = np.array([len(cut) for cut in cuts])
    batches, run = [], 0
    for length in np.unique(lengths[np.unique(host)]):
        members = np.unique(host[lengths[host] == length])
        step = max(1, budget // int(length))
        for start in range(0, len(members), step):
            part = members[start : start + step]
            tokens = np.array([cuts[i] for i in part], dtype=np.int64)
            item = np.flatnonzero(np.isin(host, part))
            depth = np.broadcast_to(np.arange(length), tokens.shape)
            end = np.full(tokens.shape, length)
            batches.append(Batch(tokens, depth, end, item, np.searchsorted(part, host[item]), position[item]))
            run += tokens.size
    return Plan(tuple(batches), len(place), _total(sequences), run, False)


def _total(sequences: Sequence[Sequence[int]]) -> int:
    return sum(len(sequence) for sequence in sequences)


def _cut(
    sequences: Sequence[Sequence[int]], wanted: Sequence[Sequence[int]]
) -> tuple[list[tuple[int, ...]], Int[np.ndarray, " N"], Int[np.ndarray, " N"]]:
    """Distinct sequences cut after their last wanted position, sorted; and (which, position) of every wanted state."""
    cut: list[tuple[int, ...] | None] = []
    for number, (sequence, positions) in enumerate(zip(sequences, wanted, strict=True)):
        if len(positions) == 0:
            cut.append(None)
            continue
        last = max(positions)
        if min(positions) < 0 or last >= len(sequence):
            raise UsageError(f"sequence {number} has {len(sequence)} tokens and position {list(positions)} is wanted")
        cut.append(tuple(sequence[: last + 1]))
    unique = sorted({each for each in cut if each is not None})
    index = {each: i for i, each in enumerate(unique)}
    place = [index[each] for each, positions in zip(cut, wanted, strict=True) if each is not None for _ in positions]
    position = [position for positions in wanted for position in positions]
    return unique, np.array(place, dtype=np.int64), np.array(position, dtype=np.int64)


def _shared(cuts: list[tuple[int, ...]]) -> tuple[Int[np.ndarray, "U L"], Int[np.ndarray, " U"], Int[np.ndarray, " U"]]:
    """Padded ids, lengths, and how many tokens each sequence shares with the one before it in sorted order."""
    lengths = np.array([len(cut) for cut in cuts])
    flat = np.fromiter((token for cut in cuts for token in cut), dtype=np.int64, count=int(lengths.sum()))
    padded = np.full((len(cuts), int(lengths.max())), -1, dtype=np.int64)
    padded[np.arange(padded.shape[1]) < lengths[:, None]] = flat
    shared = np.zeros(len(cuts), dtype=np.int64)
    same = np.logical_and.accumulate((padded[1:] == padded[:-1]) & (padded[1:] >= 0), axis=1)
    shared[1:] = same.sum(axis=1)
    return padded, lengths, shared


def _hosts(cuts: list[tuple[int, ...]]) -> Int[np.ndarray, " U"]:
    """For each sequence the longest one that begins with it (often itself)."""
    _, lengths, shared = _shared(cuts)
    host = np.arange(len(cuts))
    for i in range(len(cuts) - 2, -1, -1):
        if shared[i + 1] == lengths[i]:
            host[i] = host[i + 1]
    return host


@dataclass(frozen=True, eq=False)
class _Tree:
    """The prefix tree of U sequences, cut into rows; row by row and node by node in depth-first order."""

    row: Int[np.ndarray, " U"]
    path: Int[np.ndarray, "U L"]
    """Node of each token of each sequence, within its row; meaningless beyond the sequence's length."""
    used: Int[np.ndarray, " R"]
    node_row: Int[np.ndarray, " M"]
    node: Int[np.ndarray, " M"]
    token: Int[np.ndarray, " M"]
    depth: Int[np.ndarray, " M"]
    end: Int[np.ndarray, " M"]


def _tree(cuts: list[tuple[int, ...]], size: int) -> _Tree:
    padded, lengths, shared = _shared(cuts)
    count, longest = padded.shape
    row = np.zeros(count, dtype=np.int64)
    start = np.zeros(count, dtype=np.int64)  # first node that is new with this sequence
    kept = shared.copy()  # tokens already in the row when this sequence is added
    used: list[int] = []
    number, filled = -1, size
    for i, (length, common) in enumerate(zip(lengths.tolist(), shared.tolist(), strict=True)):
        if number < 0 or filled + length - common > size:
            if number >= 0:
                used.append(filled)
            number, filled, common = number + 1, 0, 0
            kept[i] = 0
        row[i], start[i] = number, filled
        filled += length - common
    used.append(filled)
    filled_rows = np.array(used, dtype=np.int64)

    column = np.arange(longest)
    opens = kept[:, None] <= column  # this sequence begins a new branch at or above this depth
    index = np.arange(count)[:, None]
    owner = np.maximum.accumulate(np.where(opens, index, 0), axis=0)
    path = start[owner] + column - kept[owner]

    # The subtree of a node ends where the next branch at or above its depth begins, or with its row.
    after = np.minimum.accumulate(np.where(opens, index, count)[::-1], axis=0)[::-1]
    after = np.concatenate([after[1:], np.full((1, longest), count)])
    start_or_end = np.append(start, 0)
    row_or_none = np.append(row, -1)
    end = np.where(row_or_none[after] == row[:, None], start_or_end[after], filled_rows[row][:, None])

    new = opens & (column < lengths[:, None])
    which, depth = np.nonzero(new)
    return _Tree(row, path, filled_rows, row[which], path[new], padded[new], depth, end[new])


def _batch(
    tree: _Tree, members: Int[np.ndarray, " r"], rows: Int[np.ndarray, " N"], nodes: Int[np.ndarray, " N"]
) -> Batch:
    """Lay the given rows out, and find the wanted states that lie in them."""
    local = np.full(len(tree.used), -1, dtype=np.int64)
    local[members] = np.arange(len(members))
    width = int(tree.used[members].max())
    tokens = np.zeros((len(members), width), dtype=np.int64)
    depth = np.zeros_like(tokens)
    end = np.broadcast_to(np.arange(1, width + 1), tokens.shape).copy()  # padding sees itself alone
    here = np.flatnonzero(local[tree.node_row] >= 0)
    at = local[tree.node_row[here]], tree.node[here]
    tokens[at], depth[at], end[at] = tree.token[here], tree.depth[here], tree.end[here]
    item = np.flatnonzero(local[rows] >= 0)
    return Batch(tokens, depth, end, item, local[rows[item]], nodes[item])


def _chunks(used: Int[np.ndarray, " R"], budget: int) -> list[slice]:
    """Consecutive rows, longest first, whose padded size stays within the budget."""
    chunks, start = [], 0
    while start < len(used):
        step = max(1, budget // int(used[start]))
        chunks.append(slice(start, start + step))
        start += step
    return chunks
