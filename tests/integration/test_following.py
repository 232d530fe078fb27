"""What a reader's drive keeps track of while it follows: places of open files, versions shown."""

from __future__ import annotations

import stat
from contextlib import asynccontextmanager

import trio

import corestore
import hyperfs
from hyperfs.changes import Changed
from hyperfs.drive import ROOT_ID, SHARED
from hyperfs.subscription import MAX_QUEUED, Changes
from tests.support.builders import linked
from tests.support.drives import contents, make_file
from tests.support.limits import HANG_SECONDS


@asynccontextmanager
async def pair():
    """A drive, and the same one opened elsewhere, connected."""
    async with corestore.open(None) as near, corestore.open(None) as far:
        key = await hyperfs.create(near, "d")
        async with (
            hyperfs.open(near, name="d") as writer,
            hyperfs.open(far, key=key) as reader,
            linked(near, far),
        ):
            with trio.fail_after(HANG_SECONDS):
                await reader.ready()
            yield writer, reader


async def caught_up(writer, reader):
    """Wait until the reader shows what the writer has."""
    await writer.sync()
    with trio.fail_after(HANG_SECONDS):
        while reader.version < writer.version:
            await reader.update()


async def test_an_open_file_of_two_names_keeps_its_place_when_one_goes_and_one_moves():
    async with pair() as (writer, reader):
        file = make_file(writer, b"f")
        await file.write(0, b"1" * 1000)
        # Its shared record comes before the names in a directory that is younger than it.
        await writer.mkdir("/d")
        directory = (await writer.entry("/d")).id
        for name in (b"f", b"g"):
            writer.tree.put_link(ROOT_ID, name, file.id)
        writer.tree.put_shared(file.entry._replace(nlink=2))
        file.location = SHARED
        await caught_up(writer, reader)
        followed = reader.open_file(*await reader.resolve(ROOT_ID, b"f"))
        assert followed.location is SHARED
        for name in (b"f", b"g"):
            writer.tree.delete(ROOT_ID, name)
        writer.tree.put_link(directory, b"f", file.id)
        writer.tree.put_shared(file.entry._replace(nlink=1))
        await caught_up(writer, reader)
        assert followed.location is SHARED
        assert followed.entry.nlink == 1
        await file.write(0, b"2" * 1000)
        await caught_up(writer, reader)
        assert await contents(followed) == b"2" * 1000
        assert stat.S_ISREG(followed.entry.mode)
        followed.release()
        file.release()


async def test_the_version_on_record_only_grows():
    async with pair() as (writer, reader):
        await writer.write("/f", b"1")
        await caught_up(writer, reader)
        # Another process shows a later one.
        await reader.metadata.set_user_data("drive/shown", b"1000")
        await writer.write("/f", b"2")
        await caught_up(writer, reader)
        assert await reader.read("/f") == b"2"
        assert reader.metadata.user_data("drive/shown") == b"1000"


async def test_a_subscriber_that_does_not_keep_up_is_told_once_that_everything_changed():
    changes = Changes()
    for version in range(MAX_QUEUED + 1):
        changes.put(Changed(version, ()))
    changes.put(Changed(MAX_QUEUED + 1, ()))
    changes.close()
    assert [change async for change in changes] == [
        Changed(MAX_QUEUED, (), complete=False),
        Changed(MAX_QUEUED + 1, ()),
    ]
