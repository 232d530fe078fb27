"""The replication machine: what it says to what it hears, and what it serves."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corestore.errors import LimitExceeded, RemoteProtocolError
from corestore.replication.actions import Conflict, Serve
from corestore.replication.checks import CHECK_ID
from corestore.replication.messages import (
    BitfieldMessage,
    Cancel,
    Data,
    NoData,
    Range,
    RequestMessage,
    Unwant,
    Want,
    decode,
    encode,
)
from corestore.tree.types import (
    BlockRequest,
    HashRequest,
    Proof,
    Request,
    UpgradeRequest,
)
from tests.support.machine import (
    PEER,
    TWO_WORDS,
    Machine,
    blocks,
    reader,
    sync,
    synced_reader,
    writer,
)
from tests.support.network import MemoryCore

# -- what is said first ----------------------------------------------------------------------------


def test_a_writer_opens_with_its_state_and_its_prefix():
    assert writer().open() == [sync(5), Range(0, 5)]


def test_an_empty_reader_opens_with_its_state_alone():
    assert reader(writer()).open() == [sync(0, has_manifest=False)]


def test_a_compat_core_does_not_say_that_it_has_a_manifest():
    core = MemoryCore.create(1, compat=True)
    core.append(b"one")
    assert Machine(core).open() == [sync(1, has_manifest=False), Range(0, 1)]


def test_a_changed_length_is_acknowledged_and_an_unchanged_one_is_not():
    machine = writer()
    machine.open()
    assert machine.hear(sync(2)) == [sync(5, 2)]
    assert machine.hear(sync(2)) == []
    assert machine.hear(sync(2, downloading=False)) == []
    assert machine.hear(sync(5)) == [sync(5, 5, can_upgrade=False)]


def test_while_forks_differ_nothing_is_acknowledged_nor_promised():
    machine = writer()
    machine.open()
    assert machine.hear(sync(2, fork=3)) == [sync(5, 0, can_upgrade=False)]


def test_a_log_truncated_to_nothing_has_no_fork_to_follow_until_it_has_a_block():
    machine = writer()
    machine.open()
    machine.core.truncate(0, 1)
    machine.machine.published(machine.core.published)
    assert machine.drain() == [Range(0, 5, drop=True), sync(0)]
    machine.core.append(b"new")
    machine.machine.published(machine.core.published)
    assert machine.drain() == [Range(0, 1), sync(1, fork=1)]


def test_a_sparse_copy_promises_upgrades_only_from_lengths_whose_roots_it_has():
    source = writer(5)
    target = synced_reader(source)
    # The roots at 4 are known, those at 3 are not.
    assert target.open(8) == []
    assert target.sent_to(8) == [sync(5)]
    target.hear(sync(4), peer=8)
    assert target.sent_to(8) == [sync(5, 4)]
    target.hear(sync(3), peer=8)
    assert target.sent_to(8) == [sync(5, 3, can_upgrade=False)]


def test_new_blocks_are_told_before_the_new_length():
    machine = writer()
    machine.open()
    machine.hear(sync(5))
    machine.core.append(b"six")
    machine.machine.stored(5, 6)
    machine.machine.published(machine.core.published)
    assert machine.drain() == [Range(0, 6), sync(6, 5)]


def test_unpublished_blocks_are_neither_told_nor_served():
    machine = writer()
    machine.open()
    machine.core.append(b"six", publish=False)
    machine.machine.stored(5, 6)
    assert machine.drain() == []
    assert machine.hear(Want(0, 2**21)) == [Range(0, 5)]
    request = RequestMessage(1, Request(block=BlockRequest(5, 0)))
    assert machine.answer(request) == NoData(1, 1)
    request = RequestMessage(1, Request(upgrade=UpgradeRequest(0, 6)))
    assert machine.answer(request) == NoData(1, 2)


def test_one_drain_tells_a_burst_of_appends_once():
    machine = writer()
    machine.open()
    for _ in range(10):
        machine.core.append(b"more")
        machine.machine.published(machine.core.published)
    assert machine.drain() == [Range(0, 15), sync(15)]


def test_cleared_blocks_are_told_as_dropped():
    machine = writer()
    machine.open()
    machine.core.bitfield.set(1, 3, False)
    machine.machine.cleared(1, 3)
    # A peer that counted up to 5 has to hear of what is beyond again.
    assert machine.drain() == [Range(1, 2, drop=True), Range(3, 2)]
    machine.core.bitfield.set(1, 3)
    machine.machine.stored(1, 3)
    assert machine.drain() == [Range(0, 5)]


def test_set_downloading_is_told_and_stops_following():
    source = writer()
    target = reader(source)
    target.machine.set_downloading(False)
    assert target.open() == [sync(0, has_manifest=False, downloading=False)]
    assert not any(isinstance(m, RequestMessage) for m in target.hear(sync(5)))
    target.machine.set_downloading(True)
    assert any(isinstance(m, RequestMessage) for m in target.drain())


# -- which blocks we have --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("held", "want", "expected"),
    [
        ([(0, 100)], Want(0, 2**21), [Range(0, 100)]),
        ([(0, 100)], Want(64, 32), [Range(0, 100)]),
        ([(0, 70)], Want(0, 64), [Range(0, 70)]),
        ([(40, 41)], Want(0, 2**21), [BitfieldMessage(32, b"\0\1\0\0")]),
        ([(40, 41)], Want(64, 32), []),
        (
            [(0, 3), (99, 100)],
            Want(0, 128),
            [BitfieldMessage(0, TWO_WORDS)],
        ),
        ([(0, 100)], Want(128, 128), []),
        ([(0, 100)], Want(0, 2**22), []),
        ([(50, 60)], Want(0, 2**21, any=True), [Range(50, 1)]),
        ([], Want(0, 2**21, any=True), []),
    ],
)
def test_a_want_is_answered_by_what_is_held(held, want, expected):
    source = writer(100)
    target = synced_reader(source, have=False)
    for start, end in held:
        target.core.bitfield.set(start, end)
    assert target.hear(want) == expected


def test_an_unwant_takes_a_want_back():
    machine = writer()
    machine.open()
    assert machine.hear(Want(0, 32), Unwant(0, 32)) == []


def test_many_separate_new_blocks_are_told_as_one_bitfield():
    source = writer(500)
    target = synced_reader(source)
    for index in range(1, 500, 2):
        target.core.bitfield.set(index, index + 1)
        target.machine.stored(index, index + 1)
    (message,) = target.drain()
    assert message == BitfieldMessage(0, bytes([0xAA]) * 62 + b"\x0a\0")


def test_a_flood_of_wants_is_answered_slowly_and_then_ends_the_stream():
    source = writer(100)
    target = synced_reader(source, have=False)
    target.core.bitfield.set(40, 41)
    wants = [Want(0, length) for length in range(64, 164)]
    assert len(target.hear(*wants)) == 16
    target.machine.tick(target.now + 1)
    assert len(target.drain()) == 16
    target.hear(*[Want(start, 32) for start in range(2000)])
    assert isinstance(target.drops[0].reason, LimitExceeded)


# -- serving ---------------------------------------------------------------------------------------


def test_a_conflict_check_with_id_zero_is_answered():
    machine = writer()
    machine.open()
    data = machine.answer(RequestMessage(0, Request(upgrade=UpgradeRequest(0, 3))))
    assert isinstance(data, Data)
    assert data.id == 0
    assert data.proof.upgrade.length == 3
    assert data.proof.upgrade.additional_nodes


@pytest.mark.parametrize(
    ("request_", "manifest", "expected"),
    [
        (Request(fork=2, block=BlockRequest(0, 0)), False, NoData(1, 1)),
        (Request(block=BlockRequest(9, 0)), False, NoData(1, 1)),
        (Request(block=BlockRequest(0, 60)), False, NoData(1, 2)),
        (Request(upgrade=UpgradeRequest(0, 0)), False, NoData(1, 2)),
        (Request(hash=HashRequest(2, 50)), False, NoData(1, 2)),
        (Request(fork=2, block=BlockRequest(0, 0)), True, "manifest"),
        (Request(fork=0), True, "manifest"),
    ],
)
def test_what_cannot_be_served_is_refused_or_reduced_to_the_manifest(request_, manifest, expected):
    machine = writer()
    machine.open()
    if expected == "manifest":
        expected = Data(1, Proof(), machine.core.manifest)
    assert machine.answer(RequestMessage(1, request_, manifest)) == expected


def test_a_cancelled_request_is_not_answered():
    machine = writer()
    machine.open()
    request = RequestMessage(1, Request(block=BlockRequest(0, 0)))
    machine.hear(request, Cancel(1))
    assert machine.machine.answer(PEER, request, block=machine.core.block) is None


def test_a_request_replaces_the_one_with_its_id():
    machine = writer()
    machine.open()
    first = RequestMessage(1, Request(block=BlockRequest(0, 0)))
    second = RequestMessage(1, Request(block=BlockRequest(1, 0)))
    machine.hear(first, second)
    assert machine.machine.answer(PEER, first, block=machine.core.block) is None
    assert machine.machine.answer(PEER, second, block=machine.core.block).proof.block.index == 1


def test_nobody_is_answered_after_leaving():
    machine = writer()
    machine.open()
    request = RequestMessage(1, Request(block=BlockRequest(0, 0)))
    machine.hear(request)
    machine.machine.peer_closed(PEER)
    machine.machine.peer_closed(PEER)
    assert machine.machine.answer(PEER, request, block=machine.core.block) is None
    assert machine.hear(sync(9)) == []


# -- anything at all -------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_message_makes_the_machine_raise(data):
    source = writer(20)
    target = synced_reader(source)
    for index in (3, 17):
        target.machine.want_block(index)
    target.machine.want_range(0, None)
    requests = target.drain()
    honest = [source.answer(request) for request in requests]
    honest += [sync(25, 20), Range(3, 9), Want(0, 32), requests[0], NoData(2, 1), Cancel(2)]
    for _ in range(data.draw(st.integers(1, 8))):
        type_, body = encode(data.draw(st.sampled_from(honest)))
        body = bytearray(body)
        for _ in range(data.draw(st.integers(0, 3))):
            if body:
                body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
        try:
            message = decode(type_, bytes(body))
        except RemoteProtocolError:
            continue
        if message is None:
            continue
        target.hear(message)
        for serve in target.of(Serve):
            target.machine.answer(PEER, serve.request, block=target.core.block)
    target.core.check()


# -- what contradicts ------------------------------------------------------------------------------


@pytest.mark.parametrize("signs_here", [False, True])
@pytest.mark.parametrize("length", [4, 5, 7, 9])
def test_an_unseen_tail_hides_no_history_that_contradicts_what_was_shown(length, signs_here):
    """Also where the tail is another process's, and so the lock; the peer has asked first."""
    ours, theirs = writer(5), Machine(MemoryCore.create())
    ours.core.append(*blocks(3, 5), publish=False)
    ours.core.head = replace(ours.core.head, signature=b"")
    theirs.core.append(*blocks(length, 7))
    if signs_here:
        ours.machine.doubt(every=False)
    theirs.open()
    theirs.hear(sync(5))
    ours.open()
    shared = UpgradeRequest(0, min(5, length))
    ours.hear(sync(length))
    asked = [message for message in ours.sent if isinstance(message, RequestMessage)]
    ours.hear(RequestMessage(CHECK_ID, Request(0, upgrade=shared)))
    asked += [message for message in ours.sent if isinstance(message, RequestMessage)]
    for _ in range(2):
        for request in asked:
            ours.hear(theirs.answer(request))
        if ours.of(Conflict):
            break
        asked = [message for message in ours.sent if isinstance(message, RequestMessage)]
    assert len(ours.of(Conflict)) == 1


def test_a_peer_that_contradicts_only_an_unseen_tail_has_more_and_is_compared_with_the_rest():
    ours, theirs = writer(5), Machine(MemoryCore.create())
    ours.core.append(*blocks(3, 5), publish=False)
    ours.core.head = replace(ours.core.head, signature=b"")
    theirs.core.append(*blocks(5), *blocks(4, 9))
    theirs.open()
    theirs.hear(sync(5))
    ours.open()
    ours.machine.doubt(every=False)
    ours.hear(sync(9))
    for _ in range(2):
        (request,) = [message for message in ours.sent if isinstance(message, RequestMessage)]
        assert not ours.drops
        ours.hear(theirs.answer(request))
    assert not ours.of(Conflict)
    assert ours.machine.newer == theirs.core.head
