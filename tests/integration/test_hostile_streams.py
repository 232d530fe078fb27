"""Streams that break the rules of the handshake, of frames or of the multiplexer, next to one that
keeps them: that one gets, and gives, everything.

`scene` checks at its end that the reader has all blocks, that both stores still work, and that
nothing the hostile peer sent was a surprise to the code.
"""

from __future__ import annotations

import contextlib
import random
import tracemalloc
from itertools import count

import pytest
import trio
import trio.lowlevel
import trio.testing

from corestore import holdings, link
from corestore.encoding import encode_uint
from corestore.replication import messages
from corestore.replication.messages import Data, RequestMessage, Want
from corestore.tree import BlockRequest, Request, UpgradeRequest
from corestore.wire.mux import ChannelMessage
from corestore.wire.noise import MESSAGE_BYTES
from tests.support.builders import block, fill
from tests.support.hostile import CLOSE, GREATEST, OPEN, batch, discard, let_go, opening, scene
from tests.support.limits import HANG_SECONDS

MEGABYTE = 1 << 20


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
    monkeypatch.setattr(holdings, "MAX_BYTES", 4 * MEGABYTE)
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
        with trio.fail_after(HANG_SECONDS):
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
            with contextlib.suppress(trio.BrokenResourceError), trio.fail_after(HANG_SECONDS):
                for _ in count():
                    await peer.say(many)
                    assert tracemalloc.get_traced_memory()[0] < 40 * MEGABYTE
            await ended.wait()
        finally:
            tracemalloc.stop()
    assert "does not read" in caplog.text


@pytest.fixture
def unhurried(monkeypatch):
    """What a turn takes does not depend on the machine's speed."""
    monkeypatch.setattr(link, "SLICE_SECONDS", 1000)


@pytest.fixture
def little_room(monkeypatch):
    """What waits for those who do not read has less room than two of them take here."""
    monkeypatch.setattr(holdings, "LARGE_BYTES", 1 << 15)
    monkeypatch.setattr(holdings, "MAX_BYTES", 70 << 10)


async def refuse_much(peer):
    """Have some 45 KB of refusals written to a peer that does not read them."""
    many = batch([(OPEN, opening(number)) for number in range(1, 251)])
    # The first one is being written, and all others wait until that is read.
    await peer.say(batch([(OPEN, opening(1))]))
    await trio.testing.wait_all_tasks_blocked()
    for _ in range(50):
        await peer.say(many)
    await trio.testing.wait_all_tasks_blocked()


@pytest.mark.usefixtures("unhurried", "little_room")
async def test_many_who_do_not_read_do_not_fill_the_memory(caplog):
    async with scene(caplog) as found:
        attacks = []
        for _ in range(4):
            peer, ended = await found.attack(streams=trio.testing.lockstep_stream_pair())
            attacks.append(ended)
            await refuse_much(peer)
        # Who came first has not read for longest.
        assert [ended.is_set() for ended in attacks] == [True] * 3 + [False]
    assert caplog.text.count("does not read what it is sent, and others need the room") == 3


@pytest.mark.usefixtures("unhurried", "little_room")
async def test_what_is_being_written_to_who_does_not_read_on_is_bounded_too(caplog):
    async with scene(caplog) as found:
        attacks = []
        for _ in range(4):
            peer, ended = await found.attack(streams=trio.testing.lockstep_stream_pair())
            attacks.append(ended)
            await refuse_much(peer)
            # Now all that waited is being written.
            assert await peer.receive()
            await trio.testing.wait_all_tasks_blocked()
        assert [ended.is_set() for ended in attacks] == [True] * 3 + [False]


@pytest.mark.usefixtures("unhurried")
async def test_who_reads_slowly_is_not_dropped_for_those_who_do_not(caplog, monkeypatch):
    monkeypatch.setattr(holdings, "LARGE_BYTES", 1 << 15)
    monkeypatch.setattr(holdings, "MAX_BYTES", 200 << 10)
    monkeypatch.setattr(link, "CHUNK_BYTES", 1 << 10)
    async with scene(caplog) as found:
        attacked = {"victim": found.writing}
        streams = trio.testing.lockstep_stream_pair
        slow, dropped = await found.attack(streams=streams(), **attacked)
        channel = await slow.open_core(found.core)
        wanted = [Request(0, BlockRequest(index, 0)) for index in range(200)]
        # Some 100 KB of requests wait here all the time.
        await slow.tell(
            channel, *[RequestMessage(at, each, False, 0) for at, each in enumerate(wanted, 1)]
        )
        attacks = []
        for _ in range(6):
            await trio.testing.wait_all_tasks_blocked()
            assert await slow.receive()
            peer, ended = await found.attack(streams=streams(), **attacked)
            attacks.append(ended)
            await refuse_much(peer)
        assert attacks[0].is_set()
        assert not dropped.is_set()


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
        with contextlib.suppress(trio.BrokenResourceError), trio.fail_after(HANG_SECONDS):
            while True:
                await peer.say(many)
        await ended.wait()
    assert "does not read" in caplog.text
