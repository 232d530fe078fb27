"""Peers that break the rules, next to one that keeps them: it gets, and gives, everything.

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
from corestore import channels, link, partial
from corestore.encoding import encode_uint
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
from corestore.wire.noise import MESSAGE_BYTES
from tests.support.builders import block, eventually, fill
from tests.support.hostile import (
    CLOSE,
    GREATEST,
    OPEN,
    HostilePeer,
    batch,
    has,
    let_go,
    opening,
    scene,
    tcp_streams,
)

MEGABYTE = 1 << 20


@pytest.fixture(params=["memory", "tcp"])
def streams(request):
    return tcp_streams if request.param == "tcp" else None


# -- before the first message ----------------------------------------------------------------------


async def test_a_wrong_capability_is_dropped(caplog, streams):
    async with scene(caplog, streams=streams) as found:
        peer, ended = await found.attack()
        peer.open(found.core, key=bytes(32))
        await peer.flush()
        await let_go(peer, ended)
    assert "dropped a peer" in caplog.text


@pytest.mark.parametrize("size", [0, 1, 31, 1 << 10])
async def test_a_capability_of_any_size_is_dropped(size, caplog):
    async with scene(caplog) as found:
        peer, ended = await found.attack()
        await peer.say(
            batch([(OPEN, opening(1, id=found.core.discovery_key, handshake=bytes(size)))])
        )
        await let_go(peer, ended)
    assert "dropped a peer" in caplog.text


async def test_a_wrong_capability_is_not_the_fault_of_who_opens_the_core_meanwhile(caplog):
    async with scene(caplog) as found:
        theirs = await found.writing.get(name="other")
        await fill(theirs, 3)
        await found.writing.sync()
        peer, ended = await found.attack()
        # Other tasks have their turn between the openings of one batch.
        openings = [(OPEN, opening(n, id=bytes(31) + bytes([n % 256]))) for n in range(1, 15000)]
        wrong = opening(15000, id=theirs.discovery_key, handshake=bytes(33))
        found.nursery.start_soon(peer.say, batch([*openings, (OPEN, wrong)]))
        copy = None
        while not ended.is_set():
            await trio.lowlevel.checkpoint()
            if copy is None and found.reading.statistics().bytes_received > 200_000:
                copy = await found.reading.get(key=theirs.key)
        copy = copy or await found.reading.get(key=theirs.key)
        assert await copy.get(2) == block(2)
    assert "dropped a peer" in caplog.text


def handshake_stops():
    """Byte counts of an initiator's side at which it may fall silent."""
    whole = 3 + MESSAGE_BYTES[0], 3 + MESSAGE_BYTES[2], 3 + 32 + 24
    at = 0
    for size in whole:
        yield from (at, at + 1, at + 3, at + size - 1)
        at += size


async def cut(peer, limit):
    """Send the first *limit* bytes of what an honest initiator sends, and nothing else."""
    sent = 0
    while sent < limit:
        data = b"".join(peer.secure.data_to_send())
        if data:
            await peer.stream.send_all(data[: limit - sent])
            sent += len(data[: limit - sent])
        elif not await peer.receive():
            return


@pytest.mark.parametrize("limit", sorted(set(handshake_stops())))
async def test_a_handshake_that_stops_is_dropped(limit, caplog, autojump_clock):
    async with scene(caplog) as found:
        peer, ended = await found.attack(shaken=False)
        began = trio.current_time()
        await cut(peer, limit)
        await ended.wait()
        assert trio.current_time() - began <= link.HANDSHAKE_SECONDS + 1
    assert "no handshake within" in caplog.text


async def test_a_handshake_of_one_byte_a_second_is_dropped(caplog, autojump_clock):
    async with scene(caplog) as found:
        peer, ended = await found.attack(shaken=False)
        data = b"".join(peer.secure.data_to_send())
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            for byte in data:
                await peer.stream.send_all(bytes([byte]))
                await trio.sleep(1)
        await ended.wait()
    assert "no handshake within" in caplog.text


@pytest.mark.parametrize("stage", range(4))
@pytest.mark.parametrize("seed", range(3))
async def test_garbage_at_any_stage_is_dropped(stage, seed, caplog):
    rng = random.Random(seed)
    async with scene(caplog) as found:
        peer, ended = await found.attack(shaken=stage >= 2)
        if stage == 1:
            await cut(peer, 3 + MESSAGE_BYTES[0])
        elif stage == 3:
            await peer.open_core(found.core)
        with contextlib.suppress(trio.BrokenResourceError):
            # Announces a frame that comes, so that it is looked at.
            size = {0: MESSAGE_BYTES[0], 1: MESSAGE_BYTES[2]}.get(stage, 500)
            await peer.stream.send_all(size.to_bytes(3, "little") + rng.randbytes(size))
            await peer.stream.send_all(rng.randbytes(1 << 16))
        await let_go(peer, ended)
    assert "dropped a peer" in caplog.text


# -- frames ----------------------------------------------------------------------------------------


async def test_a_frame_of_length_0_is_dropped(caplog, streams):
    async with scene(caplog, streams=streams) as found:
        peer, ended = await found.attack()
        await peer.stream.send_all(bytes(3))
        await let_go(peer, ended)
    assert "dropped a peer" in caplog.text


@pytest.mark.slow
async def test_frames_announced_and_never_sent_cost_nothing(caplog):
    async with scene(caplog) as found:
        tracemalloc.start()
        try:
            for _ in range(50):
                peer, _ = await found.attack()
                await peer.stream.send_all(b"\xff\xff\xff" + b"x")
            await trio.testing.wait_all_tasks_blocked()
            assert tracemalloc.get_traced_memory()[0] < 20 * MEGABYTE
        finally:
            tracemalloc.stop()


async def test_frames_that_are_never_ended_do_not_fill_the_memory(caplog, monkeypatch):
    monkeypatch.setattr(partial, "MAX_BYTES", 4 * MEGABYTE)
    async with scene(caplog) as found:
        attacks = []
        for _ in range(6):
            peer, ended = await found.attack()
            attacks.append(ended)
            await peer.stream.send_all(b"\xff\xff\xff" + bytes(MEGABYTE + 100))
            await trio.testing.wait_all_tasks_blocked()
        # Who came first has taken longest.
        assert [ended.is_set() for ended in attacks] == [True] * 3 + [False] * 3
        # Whole ones, of whatever size, are no burden.
        peer, ended = await found.attack()
        await peer.open_core(found.core)
        for _ in range(10):
            await peer.say(b"\x09\x00" + bytes(3 * MEGABYTE))
            await trio.testing.wait_all_tasks_blocked()
        assert not ended.is_set()
    assert caplog.text.count("a large frame took too long") == 6


class Wire:
    """A stream that remembers what was sent, and sends it in pieces of *size*."""

    def __init__(self, stream, size) -> None:
        self.stream = stream
        self.size = size
        self.sent = bytearray()

    async def send_all(self, data):
        self.sent += data
        for at in range(0, len(data), self.size):
            await self.stream.send_all(data[at : at + self.size])

    async def receive_some(self, size=None):
        return await self.stream.receive_some(size)

    async def aclose(self):
        await self.stream.aclose()


async def through_wire(found, size):
    """An attack whose peer sends through a `Wire`; it has not shaken hands."""
    near, far = trio.testing.memory_stream_pair()
    return await found.attack(victim=found.writing, shaken=False, streams=(near, Wire(far, size)))


async def test_a_conversation_may_come_byte_by_byte(caplog):
    async with scene(caplog) as found:
        peer, ended = await through_wire(found, 1)
        await peer.shake_hands()
        channel = await peer.open_core(found.core)
        wanted = Request(0, BlockRequest(5, 0), upgrade=UpgradeRequest(0, 200))
        await peer.tell(channel, RequestMessage(1, wanted, True))
        while True:
            event = await peer.wait_for(ChannelMessage)
            answer = messages.decode(event.type, event.body)
            if isinstance(answer, Data):
                break
        assert answer.proof.block.value == block(5)
        assert not ended.is_set()


async def test_a_conversation_played_again_is_dropped(caplog):
    async with scene(caplog) as found:
        peer, ended = await through_wire(found, 1 << 20)
        await peer.shake_hands()
        channel = await peer.open_core(found.core)
        await peer.tell(channel, Want(0, 32))
        again, ended_again = await through_wire(found, 1 << 20)
        await again.stream.send_all(bytes(peer.stream.sent))
        with trio.fail_after(5):
            await ended_again.wait()
        assert not ended.is_set()
    assert "dropped a peer (before its handshake)" in caplog.text


async def test_a_slow_peer_is_slow_alone(caplog, autojump_clock):
    async with scene(caplog) as found:
        peer, ended = await found.attack()
        await peer.open_core(found.core)
        peer.secure.send(b"\x01\x00" + bytes(3))
        data = b"".join(peer.secure.data_to_send())
        for byte in data:
            await peer.stream.send_all(bytes([byte]))
            await trio.sleep(1)
        await found.check()
        await peer.hang_up()
        await ended.wait()


# -- the multiplexer -------------------------------------------------------------------------------


async def test_unknown_messages_and_controls_are_ignored(caplog, streams):
    async with scene(caplog, streams=streams) as found:
        peer, ended = await found.attack()
        channel = await peer.open_core(found.core)
        for kind in (10, 11, 255, 1 << 20, GREATEST):
            channel.send(kind, b"of the future")
        await peer.flush()
        await peer.say(*[b"\x00" + encode_uint(kind) + b"future" for kind in (4, 99, GREATEST)])
        await peer.tell(channel, RequestMessage(1, Request(0, block=BlockRequest(0, 0))))
        assert not ended.is_set()
        assert await peer.wait_for(ChannelMessage)
        await peer.hang_up()
        await ended.wait()


@pytest.mark.parametrize(
    "frame",
    [
        b"\x00\x00",
        b"\x00\x00\x01\xff",
        b"\x00\x00\x00\x02\x00\x00",
        b"\x00\x01",
        b"\x00\x01\x02\x01a\x00",
        b"\x00\x02\x07",
        b"\x00\x02\x00",
        b"\x00\x01" + b"\xff" * 9,
        b"\xff" * 9,
    ],
)
async def test_a_broken_control_message_is_dropped(frame, caplog):
    async with scene(caplog) as found:
        peer, ended = await found.attack()
        await peer.say(frame)
        await let_go(peer, ended)
    assert "dropped a peer" in caplog.text


async def test_openings_without_end_by_who_does_not_read_are_dropped(caplog, monkeypatch):
    monkeypatch.setattr(link, "MAX_UNSENT_BYTES", 1 << 18)
    async with scene(caplog) as found:
        # Sending waits for the peer to read.
        peer, ended = await found.attack(streams=trio.testing.lockstep_stream_pair())
        many = batch([(OPEN, opening(number)) for number in range(1, 10_001)])
        tracemalloc.start()
        try:
            with contextlib.suppress(trio.BrokenResourceError), trio.fail_after(300):
                for _ in count():
                    await peer.say(many)
                    assert tracemalloc.get_traced_memory()[0] < 40 * MEGABYTE
            await ended.wait()
        finally:
            tracemalloc.stop()
    assert "does not read" in caplog.text


async def test_openings_without_end_are_rejected(caplog):
    async with scene(caplog) as found:
        peer, ended = await found.attack()
        found.nursery.start_soon(discard, peer)
        many = batch([(OPEN, opening(number)) for number in range(1, 10_001)])
        for _ in range(20):
            await peer.say(many)
            await trio.testing.wait_all_tasks_blocked()
        assert not ended.is_set()
        await peer.hang_up()
        await ended.wait()


async def discard(peer):
    """Read what comes and forget it."""
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while await peer.stream.receive_some():
            pass


async def test_too_many_channels_at_once_are_dropped(caplog):
    async with scene(caplog) as found:
        peer, ended = await found.attack()
        await peer.say(batch([(OPEN, opening(number)) for number in range(1, 20_000)]))
        await let_go(peer, ended)
    assert "dropped a peer" in caplog.text


async def test_a_core_opened_and_closed_over_and_over_is_dropped_if_nobody_reads(
    caplog, monkeypatch
):
    monkeypatch.setattr(link, "MAX_UNSENT_BYTES", 1 << 18)
    async with scene(caplog) as found:
        peer, ended = await found.attack(streams=trio.testing.lockstep_stream_pair())
        proof = messages.capability(found.core.key, peer.handshake_hash, initiator=True)
        shown = messages.encode_handshake(messages.OpenHandshake(proof))
        once = (OPEN, opening(1, id=found.core.discovery_key, handshake=shown))
        many = batch([once, (CLOSE, b"\x01")] * 2000)
        with contextlib.suppress(trio.BrokenResourceError), trio.fail_after(60):
            while True:
                await peer.say(many)
        await ended.wait()
    assert "does not read" in caplog.text


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
async def test_thousands_of_requests_for_what_does_not_exist(request_, caplog):
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
            with contextlib.suppress(trio.BrokenResourceError), trio.fail_after(60):
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
        with trio.fail_after(20):
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
        with trio.fail_after(20):
            await copy.download(0, 100)
        assert copy.tree_hash() == core.tree_hash()
        for peer in silent:
            await peer.hang_up()
    assert "was not" not in caplog.text
