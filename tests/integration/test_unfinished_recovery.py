"""A restored store whose recovery was given up: no peer had all of the drive."""

from __future__ import annotations

import shutil

import pytest
import trio
import trio.lowlevel

import corestore
import hyperfs
from corestore import MustRecover
from hyperfs import refetch
from tests.support.builders import linked
from tests.support.limits import HANG_SECONDS


async def test_it_is_read_as_it_was_and_written_after_the_rest_has_come(tmp_path):
    async with corestore.open(tmp_path / "store") as store:
        key = await hyperfs.create(store, "photos")
        async with hyperfs.open(store, name="photos") as drive:
            await drive.write("/file", b"before")
            await drive.sync()
    shutil.copytree(tmp_path / "store", tmp_path / "backup")
    async with (
        corestore.open(tmp_path / "store") as store,
        hyperfs.open(store, name="photos") as drive,
        corestore.open(tmp_path / "peer") as peer,
    ):
        for number in range(5):
            await drive.write(f"/later{number}", b"after the backup")
        await drive.sync()
        async with linked(store, peer):
            metadata, _ = await fetched(peer, drive)
        await metadata.clear(4, metadata.length)
        async with corestore.open(tmp_path / "backup") as old:
            async with linked(old, peer):
                await give_up_recovering(old, key, drive.version)
            async with hyperfs.open(old, name="photos") as late:
                assert await late.read("/file") == b"before"
                with pytest.raises(MustRecover, match="recover it"):
                    await late.write("/file", b"another history")
            async with linked(store, peer):
                await metadata.download()
            async with linked(old, peer):
                with trio.fail_after(HANG_SECONDS):
                    await hyperfs.recover_drive(old, key)
            async with hyperfs.open(old, name="photos") as late:
                assert await late.read("/later4") == b"after the backup"
                await late.write("/file", b"the same history")


async def test_a_drive_of_a_newer_format_is_fetched_from_end_to_end(tmp_path, monkeypatch):
    def newer(block, index):
        raise hyperfs.UnsupportedFormat(9)

    async with corestore.open(tmp_path / "store") as store:
        key = await hyperfs.create(store, "photos")
    shutil.copytree(tmp_path / "store", tmp_path / "backup")
    async with (
        corestore.open(tmp_path / "store") as store,
        hyperfs.open(store, name="photos") as drive,
        corestore.open(tmp_path / "backup") as old,
        linked(store, old),
    ):
        await drive.write("/later", b"after the backup" * 100)
        await drive.sync()
        with monkeypatch.context() as patch, trio.fail_after(HANG_SECONDS):
            patch.setattr(refetch, "decode_root", newer)
            await hyperfs.recover_drive(old, key)
        async with await old.get(key=drive.content.key) as content:
            assert content.has(0, drive.content.length)


async def give_up_recovering(store, key, length):
    """Recover a drive until the log is known, but not all of its blocks."""
    async with await store.get(key=key) as metadata, trio.open_nursery() as nursery:
        nursery.start_soon(hyperfs.recover_drive, store, key)
        with trio.fail_after(HANG_SECONDS):
            while metadata.published_length < length or metadata.held_for is not None:
                await trio.lowlevel.checkpoint()
            await metadata.update()
        nursery.cancel_scope.cancel()


async def fetched(peer, drive):
    """The drive's two cores at a peer that is linked, whole."""
    cores = []
    for core in (drive.metadata, drive.content):
        copy = await peer.get(key=core.key)
        await copy.wait_length(core.length)
        await copy.download()
        cores.append(copy)
    return cores
