"""Cores nobody has open here: served on request, kept in a bounded cache, silent when idle."""

from __future__ import annotations

import threading
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

import corestore
from corestore import PeerAdded, PeerRemoved
from corestore.channels import OFFER_AGAIN_SECONDS
from corestore.commit import Commit, Run, StoredBlock
from corestore.storage import CoreRecord
from corestore.wire.mux import ChannelMessage, RemoteOpen
from tests.support.builders import FaultyStorage, RawPeer, block, eventually, linked, two_stores


@asynccontextmanager
async def many_cores(count, *, cache_size, folder=None):
    """(a store with *count* cores that nobody has open, their keys, another store)."""
    async with (
        corestore.open(folder, cache_size=cache_size) as holding,
        corestore.open(None) as asking,
    ):
        keys = []
        for number in range(count):
            async with await holding.get(name=str(number)) as core:
                await core.append(b"%d" % number)
                keys.append(core.key)
        await holding.sync()
        yield holding, keys, asking


def loaded(store):
    """The keys of the cores a store has in memory."""
    return {state.key for state in store._driver.states.values()}


@pytest.mark.parametrize("disk", [False, True], ids=["memory", "disk"])
async def test_passive_cores_are_bounded_and_active_ones_are_not_counted(tmp_path, disk):
    folder = tmp_path / "store" if disk else None
    async with many_cores(12, cache_size=4, folder=folder) as (store, keys, _):
        assert loaded(store) == set(keys[-4:])
        active = [await store.get(key=key) for key in keys[:6]]
        assert loaded(store) == {*keys[:6], *keys[-4:]}
        for core in active:
            await core.aclose()
        assert loaded(store) == set(keys[2:6])
        for number, key in enumerate(keys):
            async with await store.get(key=key) as core:
                assert await core.get(0) == b"%d" % number
                assert await core.append(b"more") == 2
        assert store.statistics().cores_open == 0


@pytest.mark.parametrize("disk", [False, True], ids=["memory", "disk"])
async def test_a_core_that_left_the_cache_is_served_when_asked_again(
    tmp_path, disk, autojump_clock
):
    """With its channel closed at the other end, and opened by who asks."""
    folder = tmp_path / "store" if disk else None
    async with (
        many_cores(9, cache_size=3, folder=folder) as (holding, keys, asking),
        linked(holding, asking),
    ):
        copies = [await asking.get(key=key) for key in keys]
        for number, copy in enumerate(copies):
            assert await copy.get(0) == b"%d" % number
        await eventually(lambda: sum(len(copy.peers) for copy in copies) == 3)
        assert [copy for copy in copies if copy.peers] == copies[-3:]
        for copy in copies:
            await copy.clear(0, 1)
        for number in (0, 8, 1, 5):
            assert await copies[number].get(0) == b"%d" % number
        await eventually(lambda: len(loaded(holding)) <= 3)


async def test_the_core_asked_for_longest_ago_leaves_first(autojump_clock):
    async with many_cores(4, cache_size=3) as (holding, keys, asking), linked(holding, asking):
        copies = [await asking.get(key=key) for key in keys]
        for index in (0, 1, 2, 0, 1):
            await copies[index].clear(0, 1)
            await copies[index].get(0)
        await copies[3].get(0)
        await eventually(lambda: len(loaded(holding)) <= 3)
        assert loaded(holding) == {keys[0], keys[1], keys[3]}


async def test_a_cache_of_none_still_serves(autojump_clock):
    async with many_cores(3, cache_size=0) as (holding, keys, asking), linked(holding, asking):
        for number, key in enumerate(keys):
            async with await asking.get(key=key) as copy:
                assert await copy.get(0) == b"%d" % number
        await eventually(lambda: loaded(holding) == set())


async def test_many_at_once_are_served_through_a_small_cache(autojump_clock, caplog):
    """More cores are wanted than fit at all: who was told that there is none asks again."""
    async with many_cores(30, cache_size=2) as (holding, keys, asking), linked(holding, asking):
        got = {}

        async def fetch(key):
            async with await asking.get(key=key) as copy:
                got[key] = await copy.get(0)

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for key in keys:
                    nursery.start_soon(fetch, key)
        assert [got[key] for key in keys] == [b"%d" % number for number in range(30)]
        assert "more cores at once" in caplog.text


async def test_a_core_that_is_not_published_yet_stays():
    storage = FaultyStorage()
    storage.hold = threading.Event()
    async with corestore.open(lambda: storage, cache_size=2) as store:
        waiting = await store.get(name="waiting")
        await waiting.append(b"x")
        await storage.syncing.wait()
        await waiting.aclose()
        for number in range(5):
            await (await store.get(key=bytes([number]) * 32)).aclose()
        assert waiting.key in loaded(store)
        storage.hold.set()
        await store.sync()
        await (await store.get(name="another")).aclose()
        await (await store.get(name="and another")).aclose()
        assert waiting.key not in loaded(store)


async def test_subscriptions_to_a_core_end_when_it_leaves():
    async with corestore.open(None, cache_size=1) as store:
        core = await store.get(name="a")
        with core.events() as events:
            await core.aclose()
            await (await store.get(name="b")).aclose()
            assert [type(event) async for event in events] == []


async def test_a_negative_cache_is_refused():
    with pytest.raises(ValueError, match="cache"):
        async with corestore.open(None, cache_size=-1):
            pass


# -- idle channels ---------------------------------------------------------------------------------


async def test_a_channel_nobody_needs_is_closed_and_opened_again_on_demand():
    async with many_cores(1, cache_size=10) as (holding, keys, asking), linked(holding, asking):
        copy = await asking.get(key=keys[0])
        with copy.events() as events:
            assert await copy.get(0) == b"0"
            session = copy.session()
            await copy.aclose()
            # Another handle is open: it stays.
            await trio.testing.wait_all_tasks_blocked()
            assert len(session.peers) == 1
            await session.aclose()
            state = asking._driver.find(keys[0].discovery_key)
            await eventually(lambda: not state.peers)
            kinds = []
            while (event := events.receive_nowait()) is not None:
                kinds.append(type(event))
            assert kinds[0] is PeerAdded
            assert kinds[-1] is PeerRemoved
        held = holding._driver.find(keys[0].discovery_key)
        await eventually(lambda: not held.peers)
        # Either side wakes it.
        async with await asking.get(key=keys[0]) as again:
            await again.wait_peers()
            assert not await again.update()
        await eventually(lambda: not held.peers)
        async with await holding.get(key=keys[0]) as writer:
            await writer.wait_peers()
        await eventually(lambda: not held.peers)
        assert len(holding._driver.links) == len(asking._driver.links) == 1


async def test_a_woken_core_is_followed_live():
    async with many_cores(1, cache_size=10) as (holding, keys, asking), linked(holding, asking):
        async with await asking.get(key=keys[0]) as copy:
            await copy.get(0)
        held = holding._driver.find(keys[0].discovery_key)
        await eventually(lambda: not held.peers)
        copy = await asking.get(key=keys[0])
        await copy.wait_peers()
        async with await holding.get(key=keys[0]) as writer:
            await writer.append(b"live")
            assert await copy.get(1) == b"live"


async def test_update_of_a_core_whose_channel_was_closed_asks_again(autojump_clock):
    async with many_cores(1, cache_size=0) as (holding, keys, asking), linked(holding, asking):
        copy = await asking.get(key=keys[0])
        await copy.update()
        # The holder forgets it before long.
        await eventually(lambda: not copy.peers)
        async with await holding.get(key=keys[0]) as writer:
            await writer.append(b"more")
            await holding.sync()
        await eventually(lambda: not copy.peers)
        await copy.update()
        assert copy.length == 2


async def test_a_core_wanted_before_the_peer_knows_it_comes_when_it_does(autojump_clock):
    """Even if the peer never opens it itself: it is asked for again from time to time."""
    async with two_stores(count=1) as (source, asking, core), corestore.open(None) as holding:
        copy = await asking.get(key=core.key)
        async with linked(holding, asking), trio.open_nursery() as nursery:
            got = trio.Event()

            async def get():
                assert await copy.get(0) == block(0)
                got.set()

            nursery.start_soon(get)
            await trio.sleep(2 * OFFER_AGAIN_SECONDS)
            assert not got.is_set()
            # It comes in as if another process had brought it, and nobody here opens it.
            record = CoreRecord(core.key, core.manifest.encode())
            stored = holding._storage.create_core(record)
            state = source._driver.find(core.discovery_key)
            nodes = [state.node(0)]
            run = Run(0, 1, True)
            blocks = [StoredBlock(0, 0, block(0))]
            commit = Commit(blocks=blocks, nodes=nodes, runs=(run,), head=state.published)
            holding._storage.commit([(stored, commit)])
            with trio.fail_after(2 * OFFER_AGAIN_SECONDS):
                await got.wait()


async def opened_by_store(peer, core):
    """Wait until the store at the other end asks for *core*."""
    while (await peer.wait_for(RemoteOpen)).id != core.discovery_key:
        pass


async def test_a_channel_the_peer_closes_is_opened_again_for_who_waits(nursery, autojump_clock):
    """As a peer does whose cache of cores is too small."""
    async with corestore.open(None) as store:
        core = await store.get(key=bytes(range(32)))
        near, far = trio.testing.memory_stream_pair()
        nursery.start_soon(lambda: store.replicate(near, initiator=False))
        peer = RawPeer(far)
        await peer.shake_hands()
        waiting = trio.CancelScope()

        async def wait():
            with waiting:
                await core.wait_length(1)

        nursery.start_soon(wait)
        for _ in range(3):
            await opened_by_store(peer, core)
            channel = peer.open(core)
            await peer.flush()
            await peer.wait_for(ChannelMessage)
            channel.close()
            await peer.flush()
        waiting.cancel()
        with trio.move_on_after(20) as silence:
            # The last one that was on its way, and no more.
            await opened_by_store(peer, core)
            await opened_by_store(peer, core)
        assert silence.cancelled_caught
