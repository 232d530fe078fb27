"""Truncated logs between us and Node peers, and two histories of one key."""

from __future__ import annotations

import contextlib
import logging

import pytest
import trio

from corestore import ForkConflict, KeyPair
from tests.support.interop import digest, hexes, made_blocks, peers, tree_hash
from tests.support.node import NodeError

pytestmark = pytest.mark.interop

CUTS = [(200, 150, 20), (200, 128, 0), (200, 0, 5), (200, 199, 40), (65, 1, 70)]


async def forked(core, fork, length):
    """Wait until one of our cores is on a fork and has a length."""
    with core.events() as events:
        while (core.fork, core.length) != (fork, length):
            await events.receive()


async def node_forked(node, fork, length):
    """Wait until Node's core is on a fork and has a length."""
    while True:
        # While Node reorganises, it may not find its own roots.
        with contextlib.suppress(NodeError):
            info = await node("info", core=0)
            if (info["fork"], info["length"]) == (fork, length):
                return
        await trio.sleep(0.02)


@pytest.mark.parametrize(("before", "cut", "after"), CUTS)
async def test_we_follow_a_truncation_of_node_and_keep_what_came_before(
    tmp_path, before, cut, after
):
    async with peers(tmp_path) as (store, node, connect):
        # 1. Node has a log, and we have all of it.
        await node("core", name="theirs")
        info = await node("appendMany", core=0, seed="theirs", count=before, size=300)
        core = await store.get(key=info["key"])
        await connect()
        await core.wait_length(before)
        await core.download(0, before)
        received = core.statistics().blocks_received
        # 2. Node truncates it, and appends other blocks.
        await node("truncate", core=0, length=cut)
        if after:
            info = await node("appendMany", core=0, seed="new", count=after, size=300)
        info = await node("info", core=0)
        # 3. We follow, live, and fetch only what is new.
        await forked(core, 1, cut + after)
        await core.download(0, cut + after)
        assert tree_hash(core) == info["treeHash"]
        kept = made_blocks("theirs", before, 300)[:cut]
        assert [b async for b in core.blocks()] == kept + made_blocks("new", after, 300)
        # Node answers in any order, which costs a block twice now and then.
        assert core.statistics().blocks_received - received < after + 20
        # 4. Appends go on as before.
        await node("append", core=0, blocks=hexes(b"more"))
        assert await core.get(cut + after) == b"more"


async def test_a_fork_made_while_we_were_away_keeps_what_came_before(tmp_path):
    async with peers(tmp_path) as (store, node, connect):
        await node("core", name="theirs")
        info = await node("appendMany", core=0, seed="theirs", count=300, size=300)
        core = await store.get(key=info["key"])
        await connect()
        await core.wait_length(300)
        await core.download(0, 300)
        received = core.statistics().blocks_received
        await node("hangUp")
        await node("truncate", core=0, length=177)
        info = await node("appendMany", core=0, seed="new", count=200, size=300)
        await connect()
        await forked(core, 1, 377)
        await core.download(0, 377)
        assert tree_hash(core) == info["treeHash"]
        assert core.statistics().blocks_received - received < 200 + 30


@pytest.mark.parametrize(("before", "cut", "after"), CUTS)
async def test_node_follows_a_truncation_of_ours(tmp_path, before, cut, after):
    async with peers(tmp_path) as (store, node, connect):
        core = await store.get(name="ours")
        blocks = made_blocks("ours", before, 300)
        await core.append(*blocks)
        await store.sync()
        await node("core", key=core.key.hex())
        await connect()
        await node("waitLength", core=0, length=before)
        await node("download", core=0, end=before)
        await core.truncate(cut)
        sent = core.statistics().blocks_sent
        new = made_blocks("new", after, 300)
        if after:
            await core.append(*new)
        await store.sync()
        await node_forked(node, 1, cut + after)
        if cut + after:
            await node("download", core=0, end=cut + after)
            assert (await node("info", core=0))["treeHash"] == tree_hash(core)
        assert await node("digest", core=0) == digest(blocks[:cut] + new)
        # Node keeps what came before as well.
        assert core.statistics().blocks_sent - sent <= after + 2
        await core.append(b"live")
        await store.sync()
        assert await node("get", core=0, index=cut + after) == b"live".hex()


async def test_two_histories_of_one_key_are_found_between_us_and_node(tmp_path, caplog):
    seed = bytes(range(32))
    async with peers(tmp_path, mode="core") as (store, node, connect):
        # 1. Node and we sign different logs with the same key.
        info = await node("hypercore", folder=str(tmp_path / "solo"), seed=seed.hex(), version=1)
        await node("appendMany", core=0, seed="theirs", count=20, size=100)
        core = await store.get(key_pair=KeyPair.from_seed(seed))
        assert core.key.hex() == info["key"]
        await core.append(*made_blocks("ours", 10, 100))
        await store.sync()
        # 2. We meet: the evidence is ours at once, and nothing goes on.
        await connect()
        with core.events() as events:
            while core.conflict is None:
                await events.receive()
        core.conflict.check(core.key)
        with pytest.raises(ForkConflict):
            await core.append(b"more")
        assert "two histories" in caplog.text
        assert [r.levelno for r in caplog.records if "is stopped" in r.message] == [logging.ERROR]
