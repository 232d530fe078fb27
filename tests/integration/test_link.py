"""Two stores over one stream in memory, and peers that do not behave."""

from __future__ import annotations

import contextlib
import errno
import logging
import random
from functools import partial

import pytest
import trio
import trio.testing

import corestore
from corestore import Downloaded, PeerAdded, PeerRemoved
from corestore.link import HANDSHAKE_SECONDS, Link
from corestore.replication import messages
from corestore.tree import BlockRequest, Request
from corestore.wire.mux import ChannelClosed, ChannelMessage, ChannelOpened
from tests.support.builders import (
    FaultyStorage,
    RawPeer,
    block,
    eventually,
    fill,
    linked,
    open_with,
    two_stores,
)
from tests.support.limits import HANG_SECONDS

# -- what two stores do ----------------------------------------------------------------------------


async def test_a_reader_gets_what_the_writer_has():
    async with two_stores(count=300, size=1000) as (writing, reading, core):
        copy = await reading.get(key=core.key)
        async with linked(writing, reading):
            assert await copy.update()
            assert (copy.length, copy.fork, copy.writable) == (300, 0, False)
            assert await copy.get(123) == block(123, 1000)
            assert copy.statistics().blocks_held == 1
            await copy.download()
            assert copy.contiguous_length == 300
            assert copy.tree_hash() == core.tree_hash()
            assert [b async for b in copy.blocks()] == [block(i, 1000) for i in range(300)]


async def test_a_reader_sees_appends_live():
    async with two_stores(count=1) as (writing, reading, core), linked(writing, reading):
        copy = await reading.get(key=core.key)
        await copy.update()
        seen = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fill, core, 3)
            async for each in copy.blocks(live=True):
                seen.append(each)
                if len(seen) == 4:
                    break
        assert seen == [block(0), block(0), block(1), block(2)]


async def test_a_reader_hears_nothing_of_what_is_not_durable():
    storage = FaultyStorage()
    async with open_with(storage) as writing, corestore.open(None) as reading:
        core = await writing.get(name="log")
        await fill(core, 2)
        await writing.sync()
        copy = await reading.get(key=core.key)
        async with linked(writing, reading):
            await copy.update()
            storage.errors["flush"] = OSError(errno.EIO, "broken")
            await core.append(b"lost in a power cut")
            with pytest.raises(corestore.StorageError):
                await writing.sync()
            await trio.testing.wait_all_tasks_blocked()
            assert (core.length, copy.length) == (3, 2)
            assert await copy.get(1) == block(1)


async def test_a_core_opened_later_joins_the_link():
    async with two_stores() as (writing, reading, _), linked(writing, reading):
        core = await writing.get(name="later")
        await fill(core, 3)
        await writing.sync()
        copy = await reading.get(key=core.key)
        with trio.fail_after(HANG_SECONDS):
            assert await copy.get(2) == block(2)


async def test_a_core_the_reader_opens_first_is_found_when_the_writer_makes_it():
    async with two_stores() as (writing, reading, _), linked(writing, reading):
        pair = writing.key_pair("later")
        key = corestore.manifest_key(corestore.Manifest.default(pair.public_key))
        copy = await reading.get(key=key)
        assert not await copy.update()
        core = await writing.get(name="later")
        await core.append(b"here")
        with trio.fail_after(HANG_SECONDS):
            assert await copy.get(0) == b"here"


async def test_a_core_nobody_has_open_is_served():
    async with two_stores(count=5) as (writing, reading, core):
        await core.aclose()
        copy = await reading.get(key=core.key)
        async with linked(writing, reading):
            with trio.fail_after(HANG_SECONDS):
                assert await copy.get(4) == block(4)


async def test_two_cores_share_a_link_and_strangers_stay_unmentioned():
    async with two_stores(count=5) as (writing, reading, core), linked(writing, reading):
        await writing.get(name="private")
        stranger = await reading.get(key=bytes(32))
        copy = await reading.get(key=core.key)
        await copy.download(0, 5)
        assert not await stranger.update()
        assert stranger.peers == []
        assert len(list(reading.cores())) == 2


async def test_readers_serve_each_other():
    async with two_stores(count=50) as (writing, middle, core):
        relay = await middle.get(key=core.key)
        async with linked(writing, middle):
            await relay.update()
            await relay.download()
        async with corestore.open(None) as far, linked(middle, far):
            copy = await far.get(key=core.key)
            await copy.update()
            await copy.download()
            assert copy.tree_hash() == core.tree_hash()


async def test_a_truncation_is_followed():
    async with two_stores(count=10) as (writing, reading, core), linked(writing, reading):
        copy = await reading.get(key=core.key)
        await copy.update()
        await copy.download()
        await core.truncate(4)
        await core.append(b"other")
        await writing.sync()
        await eventually(lambda: (copy.fork, copy.length) == (1, 5))
        assert [await copy.get(i) for i in (3, 4)] == [block(3), b"other"]


async def test_a_range_of_bytes_is_read_without_the_rest():
    async with two_stores(count=200) as (writing, reading, core), linked(writing, reading):
        copy = await reading.get(key=core.key)
        await copy.update()
        assert await copy.read(10_050, 100) == block(100)[50:] + block(101)[:50]
        assert copy.statistics().blocks_held == 2


async def test_two_links_to_one_peer_do_no_harm():
    async with two_stores(count=100) as (writing, reading, core):
        copy = await reading.get(key=core.key)
        async with linked(writing, reading), linked(reading, writing):
            await copy.update()
            await copy.download()
            assert len(copy.peers) == 2
            assert copy.tree_hash() == core.tree_hash()
            await core.append(b"more")
            with trio.fail_after(HANG_SECONDS):
                assert await copy.get(100) == b"more"


async def test_a_link_cut_in_the_middle_is_resumed_by_the_next():
    async with two_stores(count=500, size=5000) as (writing, reading, core):
        copy = await reading.get(key=core.key)
        async with trio.open_nursery() as nursery:
            with copy.events() as events:
                async with linked(writing, reading) as (near, _):
                    await copy.update()
                    nursery.start_soon(copy.download)
                    arrived = 0
                    while arrived < 50:
                        arrived += isinstance(await events.receive(), Downloaded)
                    await trio.aclose_forcefully(near)
                await eventually(lambda: copy.peers == [])
            held = copy.statistics().blocks_held
            assert 50 <= held < 500
            async with linked(writing, reading):
                await eventually(lambda: copy.contiguous_length == 500)
        assert copy.statistics().blocks_received == 500
        assert copy.tree_hash() == core.tree_hash()


async def test_peers_are_reported_as_they_come_and_go():
    async with two_stores(count=1) as (writing, reading, core):
        with core.events() as events:
            copy = await reading.get(key=core.key)
            async with linked(writing, reading):
                await copy.update()
                assert len(core.peers) == 1
            assert core.peers == []
        kinds = [type(event) for event in [e async for e in events]]
        assert kinds == [PeerAdded, PeerRemoved]


async def test_a_cancelled_get_leaves_the_others_alone():
    async with two_stores(count=3) as (writing, reading, core):
        copy = await reading.get(key=core.key)
        got = []

        async def get(index):
            got.append(await copy.get(index))

        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:
                nursery.start_soon(get, 1)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
                await copy.get(1)
            async with linked(writing, reading):
                await eventually(lambda: got == [block(1)])


async def test_blocks_that_are_fetched_together_overtake_those_hinted_at(monkeypatch):
    overtaking = []
    serve = Link.serve

    def noting(link, channel, request):
        if request.priority:
            overtaking.append(request.request.block.index)
        serve(link, channel, request)

    monkeypatch.setattr(Link, "serve", noting)
    async with two_stores(count=200) as (writing, reading, core):
        copy = await reading.get(key=core.key)
        async with linked(writing, reading):
            await copy.update()
            copy.hint(range(100, 200))
            with trio.fail_after(HANG_SECONDS):
                await copy.fetch([30, 10, 20])
            assert overtaking == [30, 10, 20]
            assert [index for index in range(100) if copy.has(index)] == [10, 20, 30]
            with pytest.raises(ValueError, match="no block -1"):
                await copy.fetch([10, -1])


async def test_a_cancelled_fetch_is_not_asked_for_any_more():
    async with two_stores(count=9) as (writing, reading, core):
        copy = await reading.get(key=core.key)
        async with linked(writing, reading):
            await copy.update()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(copy.fetch, [2, 4, 11])
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        async with linked(writing, reading):
            assert await copy.get(6) == block(6)
            await trio.testing.wait_all_tasks_blocked()
            assert copy.statistics().blocks_held == 1


async def test_a_fetch_ends_when_its_core_is_closed():
    async with two_stores(count=9) as (writing, reading, core):
        copy = await reading.get(key=core.key)
        async with linked(writing, reading):
            await copy.update()

        async def told(*blocks):
            with pytest.raises(trio.ClosedResourceError):
                await copy.fetch(blocks)

        with trio.fail_after(HANG_SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(told, 2, 4, 11)
                nursery.start_soon(told, 11)
                await trio.testing.wait_all_tasks_blocked()
                await copy.aclose()
            await told(2)


async def test_a_fetch_waits_for_what_is_not_written_yet():
    async with two_stores(count=3) as (writing, reading, core):
        copy = await reading.get(key=core.key)
        async with linked(writing, reading), trio.open_nursery() as nursery:
            nursery.start_soon(copy.fetch, [1, 4])
            await eventually(lambda: copy.has(1))
            await fill(core, 2, start=3)
            await eventually(lambda: copy.has(4))


async def test_a_core_can_be_replicated_alone():
    async with two_stores(count=2) as (writing, reading, core):
        other = await writing.get(name="other")
        await fill(other, 2)
        await writing.sync()
        copy, hidden = await reading.get(key=core.key), await reading.get(key=other.key)
        near, far = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: core.replicate(near, initiator=True))
            nursery.start_soon(lambda: reading.replicate(far, initiator=False))
            with trio.fail_after(HANG_SECONDS):
                assert await copy.get(1) == block(1)
            assert not await hidden.update()
            nursery.cancel_scope.cancel()


async def test_what_cannot_be_stored_is_told_to_who_asked(autojump_clock, caplog):
    storage = FaultyStorage()
    async with two_stores(count=3) as (writing, _, core), open_with(storage) as reading:
        copy = await reading.get(key=core.key)
        async with linked(writing, reading):
            await copy.update()
            storage.errors["commit"] = OSError(errno.ENOSPC, "full")
            with pytest.raises(OSError, match="full"):
                await copy.get(0)
            # The disk has room again.
            with trio.fail_after(10):
                assert await copy.get(0) == block(0)


# -- peers that do not behave ----------------------------------------------------------------------


async def raw_peer(nursery, store, streams=None):
    """A raw peer, connected to *store*, and an event that is set when the store's side ended."""
    near, far = streams or trio.testing.memory_stream_pair()
    ended = trio.Event()

    async def run():
        await store.replicate(near, initiator=False)
        ended.set()

    nursery.start_soon(run)
    return RawPeer(far), ended


@pytest.mark.parametrize(
    "sent", [b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 100, b"\x20\x00\x00" + bytes(32)]
)
async def test_what_is_no_peer_is_dropped_with_a_reason(sent, caplog):
    async with corestore.open(None) as store:
        near, far = trio.testing.memory_stream_pair()
        await far.send_all(sent)
        with trio.fail_after(HANG_SECONDS):
            await store.replicate(near, initiator=False)
        assert await far.receive_some() == b""
    assert "dropped a peer" in caplog.text


async def test_who_says_nothing_is_dropped(autojump_clock, caplog):
    async with corestore.open(None) as store:
        near, _far = trio.testing.memory_stream_pair()
        before = trio.current_time()
        await store.replicate(near, initiator=False)
        assert trio.current_time() - before == pytest.approx(HANDSHAKE_SECONDS)
    assert "no handshake" in caplog.text


async def test_who_stops_in_the_handshake_is_dropped(autojump_clock, nursery, caplog):
    async with corestore.open(None) as store:
        peer, ended = await raw_peer(nursery, store)
        await peer.flush()
        before = trio.current_time()
        await ended.wait()
        assert trio.current_time() - before == pytest.approx(HANDSHAKE_SECONDS)


async def test_a_stream_that_ends_ends_quietly(nursery, caplog):
    caplog.set_level(logging.WARNING)
    async with corestore.open(None) as store:
        peer, ended = await raw_peer(nursery, store)
        await peer.shake_hands()
        await peer.stream.aclose()
        await ended.wait()
    assert caplog.text == ""


async def test_silence_is_filled_with_keepalives(autojump_clock, nursery):
    async with corestore.open(None) as store:
        peer, _ = await raw_peer(nursery, store)
        await peer.shake_hands()
        await peer.receive()
        before = trio.current_time()
        frames = [await peer.stream.receive_some() for _ in range(3)]
        assert trio.current_time() - before == pytest.approx(15, abs=1)
        # An empty message: three bytes of length, seventeen of cipher.
        assert [len(frame) for frame in frames] == [20, 20, 20]


async def test_who_does_not_know_the_key_is_dropped_and_learns_nothing(nursery, caplog):
    async with corestore.open(None) as store:
        core = await store.get(name="log")
        await fill(core, 3)
        await core.aclose()
        peer, ended = await raw_peer(nursery, store)
        await peer.shake_hands()
        peer.open(core, key=bytes(32))
        await peer.flush()
        assert await peer.wait_for(ChannelOpened) is None
        await ended.wait()
    assert "without knowing the key" in caplog.text


async def test_unknown_cores_and_protocols_are_rejected_and_the_link_lives(nursery):
    async with corestore.open(None) as store, corestore.open(None) as elsewhere:
        unknown = await elsewhere.get(name="unknown")
        core = await store.get(name="log")
        await core.append(b"x")
        await core.aclose()
        peer, _ = await raw_peer(nursery, store)
        await peer.shake_hands()
        peer.open(unknown)
        peer.mux.open("something/else", b"id")
        peer.mux.open(messages.PROTOCOL, None)
        await peer.flush()
        closed = [await peer.wait_for(ChannelClosed) for _ in range(3)]
        assert all(event.rejected for event in closed)
        peer.open(core)
        await peer.flush()
        assert await peer.wait_for(ChannelOpened)


async def test_who_asks_and_does_not_read_is_dropped(nursery, caplog, monkeypatch):
    monkeypatch.setattr(corestore.link, "MAX_QUEUED_REQUESTS", 100)
    async with corestore.open(None) as store:
        core = await store.get(name="log")
        await fill(core, 3)
        await store.sync()
        # On this stream sending waits for the other side to read.
        peer, ended = await raw_peer(nursery, store, trio.testing.lockstep_stream_pair())
        await peer.shake_hands()
        channel = peer.open(core)
        await peer.flush()
        await peer.wait_for(ChannelOpened)
        for id_ in range(1, 200):
            request = Request(block=BlockRequest(0, 1))
            peer.send(channel, messages.RequestMessage(id_, request))
        await peer.flush()
        await ended.wait()
    assert "more than 100 requests" in caplog.text


async def test_one_bad_peer_does_not_disturb_the_others(nursery, caplog):
    async with two_stores(count=20) as (writing, reading, core):
        copy = await reading.get(key=core.key)
        async with linked(writing, reading):
            await copy.update()
            peer, ended = await raw_peer(nursery, reading)
            await peer.shake_hands()
            channel = peer.open(core)
            await peer.flush()
            await peer.wait_for(ChannelOpened)
            channel.send(messages.MessageType.DATA, b"\xff\xff garbage")
            await peer.flush()
            await ended.wait()
            await copy.download()
            assert copy.tree_hash() == core.tree_hash()
    assert "dropped a peer" in caplog.text


@pytest.mark.parametrize("kind", range(11))
async def test_no_message_of_any_bytes_is_a_surprise(kind, nursery, caplog):
    rng = random.Random(kind)
    async with corestore.open(None) as store:
        core = await store.get(name="log")
        await fill(core, 5)
        await store.sync()
        stranger = await store.get(key=bytes(32))
        for round_ in range(60):
            peer, ended = await raw_peer(nursery, store)
            await peer.shake_hands()
            channel = peer.open(core if round_ % 2 else stranger)
            for _ in range(4):
                length = rng.choice((0, 1, 3, 8, 40, 200))
                small = bytes(rng.randrange(12) for _ in range(length))
                channel.send(kind, small if rng.random() < 0.7 else rng.randbytes(length))
            with contextlib.suppress(trio.BrokenResourceError):
                await peer.flush()
            await trio.testing.wait_all_tasks_blocked()
            await peer.stream.aclose()
            await ended.wait()
        assert await core.append(b"still here") == 6
        await store.sync()
    assert "was not" not in caplog.text


async def test_requests_are_answered_by_who_has_the_block(nursery):
    async with corestore.open(None) as store:
        core = await store.get(name="log")
        await fill(core, 3)
        await store.sync()
        peer, _ = await raw_peer(nursery, store)
        await peer.shake_hands()
        channel = peer.open(core)
        for id_, index in ((1, 1), (2, 7)):
            request = Request(block=BlockRequest(index, 1))
            peer.send(channel, messages.RequestMessage(id_, request))
        await peer.flush()
        answers = {}
        while len(answers) < 2:
            event = await peer.wait_for(ChannelMessage)
            message = messages.decode(event.type, event.body)
            if isinstance(message, messages.Data | messages.NoData):
                answers[message.id] = message
        assert answers[1].proof.block.value == block(1)
        assert isinstance(answers[2], messages.NoData)


async def test_requests_with_a_priority_are_answered_first(nursery):
    async with corestore.open(None) as store:
        core = await store.get(name="log")
        await fill(core, 40)
        await store.sync()
        peer, _ = await raw_peer(nursery, store)
        await peer.shake_hands()
        channel = peer.open(core)
        for id_ in range(1, 41):
            request = Request(block=BlockRequest(id_ - 1, 1))
            peer.send(channel, messages.RequestMessage(id_, request, priority=id_ > 38))
        await peer.flush()
        answered = []
        while len(answered) < 40:
            event = await peer.wait_for(ChannelMessage)
            message = messages.decode(event.type, event.body)
            if isinstance(message, messages.Data):
                answered.append(message.id)
        assert answered == [39, 40, *range(1, 39)]


async def test_closing_the_store_ends_its_links():
    async with trio.open_nursery() as nursery:
        near, far = trio.testing.memory_stream_pair()
        async with corestore.open(None) as store, corestore.open(None) as other:
            await other.get(name="log")
            nursery.start_soon(lambda: store.replicate(near, initiator=True))
            nursery.start_soon(lambda: other.replicate(far, initiator=False))
            await trio.testing.wait_all_tasks_blocked()
            assert store.statistics().links == 1
        # The nursery ends by itself: both replicate calls have returned.


# -- all of it at random ---------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
async def test_copies_become_equal_whatever_happened_on_the_way(seed, autojump_clock):
    rng = random.Random(seed)
    async with two_stores() as (writing, reading, core), trio.open_nursery() as nursery:
        copy = await reading.get(key=core.key)
        nursery.start_soon(partial(copy.download, live=True))
        model = []

        async def connect():
            async with linked(writing, reading):
                await trio.sleep(rng.expovariate(2))

        async def read():
            while True:
                if copy.length:
                    with trio.move_on_after(1):
                        await copy.get(rng.randrange(copy.length))
                await trio.sleep(rng.random())

        for _ in range(2):
            nursery.start_soon(read)
        for _ in range(60):
            action = rng.random()
            if action < 0.5:
                new = [rng.randbytes(rng.randrange(2000)) for _ in range(rng.randrange(1, 40))]
                await core.append(*new)
                model += new
            elif action < 0.6 and model:
                length = rng.randrange(len(model) + 1)
                await core.truncate(length)
                del model[length:]
            elif action < 0.7 and model:
                start = rng.randrange(len(model))
                await copy.clear(start, start + rng.randrange(20))
            elif action < 0.9:
                nursery.start_soon(connect)
            await trio.sleep(rng.random() / 4)
        async with linked(writing, reading):
            await writing.sync()
            await eventually(lambda: (copy.fork, copy.length) == (core.fork, len(model)))
            with trio.fail_after(60):
                await copy.download()
        assert copy.tree_hash() == core.tree_hash()
        assert [await copy.get(index) for index in range(len(model))] == model
        nursery.cancel_scope.cancel()


async def test_a_core_removed_here_is_not_spoken_of_any_more():
    async with two_stores(count=3) as (writing, reading, core):
        copy = await reading.get(key=core.key)
        async with linked(writing, reading):
            await copy.update()
            await core.aclose()
            await writing.remove(core.discovery_key)
            await eventually(lambda: copy.peers == [])
            await writing.get(name="another")
            assert not await copy.update()


async def test_attaching_a_stream_again_is_harmless_and_joins_it(nursery):
    """As programs do that attach the store, and its main core as well, to every connection."""
    async with two_stores(count=5) as (writing, reading, core):
        near, far = trio.testing.memory_stream_pair()
        copy = await reading.get(key=core.key)
        ended = []

        async def attach(what, stream, initiator):
            await what.replicate(stream, initiator=initiator)
            ended.append(what)

        for what in (core, writing, writing, core):
            nursery.start_soon(attach, what, near, True)
        for what in (copy, copy, reading):
            nursery.start_soon(attach, what, far, False)
        assert await copy.get(4) == block(4)
        other = await writing.get(name="another")
        await other.append(b"x")
        assert await (await reading.get(key=other.key)).get(0) == b"x"
        assert len(copy.peers) == 1
        assert writing.statistics().links == reading.statistics().links == 1
        with pytest.raises(ValueError, match="in use"):
            await reading.replicate(far, initiator=True)
        await near.aclose()
        await eventually(lambda: len(ended) == 7)


async def test_a_stream_attached_for_one_core_carries_no_other_until_it_is_told_to(nursery):
    async with two_stores(count=1) as (writing, reading, core):
        near, far = trio.testing.memory_stream_pair()
        other = await writing.get(name="another")
        copy, second = [await reading.get(key=each.key) for each in (core, other)]
        nursery.start_soon(partial(core.replicate, near, initiator=True))
        nursery.start_soon(partial(reading.replicate, far, initiator=False))
        assert await copy.get(0) == block(0)
        assert second.peers == []
        nursery.start_soon(partial(other.replicate, near, initiator=True))
        await second.wait_peers()
