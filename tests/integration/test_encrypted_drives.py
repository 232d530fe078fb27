"""Encrypted drives: who can read them, who can hold them, and what each is told."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest
import trio

import corestore
import hyperfs
from hyperfs import DriveEncrypted, DriveLink
from hyperfs.index import header_block
from tests.support.builders import linked
from tests.support.drives import snapshot
from tests.support.limits import HANG_SECONDS

CONTENT = bytes(range(256)) * 1000
WRONG = b"w" * 32


async def fill(drive):
    await drive.mkdir("/folder")
    await drive.write("/folder/file", CONTENT)
    await drive.write("/small", b"plain text")
    await drive.symlink("/link", "folder/file")
    await drive.sync()


@asynccontextmanager
async def an_encrypted_drive():
    """(its store, its link), with some files in it."""
    async with corestore.open(None) as store:
        key = await hyperfs.create(store, "d", encrypted=True)
        async with hyperfs.open(store, name="d") as drive:
            await fill(drive)
            assert drive.key == key
            yield store, drive.link


async def test_both_cores_are_encrypted_with_one_key_that_the_store_keeps(tmp_path):
    async with corestore.open(tmp_path) as store:
        key = await hyperfs.create(store, "d", encrypted=True)
        (info,) = hyperfs.drives(store)
        assert info.link == DriveLink(key, info.encryption_key)
        assert info.encryption_key is not None
    async with corestore.open(tmp_path) as store, hyperfs.open(store, name="d") as drive:
        assert drive.link == info.link
        await fill(drive)
        before = await snapshot(drive)
        for core in (drive.metadata, drive.content):
            assert core.encryption_key == info.encryption_key
            stored = b"".join(core._state.block(i) for i in range(core.length))
            assert b"hyperbee" not in stored
            assert b"plain text" not in stored
            assert b"small" not in stored
    async with corestore.open(tmp_path) as store, hyperfs.open(store, key=key) as drive:
        assert drive.writable
        assert await snapshot(drive) == before


async def test_a_drive_is_not_encrypted_unless_asked():
    async with corestore.open(None) as store:
        key = await hyperfs.create(store, "d")
        async with hyperfs.open(store, name="d") as drive:
            assert drive.link == DriveLink(key)
            assert drive.metadata.get_nowait(0) == header_block()


@pytest.mark.parametrize("form", ["link", "text", "key"])
async def test_a_reader_with_the_link_reads_and_needs_it_once(tmp_path, form):
    async with an_encrypted_drive() as (near, link):
        given = {
            "link": {"key": link},
            "text": {"key": str(link)},
            "key": {"key": link.key, "encryption_key": link.encryption_key},
        }[form]
        async with corestore.open(tmp_path) as far, hyperfs.open(far, **given) as reader:
            async with linked(near, far):
                with trio.fail_after(HANG_SECONDS):
                    await reader.ready()
                    assert await reader.read("/folder/file") == CONTENT
                    assert await reader.read("/small") == b"plain text"
            assert reader.link == link
        async with corestore.open(tmp_path) as far, hyperfs.open(far, key=link.key) as reader:
            await reader.ready()
            assert await reader.read("/folder/file") == CONTENT
            assert reader.link == link


async def test_a_seeder_with_the_key_alone_holds_all_and_passes_it_on(tmp_path):
    async with (
        an_encrypted_drive() as (near, link),
        corestore.open(tmp_path) as middle,
        hyperfs.open(middle, key=link.key) as held,
        linked(near, middle),
    ):
        with trio.fail_after(HANG_SECONDS):
            with pytest.raises(DriveEncrypted, match="whole link"):
                await held.ready()
            await held.metadata.download()
            while held.content.length == 0:
                await held.content.update()
            await held.content.download()
        assert held.link == DriveLink(link.key)
    # Another start, without the writer.
    async with (
        corestore.open(tmp_path) as middle,
        hyperfs.open(middle, key=link.key) as held,
        corestore.open(None) as far,
        hyperfs.open(far, key=str(link)) as reader,
        linked(middle, far),
    ):
        with pytest.raises(DriveEncrypted):
            await held.ready()
        assert held.content.contiguous_length == held.content.length > 0
        with trio.fail_after(HANG_SECONDS):
            await reader.ready()
            assert await reader.read("/folder/file") == CONTENT


async def test_a_wrong_encryption_key_is_told_and_not_kept(tmp_path):
    async with an_encrypted_drive() as (near, link), corestore.open(tmp_path) as far:
        wrong = str(DriveLink(link.key, WRONG))
        async with hyperfs.open(far, key=wrong) as reader, linked(near, far):
            with (
                trio.fail_after(HANG_SECONDS),
                pytest.raises(DriveEncrypted, match="copy the whole link"),
            ):
                await reader.ready()
        with pytest.raises(DriveEncrypted, match="copy the whole link"):
            async with hyperfs.open(far, key=wrong):
                pass
        async with hyperfs.open(far, key=link.key) as reader:
            with pytest.raises(DriveEncrypted, match="use its whole link"):
                await reader.ready()
        async with hyperfs.open(far, key=str(link)) as reader, linked(near, far):
            with trio.fail_after(HANG_SECONDS):
                await reader.ready()


async def test_an_encryption_key_for_a_plain_drive_does_no_harm():
    async with corestore.open(None) as near, corestore.open(None) as far:
        key = await hyperfs.create(near, "d")
        async with hyperfs.open(far, key=key, encryption_key=WRONG) as reader, linked(near, far):
            with trio.fail_after(HANG_SECONDS), pytest.raises(DriveEncrypted):
                await reader.ready()
        async with hyperfs.open(far, key=key) as reader, linked(near, far):
            with trio.fail_after(HANG_SECONDS):
                await reader.ready()


async def test_a_log_that_is_no_drive_is_not_taken_for_an_encrypted_one():
    async with corestore.open(None) as store:
        core = await store.get(name="log")
        await core.append(b"a line of text that is no header", b"more")
        core = await store.get(key=core.key)
        with pytest.raises(hyperfs.NotADrive):
            async with hyperfs.open(store, key=core.key):
                pass


async def test_an_encrypted_drive_is_removed_with_its_key():
    async with corestore.open(None) as store:
        key = await hyperfs.create(store, "d", encrypted=True)
        await hyperfs.remove_drive(store, "d")
        assert store.encryption_key(key.discovery_key) is None
        assert await hyperfs.create(store, "d") != key
        assert hyperfs.drives(store)[0].encryption_key is None
