"""Cores between us and Node peers of both generations: whole, live, sparse, by bytes; whoever
dialled, whoever is initiator."""

from __future__ import annotations

import pytest

import corestore
from corestore import background
from tests.support.interop import connected, digest, hexes, made_blocks, peers, tree_hash
from tests.support.node import node_peer

pytestmark = pytest.mark.interop

EVERY_SIDE = [
    pytest.mark.parametrize("generation", [10, 11]),
    pytest.mark.parametrize("dial", [True, False], ids=["dialling", "listening"]),
    pytest.mark.parametrize("initiator", [True, False], ids=["initiator", "responder"]),
]


of_every_generation = EVERY_SIDE[0]


def on_every_side(test):
    for mark in EVERY_SIDE:
        test = mark(test)
    return test


@on_every_side
async def test_node_downloads_our_core_and_follows_it(tmp_path, generation, initiator, dial):
    async with peers(tmp_path, generation=generation, initiator=initiator, dial=dial) as (
        store,
        node,
        connect,
    ):
        # 1. We have a core with blocks of all sizes, the empty one too.
        core = await store.get(name="ours")
        blocks = [b"", b"x", *made_blocks("ours", 60, 1000), *made_blocks("large", 3, 65536)]
        await core.append(*blocks)
        await store.sync()
        # 2. Node knows its key, connects, and downloads all of it.
        theirs = await node("core", key=core.key.hex())
        assert theirs["length"] == 0
        await connect()
        await node("waitLength", core=0, length=len(blocks))
        info = await node("download", core=0, end=len(blocks))
        assert info["length"] == info["contiguousLength"] == len(blocks)
        assert info["byteLength"] == core.byte_length
        assert info["treeHash"] == tree_hash(core)
        assert await node("digest", core=0) == digest(blocks)
        # 3. We append; Node hears of it without asking, and gets the new block.
        for length in range(len(blocks), len(blocks) + 3):
            await core.append(b"live %d" % length)
            await store.sync()
            assert (await node("waitLength", core=0, length=length + 1))["length"] == length + 1
            assert await node("get", core=0, index=length) == (b"live %d" % length).hex()
        assert (await node("info", core=0))["treeHash"] == tree_hash(core)


@on_every_side
async def test_we_download_a_core_of_node_and_follow_it(tmp_path, generation, initiator, dial):
    async with peers(tmp_path, generation=generation, initiator=initiator, dial=dial) as (
        store,
        node,
        connect,
    ):
        # 1. Node has a core.
        await node("core", name="theirs")
        info = await node("appendMany", core=0, seed="theirs", count=200, size=3000)
        blocks = made_blocks("theirs", 200, 3000)
        # 2. We know its key, connect, and download all of it.
        core = await store.get(key=info["key"])
        assert core.length == 0
        await connect()
        await core.wait_length(200)
        await core.download(0, 200)
        assert core.contiguous_length == 200
        assert core.byte_length == info["byteLength"]
        assert tree_hash(core) == info["treeHash"]
        assert [core.get_nowait(i) for i in range(200)] == blocks
        # 3. Node appends; we hear of it without asking, and get the new block.
        for length in range(200, 203):
            block = b"live %d" % length
            info = await node("append", core=0, blocks=hexes(block))
            await core.wait_length(length + 1)
            assert await core.get(length) == block
        assert tree_hash(core) == info["treeHash"]


@of_every_generation
async def test_we_get_single_blocks_from_node_and_no_others(tmp_path, generation):
    async with peers(tmp_path, generation=generation) as (store, node, connect):
        await node("core", name="theirs")
        info = await node("appendMany", core=0, seed="theirs", count=500, size=2000)
        blocks = made_blocks("theirs", 500, 2000)
        core = await store.get(key=info["key"])
        await connect()
        for index in (499, 0, 250, 251, 3):
            assert await core.get(index) == blocks[index]
        assert sum(core.has(i) for i in range(500)) == 5
        assert core.contiguous_length == 1
        assert store.statistics().bytes_received < 40_000


@of_every_generation
async def test_node_gets_single_blocks_from_us_and_no_others(tmp_path, generation):
    async with peers(tmp_path, generation=generation) as (store, node, connect):
        core = await store.get(name="ours")
        blocks = made_blocks("ours", 500, 2000)
        await core.append(*blocks)
        await store.sync()
        await node("core", key=core.key.hex())
        await connect()
        await node("waitLength", core=0, length=500)
        for index in (499, 0, 250, 251, 3):
            assert await node("get", core=0, index=index) == blocks[index].hex()
        assert (await node("info", core=0))["contiguousLength"] == 1
        assert not await node("has", core=0, start=100)


async def test_we_pass_on_what_we_got_from_node(tmp_path):
    """Node writes, we mirror, another Node that never meets the first reads from us."""
    first, second = tmp_path / "first", tmp_path / "second"
    async with peers(first) as (store, writer, connect), node_peer() as reader:
        await writer("core", name="log")
        info = await writer("appendMany", core=0, seed="log", count=100, size=500)
        core = await store.get(key=info["key"])
        await connect()
        await core.wait_length(100)
        await core.download(0, 100)
        await writer("hangUp")

        await reader("store", folder=str(second))
        await reader("core", key=info["key"])
        async with connected(store, reader):
            await reader("waitLength", core=0, length=100)
            await reader("download", core=0, end=100)
            assert await reader("digest", core=0) == digest(made_blocks("log", 100, 500))


@of_every_generation
async def test_many_cores_share_one_stream_and_unknown_ones_are_refused(tmp_path, generation):
    async with peers(tmp_path, generation=generation) as (store, node, connect):
        stranger = await store.get(name="only ours")
        await stranger.append(b"not for them")
        cores = []
        for number in range(20):
            await node("core", name=f"theirs {number}")
            info = await node("append", core=number, blocks=hexes(b"block %d" % number))
            cores.append(await store.get(key=info["key"]))
        await connect()
        for number, core in enumerate(cores):
            assert await core.get(0) == b"block %d" % number
        assert stranger.peers == []


@of_every_generation
async def test_a_core_opened_later_uses_the_stream_that_is_there(tmp_path, generation):
    async with peers(tmp_path, generation=generation) as (store, node, connect):
        await connect()
        core = await store.get(name="ours")
        await core.append(b"late")
        await store.sync()
        await node("core", key=core.key.hex())
        assert await node("get", core=0, index=0) == b"late".hex()

        info = await node("core", name="theirs")
        await node("append", core=1, blocks=hexes(b"late too"))
        theirs = await store.get(key=info["key"])
        assert await theirs.get(0) == b"late too"


async def test_our_swarm_dials_node_and_node_dials_our_swarm(tmp_path):
    async with node_peer() as node, corestore.open(None) as store:
        await node("store", folder=str(tmp_path))
        ours = await store.get(name="ours")
        await ours.append(b"from us")
        await store.sync()
        info = await node("core", name="theirs")
        await node("append", core=0, blocks=hexes(b"from node"))
        theirs = await store.get(key=info["key"])
        async with corestore.open_swarm(store) as swarm:
            port = await node("listen", initiator=False)
            swarm.connect("127.0.0.1", port)
            assert await theirs.get(0) == b"from node"
        async with corestore.open_swarm(store) as swarm:
            _, port = await swarm.listen("127.0.0.1", 0)
            await node("dial", port=port, initiator=True)
            await node("core", key=ours.key.hex())
            assert await node("get", core=1, index=0) == b"from us".hex()


@of_every_generation
async def test_a_core_closed_here_is_opened_again_on_the_same_stream(tmp_path, generation):
    async with peers(tmp_path, generation=generation) as (store, node, connect):
        await node("core", name="theirs")
        info = await node("appendMany", core=0, seed="theirs", count=3, size=10)
        await connect()
        for index, expected in enumerate(made_blocks("theirs", 3, 10)):
            async with await store.get(key=info["key"]) as core:
                assert await core.get(index) == expected
        # And it is followed live again.
        core = await store.get(key=info["key"])
        await core.wait_peers()
        await node("append", core=0, blocks=hexes(b"live"))
        assert await core.get(3) == b"live"


@of_every_generation
async def test_node_asks_again_for_cores_that_left_our_cache(tmp_path, generation, monkeypatch):
    """It follows them all, so it opens the channel again whenever we close it."""
    monkeypatch.setattr(background, "POLL_INTERVAL", 0.02)
    async with (
        node_peer(generation=generation) as node,
        corestore.open(None, cache_size=2) as store,
    ):
        await node("store", folder=str(tmp_path))
        keys = []
        for number in range(6):
            async with await store.get(name=str(number)) as core:
                await core.append(b"%d" % number, b"%d again" % number)
                keys.append(core.key)
        await store.sync()
        async with connected(store, node):
            for number, key in enumerate(keys):
                await node("core", key=key.hex())
                assert await node("get", core=number, index=0) == (b"%d" % number).hex()
            for number in (0, 5, 2, 1):
                state = store._driver.find(keys[number].discovery_key)
                # Ends when the core leaves the cache.
                async for _ in state.events.subscribe():
                    pass
                assert await node("get", core=number, index=1) == (b"%d again" % number).hex()


async def test_two_streams_to_one_node_peer_do_no_harm(tmp_path):
    async with peers(tmp_path) as (store, node, connect):
        ours = await store.get(name="ours")
        await ours.append(*made_blocks("ours", 50, 100))
        await store.sync()
        await node("core", key=ours.key.hex())
        await node("core", name="theirs")
        info = await node("appendMany", core=1, seed="theirs", count=50, size=100)
        theirs = await store.get(key=info["key"])
        await connect()
        await connect()
        await theirs.wait_length(50)
        await theirs.download(0, 50)
        await node("waitLength", core=0, length=50)
        assert await node("digest", core=0) == digest(made_blocks("ours", 50, 100))
        assert theirs.contiguous_length == 50
