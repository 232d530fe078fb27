"""What peers are told of blocks that come and go between two drains."""

from __future__ import annotations

import random

import pytest

from corestore.replication.actions import Send
from corestore.replication.machine import Replicator
from corestore.replication.messages import BitfieldMessage, Range, Sync, Want
from tests.support.network import MemoryCore

PEER = 1
HELD = 20


@pytest.mark.parametrize(
    ("start", "end", "told"),
    [
        (8, 12, [(5, 3), (12, 3)]),
        (0, 8, [(8, 7)]),
        (12, 18, [(5, 7)]),
        (5, 15, []),
        (15, 18, [(5, 10)]),
    ],
)
def test_a_run_that_is_cut_before_it_was_told_is_told_in_part(start, end, told):
    source = MemoryCore.create()
    source.append(*[b"block %d" % i for i in range(HELD)])
    copy = MemoryCore(source.key)
    machine = Replicator(copy.key, copy, rng=random.Random(1))
    copy.head = copy.published = source.head
    machine.peer_opened(PEER, seeks=True)
    machine.receive(PEER, Sync(0, HELD, HELD, True, True, True, True), 0.0)
    machine.actions(0.0)
    copy.bitfield.set(5, 15, True)
    machine.stored(5, 15)
    copy.bitfield.set(start, end, False)
    machine.cleared(start, end)
    sent = [a.message for a in machine.actions(0.0) if isinstance(a, Send)]
    ranges = [message for message in sent if isinstance(message, Range)]
    assert ranges[0] == Range(start, end - start, drop=True)
    assert ranges[1:] == [Range(low, length) for low, length in told]


def test_a_bitfield_says_nothing_of_blocks_that_are_not_published():
    core = MemoryCore.create()
    core.append(*[b"block %d" % i for i in range(10)])
    published = core.head
    core.append(*[b"block %d" % i for i in range(10, HELD)])
    core.published = published
    core.bitfield.set(0, 2, False)
    machine = Replicator(core.key, core, rng=random.Random(1))
    machine.peer_opened(PEER, seeks=True)
    machine.receive(PEER, Sync(0, 0, 0, True, True, True, True), 0.0)
    machine.actions(0.0)
    machine.receive(PEER, Want(0, 1 << 20), 0.0)
    sent = [a.message for a in machine.actions(0.0) if isinstance(a, Send)]
    bits = [message for message in sent if isinstance(message, BitfieldMessage)]
    assert bits == [BitfieldMessage(0, (0b11_1111_1100).to_bytes(4, "little"))]
