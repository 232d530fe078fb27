"""The replication machine, message by message: what it says to what it hears."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corestore.encoding import Reader
from corestore.errors import LimitExceeded, RemoteProtocolError, VerificationError
from corestore.replication.actions import CommitBatch, Drop, Outcome, Send, Serve, Settle, WakeAt
from corestore.replication.machine import Replicator
from corestore.replication.messages import (
    BitfieldMessage,
    Cancel,
    Data,
    NoData,
    Range,
    RequestMessage,
    Sync,
    Unwant,
    Want,
    decode,
    encode,
)
from corestore.tree import batch as tree
from corestore.tree.types import (
    EMPTY_HEAD,
    BlockProof,
    BlockRequest,
    HashRequest,
    Proof,
    Request,
    UpgradeRequest,
)
from tests.support.network import MemoryCore
from tests.support.vectors import load, unhex

PEER = 7
# Blocks 0, 1, 2 and 99, as a bitfield carries them.
TWO_WORDS = b"\7" + bytes(11) + b"\x08\0\0\0"


def blocks(count, size=10):
    return [b"%0*d" % (size, number) for number in range(count)]


class Machine:
    """A machine and its core, driven by hand. `sent` are the messages of the last drain."""

    def __init__(self, core, *, commit=True) -> None:
        self.core = core
        self.machine = Replicator(core.key, core, rng=random.Random(0))
        self.commit = commit
        self.now = 100.0
        self.actions = []
        self.commits = []

    def drain(self):
        self.actions = []
        while new := self.machine.actions(self.now):
            self.actions += new
            for action in new:
                if isinstance(action, CommitBatch):
                    self.commits.append(action)
            if self.commit:
                self.write()
        return self.sent

    def write(self):
        """Commit everything that waits for it."""
        while self.commits:
            commit = self.commits.pop(0)
            self.core.commit(commit)
            self.machine.committed(commit)

    @property
    def sent(self):
        return [a.message for a in self.actions if isinstance(a, Send) and a.peer == PEER]

    def sent_to(self, peer):
        return [a.message for a in self.actions if isinstance(a, Send) and a.peer == peer]

    def of(self, kind):
        return [a for a in self.actions if isinstance(a, kind)]

    @property
    def drops(self):
        return self.of(Drop)

    @property
    def outcomes(self):
        return {a.ticket: a.outcome for a in self.of(Settle)}

    def open(self, peer=PEER):
        self.machine.peer_opened(peer, initiator=True, seeks=True)
        return self.drain()

    def hear(self, *messages, peer=PEER):
        for message in messages:
            self.machine.receive(peer, message, self.now)
        return self.drain()

    def answer(self, request, peer=PEER):
        self.machine.receive(peer, request, self.now)
        self.drain()
        assert Serve(peer, request) in self.actions
        return self.machine.answer(peer, request, block=self.core.block)


def writer(count=5):
    core = MemoryCore.create()
    if count:
        core.append(*blocks(count))
    return Machine(core)


def reader(source, **options):
    return Machine(MemoryCore(source.core.key), **options)


def sync(length, remote=0, **flags):
    options = {
        "fork": 0,
        "can_upgrade": True,
        "uploading": True,
        "downloading": True,
        "has_manifest": True,
    }
    return Sync(length=length, remote_length=remote, **{**options, **flags})


def synced_reader(source, *, have=True, **options):
    """A reader that holds the head and no blocks, with one open peer that has everything."""
    target = reader(source, **options)
    target.open()
    length = source.core.head.length
    target.hear(sync(length))
    (request,) = [m for m in target.sent if isinstance(m, RequestMessage)]
    source.open()
    data = source.answer(request)
    target.commit, commit = True, target.commit
    target.hear(data)
    target.commit = commit
    target.hear(sync(length, length))
    if have:
        target.hear(Range(0, length))
    return target


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


# -- fetching --------------------------------------------------------------------------------------


def test_an_upgrade_is_asked_for_with_the_manifest_while_that_is_unknown():
    target = reader(writer())
    target.open()
    acknowledgement, request = target.hear(sync(5))
    assert acknowledgement == sync(0, 5, can_upgrade=False, has_manifest=False)
    assert request == RequestMessage(1, Request(upgrade=UpgradeRequest(0, 5)), manifest=True)


@pytest.mark.parametrize("flags", [{"can_upgrade": False}, {"uploading": False}])
def test_no_upgrade_is_asked_of_a_peer_that_cannot_serve_it(flags):
    target = reader(writer())
    target.open()
    said = target.hear(sync(5, **flags))
    assert not any(isinstance(m, RequestMessage) and m.request.upgrade for m in said)


def test_the_manifest_alone_is_asked_of_an_empty_peer_that_has_it():
    source = writer(0)
    target = reader(source)
    target.open()
    (request,) = target.hear(sync(0, can_upgrade=True))
    assert request == RequestMessage(1, Request(), manifest=True)
    source.open()
    target.hear(source.answer(request))
    assert target.core.manifest == source.core.manifest


def test_after_an_upgrade_all_peers_are_told():
    source = writer()
    target = reader(source)
    target.open()
    target.open(8)
    (_, request) = target.hear(sync(5))
    source.open()
    target.hear(source.answer(request))
    assert target.sent == [sync(5, 5, can_upgrade=False)]
    assert target.sent_to(8) == [sync(5)]


def test_a_wanted_block_comes_with_the_upgrade_that_reaches_it():
    source = writer()
    target = reader(source)
    ticket = target.machine.want_block(3)
    target.open()
    target.hear(Range(0, 5), sync(5))
    (request,) = [m for m in target.sent if isinstance(m, RequestMessage)]
    assert request.request == Request(block=BlockRequest(3, 0), upgrade=UpgradeRequest(0, 5))
    source.open()
    target.hear(source.answer(request))
    assert target.core.blocks == {3: source.core.blocks[3]}
    assert target.outcomes[ticket] is Outcome.DONE


def test_only_as_many_levels_are_asked_for_as_are_missing():
    source = writer(8)
    target = synced_reader(source)
    target.machine.want_block(0)
    (request,) = target.drain()
    assert request.request.block == BlockRequest(0, 3)
    target.hear(source.answer(request))
    for index, levels in ((1, 0), (2, 1), (5, 2)):
        target.machine.want_block(index)
        (request,) = target.drain()
        assert request.request.block == BlockRequest(index, levels)
        target.hear(source.answer(request))
    target.core.check()


def test_a_run_relies_on_the_proofs_under_way():
    source = writer(8)
    target = synced_reader(source)
    target.machine.want_range(0, 8)
    asked = [m.request.block.nodes for m in target.drain()]
    assert asked == [3, 0, 1, 0, 2, 0, 1, 0]


def test_answers_in_another_order_are_asked_for_again_and_nobody_is_dropped():
    source = writer(8)
    target = synced_reader(source)
    target.machine.want_range(0, 8)
    requests = target.drain()
    again = target.hear(*[source.answer(request) for request in reversed(requests)])
    for _ in range(3):
        again = target.hear(*[source.answer(m) for m in again if isinstance(m, RequestMessage)])
    assert not target.drops
    assert target.core.blocks == source.core.blocks
    target.core.check()


def test_single_blocks_go_before_ranges_and_by_priority():
    source = writer(100)
    target = synced_reader(source)
    target.machine.want_range(0, 100)
    target.machine.want_block(50)
    target.machine.want_block(60, priority=2)
    target.machine.want_block(70, priority=1)
    asked = [m.request.block.index for m in target.drain()]
    assert asked[:5] == [60, 70, 50, 0, 1]
    assert len(asked) == 16 + 0


def test_single_blocks_do_not_wait_for_the_window():
    source = writer(100)
    target = synced_reader(source)
    target.machine.want_range(0, 50)
    assert len(target.drain()) == 16
    target.machine.want_block(99)
    assert [m.request.block.index for m in target.drain()] == [99]


def test_the_bytes_in_flight_are_bounded_for_large_blocks():
    core = MemoryCore.create()
    core.append(*[bytes(1 << 20)] * 60)
    source = Machine(core)
    target = synced_reader(source)
    target.machine.want_range(0, None)
    waiting = target.drain()
    while waiting:
        request, *waiting = waiting
        waiting += [m for m in target.hear(source.answer(request)) if isinstance(m, RequestMessage)]
        in_flight = target.machine.statistics().peers[0].in_flight
    assert target.core.bitfield.contiguous_length == 60
    assert in_flight <= 8
    assert target.machine.statistics().peers[0].window > 16


def test_a_block_is_not_asked_for_twice_while_it_waits_for_its_commit():
    source = writer(8)
    target = synced_reader(source, commit=False)
    target.machine.want_block(3)
    (request,) = target.drain()
    target.hear(source.answer(request))
    ticket = target.machine.want_block(3)
    target.machine.want_range(3, 4)
    assert target.drain() == []
    assert target.outcomes == {}
    (commit,) = target.commits
    target.core.commit(commit)
    target.machine.committed(commit)
    target.drain()
    assert target.outcomes[ticket] is Outcome.DONE
    assert len(target.outcomes) == 3


def test_too_much_that_waits_for_its_commit_stops_the_asking():
    core = MemoryCore.create()
    core.append(*[bytes(1 << 20)] * 60)
    source = Machine(core)
    target = synced_reader(source, commit=False)
    target.machine.want_range(0, None)
    waiting = target.drain()
    while waiting:
        request, *waiting = waiting
        waiting += [m for m in target.hear(source.answer(request)) if isinstance(m, RequestMessage)]
    assert 8 <= len(target.commits) <= 32
    target.write()
    assert any(isinstance(m, RequestMessage) for m in target.drain())


def test_a_want_that_is_held_settles_at_once():
    machine = writer()
    tickets = [
        machine.machine.want_block(2),
        machine.machine.want_range(0, 5),
        machine.machine.want_range(blocks=[4, 1]),
        machine.machine.want_range(blocks=[]),
    ]
    machine.drain()
    assert [machine.outcomes[ticket] for ticket in tickets] == [Outcome.DONE] * 4


def test_wants_are_settled_by_what_others_store():
    source = writer(8)
    target = synced_reader(source, have=False)
    one = target.machine.want_block(2)
    some = target.machine.want_range(blocks=[1, 2])
    every = target.machine.want_range(0, 4)
    target.core.bitfield.set(1, 3)
    target.machine.stored(1, 3)
    target.drain()
    assert target.outcomes == {one: Outcome.DONE, some: Outcome.DONE}
    target.core.bitfield.set(0, 4)
    target.machine.stored(0, 4)
    target.drain()
    assert target.outcomes == {every: Outcome.DONE}


def test_a_refused_block_is_asked_of_another_peer():
    source = writer()
    target = synced_reader(source)
    target.open(8)
    target.hear(sync(5, 5), Range(0, 5), peer=8)
    target.machine.want_block(1)
    target.drain()
    (first,) = target.of(Send)
    other = 15 - first.peer
    target.hear(NoData(first.message.id, 1), peer=first.peer)
    (second,) = target.of(Send)
    assert second.peer == other
    # And not again of anybody, until somebody announces it.
    target.hear(NoData(second.message.id, 1), peer=other)
    assert target.of(Send) == []
    assert [m.request.block.index for m in target.hear(Range(1, 1))] == [1]


def test_a_refused_upgrade_is_not_asked_for_again_until_the_peer_says_something_new():
    target = reader(writer())
    target.open()
    *_, request = target.hear(sync(5))
    assert target.hear(NoData(request.id, 1)) == []
    assert target.hear(sync(5)) == []
    assert isinstance(target.hear(sync(6))[-1], RequestMessage)


def test_a_missing_page_is_asked_for_once():
    source = writer(100)
    target = synced_reader(source, have=False)
    target.machine.want_block(50)
    assert target.drain() == [Want(0, 2**21)]
    target.machine.want_block(51)
    target.machine.want_range(0, 100)
    assert target.drain() == []
    (request,) = target.hear(BitfieldMessage(32, (1 << 18).to_bytes(4, "little")))
    assert request.request.block.index == 50


def test_after_a_fork_a_peer_is_asked_again_what_it_has():
    """It may not tell, if it believes that we have it: we did, of the history before."""
    source = writer(3)
    target = synced_reader(source, have=False)
    first = target.machine.want_block(0)
    assert target.drain() == [Want(0, 2**21)]
    target.machine.cancel(first)
    source.core.truncate(0, 1)
    source.core.append(b"again")
    source.machine.published(source.core.published)
    (request,) = [m for m in target.hear(sync(1, fork=1)) if isinstance(m, RequestMessage)]
    target.hear(source.answer(request))
    assert target.core.head == source.core.head
    target.machine.want_block(0)
    assert target.drain() == [Want(0, 2**21)]


def test_a_duplicate_answer_is_counted_and_ignored():
    source = writer(8)
    target = synced_reader(source)
    target.machine.want_block(3)
    (request,) = target.drain()
    data = source.answer(request)
    target.hear(data)
    assert target.hear(data) == []
    assert not target.drops


@pytest.mark.parametrize(
    "change",
    [
        lambda data: replace(data, proof=replace(data.proof, fork=1)),
        lambda data: replace(
            data, proof=replace(data.proof, block=BlockProof(4, b"x", data.proof.block.nodes))
        ),
        lambda data: replace(
            data, proof=replace(data.proof, block=replace(data.proof.block, value=b"forged"))
        ),
        lambda data: replace(
            data, proof=replace(data.proof, block=replace(data.proof.block, nodes=()))
        ),
    ],
)
def test_a_wrong_answer_drops_the_peer_and_asks_another(change):
    source = writer(8)
    target = synced_reader(source)
    target.machine.want_block(3)
    (request,) = target.drain()
    data = change(source.answer(request))
    target.open(8)
    target.hear(sync(8, 8), Range(0, 8), peer=8)
    target.hear(data)
    assert [m.request.block.index for m in target.sent_to(8)] == [3]
    for check in [m for m in target.sent if isinstance(m, RequestMessage)]:
        # It may have signed another history: that is asked before it is dropped.
        assert (check.id, check.request.upgrade) == (0, UpgradeRequest(0, 8))
        target.hear(source.answer(check))
    assert isinstance(target.drops[0].reason, (VerificationError, RemoteProtocolError))
    assert not target.core.blocks


def test_an_upgrade_that_nobody_asked_for_drops_the_peer():
    source = writer(8)
    target = synced_reader(source)
    target.machine.want_block(3)
    (request,) = target.drain()
    asked = replace(request, request=replace(request.request, upgrade=UpgradeRequest(0, 8)))
    target.hear(source.answer(asked))
    assert isinstance(target.drops[0].reason, RemoteProtocolError)


def test_pushed_data_is_ignored():
    source = writer(8)
    target = synced_reader(source)
    data = source.answer(RequestMessage(0, Request(block=BlockRequest(3, 3))))
    assert target.hear(data) == []
    assert not target.actions


def test_a_writer_never_asks_for_its_own_length():
    machine = writer()
    machine.open()
    assert machine.hear(sync(50)) == [sync(5, 50, can_upgrade=False)]
    ticket = machine.machine.want_upgrade()
    machine.drain()
    assert machine.outcomes[ticket] is Outcome.UNCHANGED


# -- upgrades that are waited for ------------------------------------------------------------------


def test_an_upgrade_is_not_waited_for_without_peers():
    target = reader(writer())
    ticket = target.machine.want_upgrade()
    target.drain()
    assert target.outcomes == {ticket: Outcome.UNCHANGED}


def test_an_upgrade_is_waited_for_until_every_peer_has_answered():
    source = writer()
    target = synced_reader(source)
    target.open(8)
    ticket = target.machine.want_upgrade()
    target.drain()
    assert target.outcomes == {}
    target.hear(sync(3, 5, can_upgrade=False), peer=8)
    assert target.outcomes == {ticket: Outcome.UNCHANGED}


def test_a_wanted_upgrade_settles_when_it_is_committed():
    source = writer()
    target = reader(source)
    target.open()
    ticket = target.machine.want_upgrade()
    *_, request = target.hear(sync(5))
    assert target.outcomes == {}
    source.open()
    target.hear(source.answer(request))
    assert target.outcomes == {ticket: Outcome.DONE}


def test_an_upgrade_is_not_waited_for_forever():
    target = reader(writer())
    target.open()
    ticket = target.machine.want_upgrade()
    target.drain()
    assert target.of(WakeAt)
    target.now += 5
    target.machine.tick(target.now)
    target.drain()
    assert target.outcomes == {ticket: Outcome.UNCHANGED}


def test_time_is_asked_for_only_while_something_is_owed():
    source = writer(8)
    target = synced_reader(source)
    target.machine.tick(target.now + 1)
    target.drain()
    assert not target.of(WakeAt)
    target.machine.want_block(3)
    target.drain()
    (wake,) = target.of(WakeAt)
    assert wake.time == target.now + 0.25
    target.machine.want_block(4)
    target.drain()
    assert not target.of(WakeAt)
    target.machine.tick(target.now + 0.25)
    target.now += 0.25
    target.drain()
    assert target.of(WakeAt)


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


# -- a conversation of two reference peers ---------------------------------------------------------


def recorded(side):
    """The messages of the vector's first core that one side sent, in order."""
    session = load("replication-session")
    channel = {"A": 2, "B": 1}[side]
    for frame in session["frames"]:
        if frame["from"] != side:
            continue
        reader = Reader(unhex(frame["hex"]))
        first, second = reader.uint(), reader.uint()
        parts = []
        if (first, second) == (0, 0):
            at = reader.uint()
            while reader.remaining:
                length = reader.uint()
                if not length:
                    at = reader.uint()
                    continue
                item = Reader(reader.fixed(length))
                parts.append((at, item.uint(), item.rest()))
        else:
            parts.append((first, second, reader.rest()))
        for at, type_, body in parts:
            if at == channel:
                yield decode(type_, body)


def lengths(messages):
    return [(m.length, m.remote_length) for m in messages if isinstance(m, Sync)]


def session_core():
    """The recorded writer's core; its secret key was not recorded, its signatures were."""
    session = load("replication-session")
    manifest = next(m.manifest for m in recorded("A") if isinstance(m, Data) and m.manifest)
    core = MemoryCore(MemoryCore.create().key)
    core.key = type(core.key)(unhex(session["key"]))
    core.manifest = manifest
    data = [m for m in recorded("A") if isinstance(m, Data)]
    upgrades = [m.proof.upgrade for m in data if m.proof.upgrade is not None]
    content = [block.encode() for block in session["blocks"]]
    return core, content, [upgrade.signature for upgrade in upgrades]


class SigningCore(MemoryCore):
    """Writes with recorded signatures."""

    writable = True

    def extend(self, content, signature):
        batch = tree.append(self.head, content)
        before = self.head.length
        self.head = self.published = batch.head(signature)
        self.nodes.update((node.index, node) for node in batch.nodes)
        self.blocks.update((s.index, bytes(s.data)) for s in batch.blocks)
        self.bitfield.set(before, batch.length)


def test_as_writer_it_says_what_the_reference_said():
    plain, content, signatures = session_core()
    core = SigningCore(plain.key)
    core.manifest = plain.manifest
    assert core.head == EMPTY_HEAD
    core.extend(content[:5], signatures[0])
    machine = Machine(core)
    heard = list(recorded("B"))
    expected = list(recorded("A"))
    said = machine.open()
    for message in heard:
        if isinstance(message, RequestMessage) and message.request.upgrade == UpgradeRequest(5, 1):
            core.extend(content[5:], signatures[1])
            machine.machine.stored(5, 6)
            machine.machine.published(core.published)
            said += machine.drain()
        if isinstance(message, RequestMessage):
            said.append(machine.answer(message))
        else:
            said += machine.hear(message)

    def essentials(messages):
        return [m for m in messages if isinstance(m, (Data, Range))]

    assert essentials(said) == essentials(expected)
    # The reference repeats itself where the other's flags change, and is silent where the other has
    # caught up; we are not, but what it says we say, in its order.
    assert set(lengths(expected)) <= set(lengths(said))
    flags = {(m.uploading, m.downloading, m.has_manifest) for m in said if isinstance(m, Sync)}
    assert flags == {(True, True, True)}


def test_as_reader_it_asks_what_the_reference_asked():
    core, content, _ = session_core()
    machine = Machine(core)
    core.manifest = None
    said = machine.open()
    for message in recorded("A"):
        if isinstance(message, Data):
            # The reference uses its first id for every request.
            asked = [m for m in said if isinstance(m, RequestMessage)][-1]
            message = replace(message, id=asked.id)
        said += machine.hear(message)
        if core.head.length == 5 and not core.blocks:
            machine.machine.want_block(3)
        if core.head.length == 6 and 5 not in core.blocks:
            machine.machine.want_block(5)
        said += machine.drain()
    assert core.blocks == {3: content[3], 5: content[5]}

    def essentials(messages):
        return [(m.request, m.manifest) for m in messages if isinstance(m, RequestMessage)]

    assert essentials(said) == essentials(recorded("B"))
    # And we acknowledge a new length before asking for it, not only after.
    assert [pair for pair in lengths(said) if pair != (5, 6)] == lengths(recorded("B"))
    core.check()
