"""Our drives and Node's Hyperdrive: it finds both cores, serves them whole, and damages nothing."""

from __future__ import annotations

import pytest

import corestore
import hyperfs
from tests.support.interop import connected, peers
from tests.support.node import NodeError

pytestmark = pytest.mark.interop

GENERATIONS = pytest.mark.parametrize("generation", [10, 11])
FILES = {f"/folder/{number}.bin": bytes([number]) * (number * 1000) for number in range(40)}


async def write_files(drive):
    async with drive.batch() as batch:
        for path, content in FILES.items():
            await batch.write(path, content)
    await drive.sync()


@GENERATIONS
async def test_node_finds_both_cores_and_serves_them_to_a_reader_of_ours(tmp_path, generation):
    async with peers(tmp_path, generation=generation) as (store, node, connect):
        # 1. A drive of ours, opened by Node by its key.
        await hyperfs.create(store, "ours")
        async with hyperfs.open(store, name="ours") as drive:
            await write_files(drive)
            opened = await node("drive", key=drive.key.hex())
            assert opened["key"] == drive.key.hex()
            await connect()
            # 2. Node derives the key of the content core, and downloads both.
            await node("waitVersion", drive=0, version=drive.metadata.length)
            assert await node("contentKey", drive=0) == drive.content.key.hex()
            lengths = await node("downloadDrive", drive=0)
            assert lengths == [drive.metadata.length, drive.content.length]
            key = drive.key
        # 3. We go away; another store of ours reads the drive from Node alone.
        await node("hangUp")
        async with (
            corestore.open(None) as other,
            connected(other, node),
            hyperfs.open(other, key=key) as copy,
        ):
            await copy.ready()
            for path, content in FILES.items():
                assert await copy.read(path) == content


@GENERATIONS
async def test_node_follows_a_drive_of_ours_while_it_is_written(tmp_path, generation):
    async with peers(tmp_path, generation=generation) as (store, node, connect):
        await hyperfs.create(store, "ours")
        async with hyperfs.open(store, name="ours") as drive:
            await node("drive", key=drive.key.hex())
            await connect()
            for number in range(3):
                await drive.write(f"/{number}", b"x" * 1000)
                await drive.sync()
                length = drive.metadata.length
                assert await node("waitVersion", drive=0, version=length) >= length


@GENERATIONS
async def test_node_does_not_take_a_drive_of_ours_for_an_empty_one(tmp_path, generation):
    """Hyperdrive's mirror removes what the source lacks: a drive it cannot read must stop it."""
    async with peers(tmp_path, generation=generation) as (store, node, connect):
        await hyperfs.create(store, "ours")
        async with hyperfs.open(store, name="ours") as drive:
            await write_files(drive)
            await node("drive", key=drive.key.hex())
            await node("drive", name="target")
            await node("put", drive=1, path="/precious.txt", content=b"keep me".hex())
            await connect()
            await node("waitVersion", drive=0, version=drive.metadata.length)
            with pytest.raises(NodeError):
                await node("list", drive=0)
            with pytest.raises(NodeError):
                await node("entry", drive=0, path="/folder/1.bin")
            with pytest.raises(NodeError):
                await node("mirror", drive=0, target=1)
            assert await node("list", drive=1) == ["/precious.txt"]
