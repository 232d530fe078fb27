"""Peers that break the rules in what they say of cores, next to one that keeps them: that one gets,
and gives, everything.

`scene` checks at its end that the reader has all blocks, that both stores still work, and that
nothing the hostile peer sent was a surprise to the code.
"""

from __future__ import annotations

import contextlib
import random
import tracemalloc
from dataclasses import replace
from itertools import count

import pytest
import trio
import trio.lowlevel
import trio.testing

import corestore
from corestore import channels
from corestore.replication import messages
from corestore.replication.messages import (
    BitfieldMessage,
    Cancel,
    Data,
    MessageType,
    NoData,
    Range,
    RequestMessage,
    Unwant,
    Want,
)
from corestore.swarm import swarm as swarm_module
from corestore.tree import (
    BlockProof,
    BlockRequest,
    HashRequest,
    Node,
    Proof,
    Request,
    SeekRequest,
    UpgradeProof,
    UpgradeRequest,
)
from corestore.wire.mux import ChannelMessage, ChannelOpened
from tests.support.builders import block, eventually, fill
from tests.support.hostile import GREATEST, HostilePeer, discard, has, let_go, scene
from tests.support.limits import HANG_SECONDS

MEGABYTE = 1 << 20


# -- what is asked of us ---------------------------------------------------------------------------

IMPOSSIBLE = [
    Request(0, block=BlockRequest(GREATEST, 0)),
    Request(0, block=BlockRequest(0, GREATEST)),
    Request(0, block=BlockRequest(10_000, 3)),
    Request(GREATEST, block=BlockRequest(0, 0)),
    Request(0, hash=HashRequest(GREATEST, GREATEST)),
    Request(0, hash=HashRequest(1 << 40, 0)),
    Request(0, seek=SeekRequest(GREATEST, GREATEST)),
    Request(0, upgrade=UpgradeRequest(0, GREATEST)),
    Request(0, upgrade=UpgradeRequest(GREATEST, GREATEST)),
    Request(0, upgrade=UpgradeRequest(0, 0)),
    Request(0, BlockRequest(GREATEST, 1), upgrade=UpgradeRequest(3, 1)),
    Request(0),
]


@pytest.mark.parametrize("request_", IMPOSSIBLE, ids=range(len(IMPOSSIBLE)))
async def test_thousands_of_requests_for_what_does_not_exist_harm_nobody_else(request_, caplog):
    async with scene(caplog) as found:
        peer, ended = await found.attack(victim=found.writing)
        channel = await peer.open_core(found.core)
        found.nursery.start_soon(discard, peer)
        with contextlib.suppress(trio.BrokenResourceError):
            for start in range(1, 5000, 500):
                told = [RequestMessage(start + n, request_) for n in range(500)]
                await peer.tell(channel, *told)
                await trio.testing.wait_all_tasks_blocked()
        await peer.hang_up()
        await ended.wait()


@pytest.mark.slow
@pytest.mark.parametrize("cancelled", [False, True])
async def test_who_requests_everything_and_never_reads_is_dropped(cancelled, caplog):
    async with scene(caplog) as found:
        large = await found.writing.get(name="large")
        await fill(large, 64, size=1 << 18)
        await found.writing.sync()
        peer, ended = await found.attack(
            victim=found.writing, streams=trio.testing.lockstep_stream_pair()
        )
        channel = await peer.open_core(large)
        ids = count(1)
        tracemalloc.start()
        try:
            with contextlib.suppress(trio.BrokenResourceError), trio.fail_after(HANG_SECONDS):
                while True:
                    for _ in range(500):
                        number = next(ids)
                        wanted = Request(0, block=BlockRequest(number % 64, 0))
                        peer.send(channel, RequestMessage(number, wanted))
                        if cancelled:
                            peer.send(channel, Cancel(number))
                    await peer.flush()
                    assert tracemalloc.get_traced_memory()[0] < 60 * MEGABYTE
            await ended.wait()
        finally:
            tracemalloc.stop()
    assert "requests at once" in caplog.text


async def test_wants_of_any_size_and_number_are_bearable(caplog):
    async with scene(caplog) as found:
        peer, ended = await found.attack(victim=found.writing)
        channel = await peer.open_core(found.core)
        told = [
            Want(start, length) for start in (0, 1, 1 << 40) for length in (0, 1 << 40, GREATEST)
        ]
        await peer.tell(channel, *told, Unwant(GREATEST, GREATEST), Want(GREATEST, GREATEST, True))
        await trio.testing.wait_all_tasks_blocked()
        assert not ended.is_set()
        with contextlib.suppress(trio.BrokenResourceError):
            await peer.tell(channel, *[Want(start, 1) for start in range(5000)])
        await found.check()
        await peer.hang_up()
        await ended.wait()


# -- what is announced to us -----------------------------------------------------------------------


async def test_a_bitfield_of_absurd_size_is_dropped(caplog, streams):
    async with scene(caplog, streams=streams) as found:
        peer, ended = await found.attack()
        channel = await peer.open_core(found.core)
        with contextlib.suppress(trio.BrokenResourceError):
            await peer.tell(channel, BitfieldMessage(0, bytes(8 << 20)))
        await let_go(peer, ended)
    assert "dropped a peer" in caplog.text


@pytest.mark.parametrize("start", [(GREATEST >> 5) << 5, GREATEST - 31])
async def test_a_bitfield_beyond_53_bits_is_dropped(start, caplog):
    async with scene(caplog) as found:
        peer, ended = await found.attack()
        channel = await peer.open_core(found.core)
        await peer.tell(channel, BitfieldMessage(start, b"\xff" * 4000))
        await let_go(peer, ended)
    assert "dropped a peer" in caplog.text


@pytest.mark.parametrize(("start", "length"), [(GREATEST, 1), (1, GREATEST), (GREATEST, GREATEST)])
async def test_a_range_beyond_53_bits_is_dropped(start, length, caplog):
    async with scene(caplog) as found:
        peer, ended = await found.attack()
        channel = await peer.open_core(found.core)
        await peer.tell(channel, has(GREATEST), Range(start, length))
        await let_go(peer, ended)
    assert "beyond 53 bits" in caplog.text


@pytest.mark.slow
async def test_announcements_everywhere_are_bounded(caplog):
    async with scene(caplog) as found:
        peer, ended = await found.attack()
        channel = await peer.open_core(found.core)
        await peer.tell(channel, has(GREATEST), Range(0, GREATEST), Range(5, GREATEST - 5, True))
        tracemalloc.start()
        try:
            for start in range(0, 20_000, 2000):
                told = [Range(4096 * 7 * n + n % 4096, 5000) for n in range(start, start + 2000)]
                await peer.tell(channel, *told)
                await trio.testing.wait_all_tasks_blocked()
            assert tracemalloc.get_traced_memory()[0] < 100 * MEGABYTE
        finally:
            tracemalloc.stop()
        assert not ended.is_set()
        await found.check()
        await peer.hang_up()
        await ended.wait()


# -- what is answered to us ------------------------------------------------------------------------


async def serve(peer, channel, answer):
    """Answer every request of the victim with what *answer* returns for it."""
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while request := await peer.request():
            # A virtual clock stands still while there is anything else to do.
            await trio.sleep(0.001)
            await peer.tell(channel, *answer(request))


def refuse(request):
    return [NoData(request.id, 1)]


def refuse_and_claim_again(request):
    wanted = request.request
    again = [Range(0, 1000)] if wanted.upgrade is None else [has(GREATEST - 1 - request.id)]
    return [NoData(request.id, 1), *again]


def refuse_and_claim_forks(request):
    return [NoData(request.id, 2), has(1 + request.id, fork=request.id + 5)]


def nothing(request):
    return []


def data_of(change):
    def answer(request):
        wanted = request.request
        parts = {}
        if wanted.block is not None:
            parts["block"] = BlockProof(wanted.block.index, block(wanted.block.index), ())
        if wanted.upgrade is not None:
            start, length = wanted.upgrade.start, wanted.upgrade.length
            roots = (Node(0, 100, bytes(32)),)
            parts["upgrade"] = UpgradeProof(start, length, roots, (), bytes(64))
        return [Data(request.id, change(Proof(wanted.fork, **parts)))]

    return answer


def other_size(proof):
    return proof if proof.block is None else replace(proof, block=replace(proof.block, value=b""))


def other_block(proof):
    return replace(proof, block=BlockProof(7, block(7), ()))


def other_fork(proof):
    return replace(proof, fork=proof.fork + 1)


def long_path(proof):
    nodes = tuple(Node(2 * n, GREATEST, bytes(32)) for n in range(256))
    return replace(proof, block=BlockProof(GREATEST, b"", nodes))


LIARS = {
    "noData": refuse,
    "noData, then announced again": refuse_and_claim_again,
    "noData, then another fork": refuse_and_claim_forks,
    "silence": nothing,
    "a bad proof": data_of(lambda proof: proof),
    "a block of another size": data_of(other_size),
    "another block": data_of(other_block),
    "another fork": data_of(other_fork),
    "an absurd path": data_of(long_path),
    "an empty proof": data_of(lambda proof: Proof(proof.fork)),
}


@pytest.mark.parametrize("name", LIARS)
@pytest.mark.parametrize("before", [True, False], ids=["first", "later"])
async def test_a_peer_that_lies_in_its_answers_does_not_keep_blocks_from_us(
    name, before, caplog, autojump_clock
):
    async with scene(caplog) as found:
        if not before:
            await found.copy.update()
        peer, ended = await found.attack()
        channel = await peer.open_core(found.core)
        await peer.tell(channel, has(1000), Range(0, 1000))
        found.nursery.start_soon(serve, peer, channel, LIARS[name])
        await found.check()
        await peer.hang_up()
        await ended.wait()


@pytest.mark.parametrize("spoilt", ["value", "signature", "node", "size"])
async def test_a_true_answer_with_one_thing_changed_is_dropped(spoilt, caplog):
    async with scene(caplog) as found:
        honest, honest_ended = await found.attack(victim=found.writing)
        source = await honest.open_core(found.core)
        later = await found.writing.get(name="later")
        await fill(later, 100)
        await found.writing.sync()
        source = await honest.open_core(later)
        copy = await found.reading.get(key=later.key)
        assert await copy.get(0) == block(0)
        peer, ended = await found.attack()
        channel = await peer.open_core(later)
        await found.copy.download(0, 200)
        wanted = RequestMessage(
            1, Request(0, BlockRequest(5, 0), upgrade=UpgradeRequest(0, 100)), True
        )
        await honest.tell(source, wanted)
        while True:
            event = await honest.wait_for(ChannelMessage)
            truth = messages.decode(event.type, event.body)
            if isinstance(truth, Data):
                break
        lie = spoil(truth, spoilt)
        # A peer that says so is asked for the longer log at once.
        await peer.tell(channel, has(150), Range(0, 150))
        with contextlib.suppress(trio.BrokenResourceError):
            while request := await peer.request():
                await peer.tell(channel, replace(lie, id=request.id))
        await let_go(peer, ended)
        await copy.download(0, 100)
        assert copy.tree_hash() == later.tree_hash()
        await honest.hang_up()
        await honest_ended.wait()
    assert "dropped a peer" in caplog.text


def spoil(truth, part):
    proof = truth.proof
    upgrade, own = proof.upgrade, proof.block
    if part == "value":
        own = replace(own, value=own.value[:-1] + b"?")
    elif part == "size":
        own = replace(own, value=own.value + b"?")
    elif part == "signature":
        upgrade = replace(upgrade, signature=bytes(len(upgrade.signature)))
    else:
        index, size, hash_ = upgrade.nodes[0]
        upgrade = replace(upgrade, nodes=(Node(index, size + 1, hash_), *upgrade.nodes[1:]))
    return replace(truth, proof=replace(proof, block=own, upgrade=upgrade))


async def test_data_nobody_asked_for_is_ignored(caplog, streams):
    async with scene(caplog, streams=streams) as found:
        await found.copy.update()
        await found.copy.get(3)
        peer, ended = await found.attack()
        channel = await peer.open_core(found.core)
        for start in range(1, 3000, 100):
            proof = Proof(0, BlockProof(3, block(3), ()))
            await peer.tell(channel, *[Data(n, proof) for n in range(start, start + 100)])
            await trio.testing.wait_all_tasks_blocked()
        assert not ended.is_set()
        assert found.copy.statistics().blocks_held == 1
        await peer.hang_up()
        await ended.wait()


async def test_a_peer_that_does_not_answer_an_opening_does_not_hold_up_update(
    caplog, autojump_clock
):
    async with scene(caplog) as found:
        await found.copy.update()
        _, ended = await found.attack()
        with trio.fail_after(2 * channels.ANSWER_SECONDS):
            assert not await found.copy.update()
        assert not ended.is_set()


@pytest.mark.parametrize("shaken", [False, True], ids=["half open", "silent"])
async def test_strangers_who_connect_again_and_again_do_not_hold_up_update(
    shaken, caplog, autojump_clock
):
    async with scene(caplog) as found:
        await found.copy.update()

        async def connect_again_and_again():
            while True:
                await found.attack(shaken=shaken)
                await trio.sleep(3)

        found.nursery.start_soon(connect_again_and_again)
        await trio.sleep(1)
        with trio.fail_after(20):
            assert not await found.copy.update()


# -- the end, at any time --------------------------------------------------------------------------


@pytest.mark.parametrize("whole", [True, False], ids=["between frames", "within a frame"])
async def test_a_peer_that_goes_at_any_message_does_no_harm(whole, caplog):
    async with scene(caplog) as found:
        for limit in count(1):
            peer, ended = await found.attack()
            done = False
            with contextlib.suppress(trio.BrokenResourceError):
                done = await live(peer, found.core, limit)
                if not whole:
                    await peer.stream.send_all(b"\x20\x00\x00abc")
            await peer.hang_up()
            await ended.wait()
            if done:
                break
        assert limit > 8


async def live(peer, core, limit):
    """Say the first *limit* messages of a peer's life; whether that was all."""
    channel = peer.open(core)
    await peer.flush()
    if limit == 1:
        return False
    assert await peer.wait_for(ChannelOpened)
    told = [
        has(500),
        Range(0, 300),
        BitfieldMessage(320, b"\xff" * 8),
        Want(0, 1 << 21),
        RequestMessage(1, Request(0, BlockRequest(1, 0), upgrade=UpgradeRequest(0, 5)), True),
        RequestMessage(2, Request(0, BlockRequest(2, 0))),
        Cancel(2),
        NoData(1, 1),
        Range(0, 100, True),
        has(100, fork=3),
        Unwant(0, 1 << 21),
    ]
    for message in told[: limit - 2]:
        await peer.tell(channel, message)
        await trio.testing.wait_all_tasks_blocked()
    if limit - 2 <= len(told):
        return False
    channel.send(MessageType.EXTENSION, b"\x01xrest")
    channel.close()
    await peer.flush()
    return True


@pytest.mark.parametrize("known", [False, True], ids=["without a key", "with the key"])
async def test_connections_have_a_bound_and_strangers_make_room(known, caplog, monkeypatch):
    monkeypatch.setattr(swarm_module, "MAX_INCOMING", 4)
    async with (
        corestore.open(None) as writing,
        corestore.open(None) as reading,
        corestore.open_swarm(writing) as served,
        corestore.open_swarm(reading) as swarm,
    ):
        core = await writing.get(name="log")
        await fill(core, 10)
        await writing.sync()
        host, port = await served.listen()
        peers = []
        for _ in range(4):
            peer = HostilePeer(await trio.open_tcp_stream(host, port))
            await peer.shake_hands()
            if known:
                await peer.open_core(core)
            peers.append(peer)
        await eventually(lambda: len(served.peers) == 4)
        swarm.connect(host, port)
        copy = await reading.get(key=core.key)
        if known:
            await eventually(lambda: swarm.dials[0].attempts > 1)
            await peers[2].hang_up()
        with trio.fail_after(HANG_SECONDS):
            await copy.wait_length(10)
        assert len(served.peers) == 4
        for peer in peers:
            await peer.hang_up()
    assert ("shares no core with us" in caplog.text) is not known


async def test_a_swarm_that_listens_outlives_its_hostile_peers(caplog):
    async with (
        corestore.open(None) as writing,
        corestore.open(None) as reading,
        corestore.open_swarm(writing) as served,
        corestore.open_swarm(reading) as swarm,
    ):
        core = await writing.get(name="log")
        await fill(core, 100)
        await writing.sync()
        host, port = await served.listen()
        rng = random.Random(1)
        silent = []
        for round_ in range(40):
            peer = HostilePeer(await trio.open_tcp_stream(host, port))
            if round_ % 2:
                await peer.shake_hands()
            with contextlib.suppress(trio.BrokenResourceError):
                await peer.stream.send_all(rng.randbytes(round_ * 10))
            if round_ % 4 < 2:
                await peer.hang_up()
            else:
                silent.append(peer)
        swarm.connect(host, port)
        copy = await reading.get(key=core.key)
        with trio.fail_after(HANG_SECONDS):
            await copy.download(0, 100)
        assert copy.tree_hash() == core.tree_hash()
        for peer in silent:
            await peer.hang_up()
    assert "was not" not in caplog.text
