"""Appending and truncating against the reference's hashes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corestore import crypto
from corestore.commit import StoredBlock
from corestore.tree import (
    EMPTY_HEAD,
    Node,
    NodeNotAvailable,
    append,
    append_leaves,
    flat,
    hash_leaves,
    roots_at,
    truncate,
)
from tests.support.trees import Log, Nodes, block
from tests.support.vectors import load, unhex

CRYPTO = load("crypto")


def node_of(value) -> Node:
    return Node(value["index"], value["size"], unhex(value["hash"]))


@pytest.mark.parametrize("vector", CRYPTO["leaf"])
def test_leaves_match_the_reference(vector):
    data = unhex(vector["data"])
    assert hash_leaves(3, [data]) == [Node(6, vector["size"], unhex(vector["hash"]))]


@pytest.mark.parametrize("vector", CRYPTO["parent"])
def test_parents_match_the_reference(vector):
    left, right = node_of(vector["left"]), node_of(vector["right"])
    assert crypto.parent_hash(vector["size"], left.hash, right.hash) == unhex(vector["hash"])


@pytest.mark.parametrize("vector", CRYPTO["treeHash"])
def test_tree_hashes_match_the_reference(vector):
    batch = append(EMPTY_HEAD, [b"block-%d" % i for i in range(vector["length"])])
    assert (batch.length, batch.byte_length) == (vector["length"], vector["byteLength"])
    assert batch.roots == tuple(node_of(root) for root in vector["roots"])
    assert batch.tree_hash() == unhex(vector["hash"])


@given(st.lists(st.lists(st.binary(max_size=40), max_size=9), max_size=6))
def test_appending_in_parts_is_appending_at_once(parts):
    blocks = [data for part in parts for data in part]
    whole = append(EMPTY_HEAD, blocks)
    head, nodes, stored = EMPTY_HEAD, [], []
    for part in parts:
        batch = append(head, part)
        head = batch.head(b"")
        nodes += batch.nodes
        stored += batch.blocks
    assert head == whole.head(b"")
    assert nodes == list(whole.nodes)
    assert stored == list(whole.blocks)


@given(st.integers(1, 200))
def test_a_batch_has_every_complete_node_once(length):
    batch = append(EMPTY_HEAD, [block(i) for i in range(length)])
    complete = {i for i in range(2 * length - 1) if flat.right_span(i) < 2 * length}
    assert sorted(node.index for node in batch.nodes) == sorted(complete)
    by_index = {node.index: node for node in batch.nodes}
    for index in complete:
        if index & 1:
            left, right = by_index[flat.left_child(index)], by_index[flat.right_child(index)]
            size = left.size + right.size
            assert by_index[index] == (
                index,
                size,
                crypto.parent_hash(size, left.hash, right.hash),
            )
    assert [node.index for node in batch.roots] == flat.full_roots(2 * length)


def test_blocks_are_placed_one_after_another():
    batch = append(append(EMPTY_HEAD, [b"ab"]).head(b""), [b"", memoryview(b"cde"), b"f"])
    assert list(batch.blocks) == [
        StoredBlock(1, 2, b""),
        StoredBlock(2, 2, b"cde"),
        StoredBlock(3, 5, b"f"),
    ]


def test_appending_nothing_changes_nothing():
    head = Log.of_length(5).head
    assert append(head, []).head(head.signature) == head


def test_leaves_hashed_for_another_place_are_refused():
    leaves = hash_leaves(3, [b"x"])
    with pytest.raises(ValueError, match="cannot follow"):
        append_leaves(EMPTY_HEAD, leaves, [b"x"])
    with pytest.raises(ValueError, match="1 leaves for 2 blocks"):
        append_leaves(EMPTY_HEAD, leaves, [b"x", b"y"])


@given(st.integers(0, 80), st.data())
def test_truncating_undoes_appending(length, data):
    log = Log.of_length(length)
    to = data.draw(st.integers(0, length))
    cut = truncate(log.head, to, 1, nodes=log.nodes)
    assert cut.head(b"").roots == append(EMPTY_HEAD, log.blocks[:to]).roots
    assert (cut.fork, cut.length, cut.byte_length) == (1, to, sum(map(len, log.blocks[:to])))
    assert not cut.nodes
    assert not cut.blocks


def test_truncating_to_more_or_to_an_older_fork_is_refused():
    log = Log.of_length(5)
    head = log.head
    with pytest.raises(ValueError, match="cannot truncate 5 blocks to 6"):
        truncate(head, 6, 1, nodes=log.nodes)
    with pytest.raises(ValueError, match="older"):
        truncate(truncate(head, 4, 2, nodes=log.nodes).head(b""), 3, 1, nodes=log.nodes)


def test_a_sparse_log_cannot_be_truncated_where_its_roots_are_unknown():
    head = Log.of_length(8).head
    with pytest.raises(NodeNotAvailable) as caught:
        roots_at(head, 5, nodes=Nodes(head.roots))
    assert caught.value.index == 3
