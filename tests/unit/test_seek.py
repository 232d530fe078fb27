"""Bytes to blocks and back, in whole logs and in sparse ones."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corestore.tree import (
    EMPTY_HEAD,
    Head,
    Node,
    NodeNotAvailable,
    NodeOverlay,
    Position,
    SeekRequest,
    SeekStopped,
    UpgradeRequest,
    byte_offset,
    flat,
)
from corestore.tree.seek import seek
from tests.support.trees import Log, Nodes, Replica

blocks_of_bytes = st.lists(st.binary(max_size=5), max_size=40)


@given(blocks_of_bytes)
def test_byte_offsets_are_sums_of_sizes(blocks):
    log = Log(blocks)
    at = 0
    for index, data in enumerate(blocks):
        assert byte_offset(index, log.head, nodes=log.nodes) == at
        at += len(data)
    assert byte_offset(len(blocks), log.head, nodes=log.nodes) == at


def test_a_byte_offset_reads_at_most_one_node_a_level():
    log = Log([b"x"] * 1000)
    for index in (0, 1, 511, 512, 767, 999):
        log.nodes.reads = 0
        byte_offset(index, log.head, nodes=log.nodes)
        assert log.nodes.reads <= 9


def test_blocks_outside_the_log_have_no_offset():
    log = Log.of_length(5)
    for index in (-1, 6, 2**53):
        with pytest.raises(ValueError, match="no block"):
            byte_offset(index, log.head, nodes=log.nodes)


@given(blocks_of_bytes, st.integers(0, 3))
def test_every_byte_is_found_in_its_block(blocks, padding):
    log = Log([bytes(padding) + data for data in blocks])
    at = 0
    for index, data in enumerate(blocks):
        for offset in range(len(data)):
            found = seek(at + offset, log.head, nodes=log.nodes, padding=padding)
            assert found == Position(index, offset)
        at += len(data)
    assert seek(at, log.head, nodes=log.nodes, padding=padding) == Position(len(blocks), 0)


def test_offsets_outside_the_log_are_refused():
    log = Log.of_length(5)
    for offset in (-1, log.head.byte_length + 1, 2**60):
        with pytest.raises(ValueError, match="no byte"):
            seek(offset, log.head, nodes=log.nodes)
    assert seek(0, EMPTY_HEAD, nodes=Nodes()) == Position(0, 0)


@given(st.integers(1, 60), st.data())
def test_a_sparse_replica_finds_any_byte_in_one_round(length, data):
    log = Log.of_length(length)
    replica = Replica.at(log, length)
    offset = data.draw(st.integers(0, log.head.byte_length - 1))
    expected = seek(offset, log.head, nodes=log.nodes)
    found = seek(offset, replica.head, nodes=replica.nodes)
    if isinstance(found, SeekStopped):
        assert found.start <= expected.index < found.end
        block = data.draw(st.integers(found.start, found.end - 1))
        hash_, seek_ = found.requests(block, offset)
        batch = replica.receive(log.build(hash=hash_, seek=seek_))
        overlay = NodeOverlay(replica.nodes, batch.hints)
        found = seek(offset, replica.head, nodes=overlay)
        if isinstance(found, SeekStopped):
            # The byte starts a node whose inside the answer need not show.
            assert found.start == expected.index
            found = Position(found.start, 0)
    assert found == expected
    # With the block itself everything is certain.
    replica.fetch(log, found.index)
    assert seek(offset, replica.head, nodes=replica.nodes) == expected
    assert byte_offset(found.index, replica.head, nodes=replica.nodes) == offset - found.offset


@given(st.integers(1, 60), st.data())
def test_a_seek_ends_though_the_peer_ignores_it(length, data):
    log = Log.of_length(length)
    replica = Replica.at(log, length)
    overlay = NodeOverlay(replica.nodes)
    offset = data.draw(st.integers(0, log.head.byte_length - 1))
    found = seek(offset, replica.head, nodes=overlay)
    width = length
    while isinstance(found, SeekStopped):
        assert found.end - found.start <= width
        width = (found.end - found.start) // 2
        hash_, _ = found.requests(data.draw(st.integers(found.start, found.end - 1)), offset)
        overlay.add(replica.receive(log.build(hash=hash_)).hints)
        found = seek(offset, replica.head, nodes=overlay)
    assert found == seek(offset, log.head, nodes=log.nodes)


def test_a_seek_comes_with_the_first_upgrade():
    log = Log.of_length(13)
    replica = Replica()
    batch = replica.receive(log.build(seek=SeekRequest(150, 0), upgrade=UpgradeRequest(0, 13)))
    overlay = NodeOverlay(replica.nodes, batch.hints)
    assert seek(150, replica.head, nodes=overlay) == seek(150, log.head, nodes=log.nodes)


def test_a_peer_that_lies_about_sizes_cannot_lead_a_held_block_astray():
    log = Log.of_length(8)
    replica = Replica.at(log, 8)
    stopped = seek(30, replica.head, nodes=replica.nodes)
    hash_, seek_ = stopped.requests(0, 30)
    proof = log.build(hash=hash_, seek=seek_)
    sizes = {0: 20, 2: -20 + 14 + 7}
    nodes = tuple(n._replace(size=sizes.get(n.index, n.size)) for n in proof.hash.nodes)
    assert sum(n.size for n in nodes[:2]) == sum(n.size for n in proof.hash.nodes[:2])
    replica.receive(replace(proof, hash=replace(proof.hash, nodes=nodes)))
    replica.fetch(log, 1)
    assert byte_offset(1, replica.head, nodes=replica.nodes) == len(log.blocks[0])


def test_an_unknown_offset_names_the_node_it_needs():
    log = Log.of_length(8)
    with pytest.raises(NodeNotAvailable) as caught:
        byte_offset(6, log.head, nodes=Nodes(log.head.roots))
    assert caught.value.index == 3


def test_only_blocks_below_the_stop_can_help():
    stopped = SeekStopped(19, 8, 12)
    assert stopped.requests(9, 500)[0].nodes == flat.depth(19)
    with pytest.raises(ValueError, match="not in 8"):
        stopped.requests(12, 500)


def test_sizes_that_make_no_sense_end_a_search():
    """A root that claims less than its padding: nothing a signer would sign, but no loop."""
    head = Head(0, 4, 3, (Node(3, 3, bytes(32)),), b"")
    with pytest.raises(ValueError, match="no byte"):
        seek(1, head, nodes=Nodes(), padding=2**53)
