"""Encrypted cores and drives, with Node at the other end."""

from __future__ import annotations

import pytest

import corestore
import hyperfs
from corestore import WrongEncryptionKey
from tests.support.interop import connected, digest, hexes, made_blocks, peers, tree_hash
from tests.support.node import node_peer

pytestmark = pytest.mark.interop

SECRET = bytes(range(32))
HEX = SECRET.hex()
SEED = "01" * 32
KINDS = {
    "one signer": {"seed": SEED, "version": 1},
    "version 0": {"seed": SEED, "version": 0},
    "compat": {"seed": SEED, "compat": True},
}


async def test_we_read_follow_and_seek_in_an_encrypted_core_of_node(tmp_path):
    async with peers(tmp_path) as (store, node, connect):
        await node("core", name="theirs", encryption=HEX)
        info = await node("appendMany", core=0, seed="theirs", count=300, size=777)
        core = await store.get(key=info["key"], encryption_key=SECRET)
        await connect()
        await core.wait_length(300)
        assert core.byte_length == info["byteLength"] == 300 * 777
        for offset in (0, 776, 777, 100_000, 300 * 777 - 1):
            position = await core.seek(offset)
            assert [position.index, position.offset] == await node("seek", core=0, offset=offset)
            assert (position.index, position.offset) == divmod(offset, 777)
        assert core.statistics().blocks_held < 20
        await core.download()
        assert [block async for block in core.blocks()] == made_blocks("theirs", 300, 777)
        await node("append", core=0, blocks=hexes(b"", b"live"))
        await core.wait_length(302)
        assert [await core.get(300), await core.get(301)] == [b"", b"live"]
        await node("truncate", core=0, length=10)
        info = await node("append", core=0, blocks=hexes(b"on another fork"))
        while core.fork == 0 or core.length < 11:
            await core.update()
        assert await core.get(10) == b"on another fork"
        assert await core.get(9) == made_blocks("theirs", 10, 777)[9]
        assert tree_hash(core) == info["treeHash"]


async def test_node_reads_follows_and_seeks_in_an_encrypted_core_of_ours(tmp_path):
    async with peers(tmp_path) as (store, node, connect):
        core = await store.get(name="ours", encryption_key=SECRET)
        await core.append(*made_blocks("ours", 300, 777))
        await store.sync()
        await node("core", key=core.key.hex(), encryption=HEX)
        await connect()
        await node("waitLength", core=0, length=300)
        for offset in (0, 776, 777, 100_000, 300 * 777 - 1):
            assert await node("seek", core=0, offset=offset) == list(divmod(offset, 777))
        assert await node("digest", core=0) == digest(made_blocks("ours", 300, 777))
        assert (await node("info", core=0))["byteLength"] == core.byte_length
        await core.append(b"", b"live")
        await node("waitLength", core=0, length=302)
        assert await node("get", core=0, index=300) == ""
        assert await node("get", core=0, index=301) == b"live".hex()
        await core.truncate(10)
        await core.append(b"on another fork")
        await store.sync()
        info = await node("waitFork", core=0, fork=1, length=11)
        assert await node("get", core=0, index=10) == b"on another fork".hex()
        assert info["treeHash"] == tree_hash(core)


@pytest.mark.parametrize("kind", KINDS)
async def test_we_read_encrypted_cores_of_every_kind(tmp_path, kind):
    async with peers(tmp_path, mode="core") as (store, node, connect):
        info = await node("hypercore", folder=str(tmp_path), encryption=HEX, **KINDS[kind])
        await node("append", core=0, blocks=hexes(b"one", b"two"))
        core = await store.get(key=info["key"], encryption_key=SECRET)
        await connect()
        assert [await core.get(0), await core.get(1)] == [b"one", b"two"]
        assert core.byte_length == 6


async def test_a_wrong_key_for_a_core_of_node_is_told(tmp_path):
    async with peers(tmp_path) as (store, node, connect):
        await node("core", name="theirs", encryption=HEX)
        info = await node("append", core=0, blocks=hexes(b"block"))
        core = await store.get(key=info["key"], encryption_key=bytes(32))
        await connect()
        with pytest.raises(WrongEncryptionKey):
            await core.get(0)


async def test_a_node_peer_without_the_encryption_key_seeds_our_encrypted_drive(tmp_path):
    """It holds both cores by their keys; a reader with the link gets everything from it alone."""
    content = bytes(range(256)) * 2000
    async with peers(tmp_path) as (store, node, connect), corestore.open(None) as far:
        await hyperfs.create(store, "d", encrypted=True)
        async with hyperfs.open(store, name="d") as drive:
            await drive.write("/file", content)
            await drive.sync()
            for number, core in enumerate((drive.metadata, drive.content)):
                await node("core", key=core.key.hex())
                if number == 0:
                    await connect()
                await node("waitLength", core=number, length=core.length)
                await node("download", core=number, end=core.length)
            await node("hangUp")
            link = str(drive.link)
        async with hyperfs.open(far, key=link) as reader, connected(far, node):
            await reader.ready()
            assert await reader.read("/file") == content


async def test_a_node_peer_passes_an_encrypted_core_on_in_both_directions(tmp_path):
    """Ours to ours by way of Node, which knows the encryption key of one and not of the other."""
    async with peers(tmp_path) as (store, node, connect), node_peer() as reader:
        core = await store.get(name="ours", encryption_key=SECRET)
        await core.append(b"by way of Node")
        await store.sync()
        await node("core", key=core.key.hex())
        await connect()
        await node("waitLength", core=0, length=1)
        stored = bytes.fromhex(await node("get", core=0, index=0))
        assert stored == core._state.block(0)
        await reader("store", folder=str(tmp_path / "reader"))
        await reader("core", key=core.key.hex(), encryption=HEX)
        async with connected(store, reader):
            assert await reader("get", core=0, index=0) == b"by way of Node".hex()
