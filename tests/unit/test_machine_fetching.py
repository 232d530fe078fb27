"""The replication machine: what it asks for, of whom, and what it makes of the answers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from corestore.errors import RemoteProtocolError, VerificationError
from corestore.replication.actions import CommitBatch, Outcome, Send, WakeAt
from corestore.replication.messages import (
    BitfieldMessage,
    NoData,
    Range,
    RequestMessage,
    Want,
)
from corestore.replication.peer import WINDOW_BYTES, Allowance
from corestore.tree.types import (
    BlockProof,
    BlockRequest,
    Request,
    UpgradeRequest,
)
from tests.support.machine import (
    PEER,
    Machine,
    reader,
    sync,
    synced_reader,
    writer,
)
from tests.support.network import MemoryCore

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


def test_a_wanted_block_overtakes_those_of_ranges_and_relies_on_none_of_them():
    source = writer(64)
    target = synced_reader(source)
    target.machine.want_block(9)
    (alone,) = target.drain()
    target.machine.want_range(0, 64)
    ranged = target.drain()
    target.machine.want_block(63)
    (wanted,) = target.drain()
    assert [request.priority for request in (alone, *ranged, wanted)] == [0] * 16 + [1]
    # Answered before all the others, and written at once.
    target.hear(source.answer(wanted))
    assert [commit.awaited for commit in target.of(CommitBatch)] == [True]
    assert target.core.bitfield.get(63)
    for request in (alone, *ranged):
        target.hear(source.answer(request))
    assert [commit.awaited for commit in target.of(CommitBatch)] == [False]
    assert not target.drops
    assert target.core.bitfield.contiguous_length == 16


def test_a_wanted_block_overtakes_those_of_ranges_of_other_cores_on_the_stream():
    allowance = Allowance()
    ranging = synced_reader(writer(64), allowance=allowance)
    wanting = synced_reader(writer(64), allowance=allowance)
    ranging.machine.want_range(0, 64)
    assert len(ranging.drain()) == 16
    wanting.machine.want_block(9)
    assert [request.priority for request in wanting.drain()] == [1]
    # What a channel owed when it closed is not under way any more.
    ranging.machine.peer_closed(PEER)
    wanting.machine.want_block(10)
    assert [request.priority for request in wanting.drain()] == [0]


def test_less_is_asked_for_while_a_stream_brings_more_than_is_handled():
    core = MemoryCore.create()
    core.append(*[bytes(64 << 10)] * 800)
    source = Machine(core)
    allowance = Allowance()
    target = synced_reader(source, allowance=allowance)
    target.machine.want_range(0, None)
    waiting = target.drain()
    in_flight = []
    while waiting:
        request, *waiting = waiting
        if len(in_flight) >= 400:
            allowance.read(full=True)
        waiting += [m for m in target.hear(source.answer(request)) if isinstance(m, RequestMessage)]
        in_flight.append(target.machine.statistics().peers[0].in_flight)
    assert max(in_flight) > 96
    # And it never runs dry.
    assert all(16 < each <= 32 for each in in_flight[550:750])
    assert target.core.bitfield.contiguous_length == 800
    for _ in range(200):
        allowance.read(full=False)
    assert allowance.bytes == WINDOW_BYTES


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


def test_a_peer_that_answers_late_is_asked_again_for_what_it_has_told_meanwhile():
    target = synced_reader(writer(5))
    *_, request = target.hear(sync(7, 5))
    target.now += 1
    target.machine.tick(target.now)
    target.drain()
    said = target.hear(sync(3, fork=1))
    assert not any(isinstance(message, RequestMessage) for message in said)
    (again,) = target.hear(NoData(request.id))
    assert (again.request.fork, again.request.upgrade) == (1, UpgradeRequest(0, 3))


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
