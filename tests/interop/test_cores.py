"""Cores of every kind that Node makes, and peers that hold only a part of one."""

from __future__ import annotations

import pytest
import trio

import corestore
from corestore import Key, Manifest
from corestore.crypto import namespace
from tests.support.interop import connected, digest, hexes, made_blocks, peers, tree_hash
from tests.support.node import node_peer

pytestmark = pytest.mark.interop

SEED = "01" * 32
KINDS = {
    "one signer": {"seed": SEED, "version": 1},
    "version 2": {"seed": SEED, "version": 2},
    "version 0": {"seed": SEED, "version": 0},
    "compat": {"seed": SEED, "compat": True},
}


@pytest.mark.parametrize("kind", KINDS)
async def test_we_pass_on_every_kind_of_core(tmp_path, kind):
    async with (
        peers(tmp_path, mode="core") as (store, writer, connect),
        node_peer() as reader,
    ):
        info = await writer("hypercore", folder=str(tmp_path / "writer"), **KINDS[kind])
        await writer("appendMany", core=0, seed="kind", count=20, size=100)
        core = await store.get(key=info["key"])
        await connect()
        await core.wait_length(20)
        await core.download(0, 20)
        await reader("store", folder=str(tmp_path / "reader"))
        await reader("core", key=info["key"])
        async with connected(store, reader):
            await reader("waitLength", core=0, length=20)
            assert await reader("digest", core=0) == digest(made_blocks("kind", 20, 100))
            # What the writer appends now goes through us, the block as soon as we have it.
            await writer("append", core=0, blocks=hexes(b"through"))
            info = await reader("waitLength", core=0, length=21)
            assert info["treeHash"] == tree_hash(core)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(core.get, 20)
                assert await reader("get", core=0, index=20) == b"through".hex()


async def test_an_encrypted_core_is_passed_on_without_its_encryption_key(tmp_path):
    async with peers(tmp_path / "a") as (store, writer, connect), node_peer() as reader:
        info = await writer("core", name="secret", encryption="11" * 32)
        await writer("append", core=0, blocks=hexes(b"plain text"))
        core = await store.get(key=info["key"])
        await connect()
        assert b"plain" not in await core.get(0)
        await reader("store", folder=str(tmp_path / "b"))
        await reader("core", key=info["key"], encryption="11" * 32)
        async with connected(store, reader):
            assert await reader("get", core=0, index=0) == b"plain text".hex()


async def test_many_small_blocks_cross_the_pages_of_bitfields(tmp_path):
    """More than 32,768 blocks, the size of a page of Node's bitfield; both ways."""
    count = 40_000
    async with peers(tmp_path) as (store, node, connect):
        ours = await store.get(name="ours")
        blocks = [b"%d" % i for i in range(count)]
        await ours.append(*blocks)
        await store.sync()
        await node("core", key=ours.key.hex())
        await node("core", name="theirs")
        info = await node("appendMany", core=1, seed="many", count=count, size=4)
        theirs = await store.get(key=info["key"])
        await connect()
        await theirs.wait_length(count)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(theirs.download, 0, count)
            await node("waitLength", core=0, length=count)
            await node("download", core=0, end=count)
        assert await node("digest", core=0) == digest(blocks)
        assert theirs.contiguous_length == count


async def test_a_node_peer_gets_from_us_what_we_hold_of_a_core(tmp_path):
    """We hold every third block; announcements, wants and bitfields carry that."""
    async with peers(tmp_path / "a") as (store, writer, connect), node_peer() as reader:
        await writer("core", name="log")
        info = await writer("appendMany", core=0, seed="log", count=300, size=50)
        core = await store.get(key=info["key"])
        await connect()
        held = list(range(0, 300, 3))
        await core.wait_length(300)
        await core.download(blocks=held)
        await writer("hangUp")
        await reader("store", folder=str(tmp_path / "b"))
        await reader("core", key=info["key"])
        async with connected(store, reader):
            await reader("waitLength", core=0, length=300)
            await reader("download", core=0, blocks=held)
            for index in held[::10]:
                expected = made_blocks("log", 300, 50)[index].hex()
                assert await reader("get", core=0, index=index) == expected
            assert not await reader("has", core=0, start=1)


async def test_we_get_from_a_node_peer_what_it_holds_of_a_core(tmp_path):
    """A Node peer that holds every third block of somebody else's core is our only peer."""
    async with peers(tmp_path / "a") as (store, node, connect):
        writer = await store.get(name="log")
        blocks = made_blocks("log", 300, 50)
        await writer.append(*blocks)
        await store.sync()
        await node("core", key=writer.key.hex())
        await connect()
        held = list(range(0, 300, 3))
        await node("waitLength", core=0, length=300)
        await node("download", core=0, blocks=held)
        async with corestore.open(None) as second, connected(second, node):
            core = await second.get(key=writer.key)
            await core.wait_length(300)
            await core.download(blocks=held)
            assert [core.get_nowait(index) for index in held] == [blocks[i] for i in held]
            assert sum(core.has(i) for i in range(300)) == len(held)


async def test_a_download_is_passed_on_while_it_comes(tmp_path):
    async with peers(tmp_path / "a") as (store, writer, connect), node_peer() as reader:
        await writer("core", name="log")
        info = await writer("appendMany", core=0, seed="log", count=400, size=5000)
        await reader("store", folder=str(tmp_path / "b"))
        await reader("core", key=info["key"])
        core = await store.get(key=info["key"])
        await connect()
        async with connected(store, reader):
            await reader("waitLength", core=0, length=400)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(core.download, 0, 400)
                await reader("download", core=0, end=400)
            assert await reader("digest", core=0) == digest(made_blocks("log", 400, 5000))


async def test_two_node_peers_serve_one_download(tmp_path):
    async with peers(tmp_path / "a") as (store, first, connect), node_peer() as second:
        ours = await store.get(name="log")
        blocks = made_blocks("log", 400, 5000)
        await ours.append(*blocks)
        await store.sync()
        await first("core", key=ours.key.hex())
        await connect()
        await second("store", folder=str(tmp_path / "b"))
        await second("core", key=ours.key.hex())
        async with connected(store, second):
            # Each has one half, so that both are needed.
            await first("waitLength", core=0, length=400)
            await second("waitLength", core=0, length=400)
            await first("download", core=0, start=0, end=200)
            await second("download", core=0, start=200, end=400)
        async with (
            corestore.open(None) as other,
            connected(other, first),
            connected(other, second),
        ):
            core = await other.get(key=ours.key)
            await core.wait_length(400)
            await core.download(0, 400)
            assert [core.get_nowait(i) for i in range(400)] == blocks


async def test_a_download_goes_on_after_the_stream_was_lost(tmp_path):
    async with peers(tmp_path) as (store, node, connect):
        await node("core", name="log")
        info = await node("appendMany", core=0, seed="log", count=100, size=1000)
        core = await store.get(key=info["key"])
        await connect()
        assert await core.get(7) == made_blocks("log", 100, 1000)[7]
        await node("hangUp")
        async with connected(store, node):
            await core.download(0, 100)
        assert core.contiguous_length == 100


async def test_the_content_core_of_a_node_drive_is_found_from_its_manifest(tmp_path):
    async with peers(tmp_path) as (store, node, connect):
        drive = await node("drive", name="drive")
        await node("put", drive=0, path="/a.txt", content=b"hello".hex())
        metadata = await store.get(key=drive["key"])
        await connect()
        assert (await metadata.get(0))[:10] == b"\x0a\x08hyperbee"
        blobs = namespace("hyperdrive", 0)
        manifest = corestore.derive_manifest(metadata.manifest, blobs, metadata.key)
        assert isinstance(manifest, Manifest)
        key = corestore.manifest_key(manifest)
        assert key == Key.parse(await node("contentKey", drive=0))
        content = await store.get(key=key)
        assert await content.get(0) == b"hello"


async def test_a_drive_of_node_is_seeded_by_us(tmp_path):
    async with peers(tmp_path / "a") as (store, writer, connect), node_peer() as reader:
        drive = await writer("drive", name="drive")
        for number in range(20):
            content = b"content %d" % number
            await writer("put", drive=0, path=f"/folder/{number}.txt", content=content.hex())
        key = await writer("contentKey", drive=0)
        await connect()
        for core_key, length in ((drive["key"], 21), (key, 20)):
            core = await store.get(key=core_key)
            await core.wait_length(length)
            await core.download()
        await writer("hangUp")
        await reader("store", folder=str(tmp_path / "b"))
        await reader("drive", key=drive["key"])
        async with connected(store, reader):
            await reader("waitVersion", drive=0, version=21)
            assert len(await reader("list", drive=0)) == 20
            content = await reader("read", drive=0, path="/folder/7.txt")
            assert bytes.fromhex(content) == b"content 7"
