"""Files with several names of which readers see one go; files removed before a commit has them."""

from __future__ import annotations

import errno
import os

import pytest
import trio
import trio.testing

import corestore
import hyperfs
from hyperfs.drive import SHARED
from hyperfs.records import ROOT_ID, group_range
from hyperfs.vfs.attributes import Attributes
from hyperfs.vfs.filesystem import FileSystem
from hyperfs.vfs.rules import ROOT
from tests.integration.test_drive_replication import a_pair, caught_up
from tests.integration.test_vfs import names, read, write
from tests.support.waiting import Waiting


def waiting_on(drive):
    return Waiting(FileSystem(drive, Attributes))


async def test_a_reader_whose_listing_told_of_a_name_that_goes_sees_the_other_one_change():
    async with a_pair() as (writer, reader, _, _):
        there, here = waiting_on(writer), waiting_on(reader)
        made = await write(there, ROOT_ID, b"a", b"x")
        await there.link(made.ino, ROOT_ID, b"b", ROOT)
        await caught_up(writer, reader)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(here.follow_changes)
            assert await names(here, ROOT_ID) == [b".", b"..", b"a", b"b"]
            await there.unlink(ROOT_ID, b"b", ROOT)
            await caught_up(writer, reader)
            await trio.testing.wait_all_tasks_blocked()
            assert (await here.getattr(made.ino)).nlink == 1
            handle = await there.open(made.ino, os.O_WRONLY, ROOT)
            await there.write(handle, 0, b"longer")
            await there.release(handle)
            await caught_up(writer, reader)
            await trio.testing.wait_all_tasks_blocked()
            assert await read(here, made.ino) == b"longer"
            nursery.cancel_scope.cancel()


async def test_an_open_file_of_a_reader_keeps_its_place_when_a_name_of_it_goes_or_moves():
    async with a_pair() as (writer, reader, _, _):
        there = waiting_on(writer)
        made = await write(there, ROOT_ID, b"a", b"x")
        await there.link(made.ino, ROOT_ID, b"b", ROOT)
        await caught_up(writer, reader)
        found = await reader.resolve(ROOT_ID, b"a")
        assert found is not None
        file = reader.open_file(*found)
        await there.unlink(ROOT_ID, b"b", ROOT)
        await caught_up(writer, reader)
        assert file.location is SHARED
        await there.rename(ROOT_ID, b"a", ROOT_ID, b"c", 0, ROOT)
        await caught_up(writer, reader)
        assert file.location is SHARED
        file.release()


async def test_a_file_removed_while_a_commit_fails_leaves_nothing_behind(monkeypatch):
    async with corestore.open(None) as store, hyperfs.open(store, name="d", create=True) as drive:
        fs = waiting_on(drive)
        handle, made = await fs.create(ROOT_ID, b"f", 0o644, os.O_WRONLY, ROOT)
        await fs.write(handle, 0, b"x" * 1000)
        started, removed = trio.Event(), trio.Event()

        async def fails(layer, frozen):
            started.set()
            await removed.wait()
            raise OSError(errno.ENOSPC, "full")

        async def commit():
            with pytest.raises(OSError, match="full"):
                await drive.commit()

        with monkeypatch.context() as patch:
            patch.setattr(drive._committer, "_write", fails)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(commit)
                await started.wait()
                await fs.unlink(ROOT_ID, b"f", ROOT)
                await fs.release(handle)
                fs.forget(made.ino, 1)
                removed.set()
        assert not drive.tree.files
        assert drive.statistics().dirty_bytes == 0


async def remove(fs, drive):
    await fs.unlink(ROOT_ID, b"f", ROOT)


async def replace(fs, drive):
    await fs.rename(ROOT_ID, b"g", ROOT_ID, b"f", 0, ROOT)


async def remove_both_names(fs, drive):
    found = await fs.lookup(ROOT_ID, b"f", ROOT)
    await fs.link(found.ino, ROOT_ID, b"g", ROOT)
    await fs.unlink(ROOT_ID, b"f", ROOT)
    await fs.unlink(ROOT_ID, b"g", ROOT)


async def remove_by_path(fs, drive):
    await drive.remove("/f")


@pytest.mark.parametrize("how", [remove, replace, remove_both_names, remove_by_path])
async def test_a_file_removed_before_it_was_committed_leaves_nothing_behind(how):
    async with corestore.open(None) as store, hyperfs.open(store, name="d", create=True) as drive:
        fs = waiting_on(drive)
        if how is replace:
            await write(fs, ROOT_ID, b"g", b"g")
            await drive.commit()
        before = drive.content.byte_length
        made = await write(fs, ROOT_ID, b"f", b"x" * 10_000)
        await how(fs, drive)
        fs.forget(made.ino, 3)
        await drive.commit()
        assert not drive.tree.files
        assert not drive.tree.dirty_files
        assert drive.statistics().dirty_bytes == 0
        assert drive.content.byte_length == before


@pytest.mark.parametrize("how", [remove, replace, remove_by_path])
async def test_a_file_removed_while_it_is_committed_leaves_no_extents_behind(how, monkeypatch):
    async with corestore.open(None) as store, hyperfs.open(store, name="d", create=True) as drive:
        fs = waiting_on(drive)
        await write(fs, ROOT_ID, b"g", b"g")
        await drive.commit()
        handle, made = await fs.create(ROOT_ID, b"f", 0o644, os.O_WRONLY, ROOT)
        for n in range(100):
            await fs.write(handle, n * 100_000, b"x%d" % n)
        await fs.release(handle)
        fs.forget(made.ino, 1)
        started, removed = trio.Event(), trio.Event()
        write_now = drive._committer._write

        async def waits(layer, frozen):
            view = await write_now(layer, frozen)
            started.set()
            await removed.wait()
            return view

        with monkeypatch.context() as patch:
            patch.setattr(drive._committer, "_write", waits)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(drive.commit)
                await started.wait()
                nursery.start_soon(how, fs, drive)
                await trio.testing.wait_all_tasks_blocked()
                removed.set()
        await drive.commit()
        assert not drive.tree.view.index.scan(*group_range(made.ino), 1)
        assert not drive.tree.files


async def test_content_that_lay_in_the_record_is_counted_while_it_waits_to_be_written_again():
    async with corestore.open(None) as store, hyperfs.open(store, name="d", create=True) as drive:
        fs = waiting_on(drive)
        for n in range(3):
            await write(fs, ROOT_ID, b"f%d" % n, b"x" * 100)
        await drive.commit()
        for n in range(3):
            ino = (await fs.lookup(ROOT_ID, b"f%d" % n, ROOT)).ino
            handle = await fs.open(ino, os.O_WRONLY, ROOT)
            await fs.write(handle, 50, b"y")
            await fs.release(handle)
        waiting = sum(file.dirty_bytes for file in drive.tree.files.values())
        assert drive.statistics().dirty_bytes == waiting > 300
        await drive.commit()
        assert drive.statistics().dirty_bytes == 0
