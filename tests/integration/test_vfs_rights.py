"""Who may do what in a file system that decides that itself, and what comes of it."""

from __future__ import annotations

import errno
import os

import pytest
import trio

from hyperfs.records import ROOT_ID
from hyperfs.vfs.attributes import SetAttributes
from hyperfs.vfs.rules import ROOT
from tests.support.builders import FaultyStorage
from tests.support.vfs import ALICE, BOB, file_system, raises, read, write

EXCHANGE = 2


async def test_permissions_are_decided_here_unless_the_kernel_does():
    async with file_system() as fs:
        mine = await fs.mkdir(ROOT_ID, b"d", 0o755, ALICE)
        made = await write(fs, mine.ino, b"f", b"x", ALICE, 0o640)
        for attempt in (
            lambda: fs.open(made.ino, os.O_RDONLY, BOB),
            lambda: fs.open(made.ino, os.O_WRONLY, BOB),
            lambda: fs.create(mine.ino, b"g", 0o644, os.O_WRONLY, BOB),
            lambda: fs.unlink(mine.ino, b"f", BOB),
            lambda: fs.mkdir(mine.ino, b"e", 0o755, BOB),
            lambda: fs.setattr(made.ino, SetAttributes(size=0), BOB),
            lambda: fs.getxattr(made.ino, b"user.a", BOB),
        ):
            with raises(errno.EACCES):
                await attempt()
        for changes in (SetAttributes(mode=0o777), SetAttributes(uid=1001), SetAttributes(gid=5)):
            with raises(errno.EPERM):
                await fs.setattr(made.ino, changes, BOB)
        assert not await fs.access(made.ino, 4, BOB)
        assert await fs.access(made.ino, 4, ALICE)
        await fs.setattr(mine.ino, SetAttributes(mode=0o1777), ALICE)
        with raises(errno.EPERM):
            await fs.unlink(mine.ino, b"f", BOB)
        with raises(errno.EPERM):
            await fs.rename(mine.ino, b"f", mine.ino, b"g", 0, BOB)
        await fs.setattr(mine.ino, SetAttributes(mode=0o600), ALICE)
        with raises(errno.EACCES):
            await fs.lookup(mine.ino, b"f", ALICE)

    async with file_system(check_permissions=False) as fs:
        made = await write(fs, ROOT_ID, b"f", b"x", ALICE, 0o600)
        assert await read(fs, made.ino, BOB) == b"x"


async def test_a_file_made_unreadable_is_still_writable_through_its_handle():
    async with file_system() as fs:
        handle, made = await fs.create(ROOT_ID, b"f", 0o400, os.O_RDWR, ALICE)
        await fs.write(handle, 0, b"x")
        await fs.setattr(made.ino, SetAttributes(size=0), ALICE, handle)
        with raises(errno.EACCES):
            await fs.setattr(made.ino, SetAttributes(size=0), ALICE)
        await fs.release(handle)


async def test_set_id_bits_go_when_somebody_writes():
    async with file_system() as fs:
        made = await write(fs, ROOT_ID, b"f", b"x", ALICE)
        await fs.setattr(made.ino, SetAttributes(mode=0o6777), ALICE)
        handle = await fs.open(made.ino, os.O_WRONLY, BOB)
        assert (await fs.getattr(made.ino)).mode & 0o6000
        await fs.write(handle, 0, b"y")
        assert not (await fs.getattr(made.ino)).mode & 0o6000
        await fs.setattr(made.ino, SetAttributes(mode=0o4777), ALICE)
        await fs.write(handle, 0, b"z")
        assert not (await fs.getattr(made.ino)).mode & 0o6000
        await fs.release(handle)


async def test_truncating_clears_set_id_bits():
    async with file_system() as fs:
        made = await write(fs, ROOT_ID, b"f", b"x", ALICE)
        await fs.setattr(made.ino, SetAttributes(mode=0o6777), ALICE)
        handle = await fs.open(made.ino, os.O_WRONLY | os.O_TRUNC, BOB)
        assert not (await fs.getattr(made.ino)).mode & 0o6000
        await fs.release(handle)


async def test_truncating_takes_the_right_to_write():
    async with file_system() as fs:
        made = await write(fs, ROOT_ID, b"f", b"content")
        for flags in (os.O_WRONLY, os.O_RDWR, os.O_ACCMODE):
            with raises(errno.EACCES):
                await fs.open(made.ino, flags | os.O_TRUNC, BOB)
        reading = await fs.open(made.ino, os.O_RDONLY | os.O_TRUNC, BOB)
        with raises(errno.EACCES):
            await fs.setattr(made.ino, SetAttributes(size=0), BOB, reading)
        await fs.release(reading)
        assert await read(fs, made.ino) == b"content"


async def test_times_of_somebody_else_s_file_are_set_to_now_or_not_at_all():
    async with file_system() as fs:
        made = await write(fs, ROOT_ID, b"f", b"x", ALICE, 0o666)
        now = fs.now_ns()
        for changes in (
            SetAttributes(mtime_ns=now),
            SetAttributes(atime_ns=now),
            SetAttributes(atime_ns=now, mtime_ns=1),
        ):
            with raises(errno.EPERM):
                await fs.setattr(made.ino, changes, BOB)
        await fs.setattr(made.ino, SetAttributes(atime_ns=now, mtime_ns=now), BOB)


@pytest.mark.parametrize("flags", [0, EXCHANGE])
async def test_renaming_over_a_name_in_a_sticky_directory_takes_its_owner(flags):
    async with file_system() as fs:
        await fs.setattr(ROOT_ID, SetAttributes(mode=0o1777), ROOT)
        await write(fs, ROOT_ID, b"alice's", b"1", ALICE)
        await write(fs, ROOT_ID, b"bob's", b"2", BOB)
        with raises(errno.EPERM):
            await fs.rename(ROOT_ID, b"bob's", ROOT_ID, b"alice's", flags, BOB)
        assert await read(fs, (await fs.lookup(ROOT_ID, b"alice's", ROOT)).ino) == b"1"
        await fs.rename(ROOT_ID, b"bob's", ROOT_ID, b"alice's", flags, ROOT)
        assert await read(fs, (await fs.lookup(ROOT_ID, b"alice's", ROOT)).ino) == b"2"


async def test_moving_a_directory_takes_the_right_to_write_it():
    async with file_system() as fs:
        await fs.mkdir(ROOT_ID, b"alice's", 0o755, ALICE)
        await fs.mkdir(ROOT_ID, b"bob's", 0o755, BOB)
        place = (await fs.mkdir(ROOT_ID, b"place", 0o777, ROOT)).ino
        await fs.setattr(place, SetAttributes(mode=0o777), ROOT)
        await fs.mkdir(place, b"alice's", 0o755, ALICE)
        # Its entry `..` changes, unless it stays where it is.
        with raises(errno.EACCES):
            await fs.rename(ROOT_ID, b"alice's", place, b"new", 0, BOB)
        with raises(errno.EACCES):
            await fs.rename(ROOT_ID, b"bob's", place, b"alice's", EXCHANGE, BOB)
        await fs.rename(ROOT_ID, b"alice's", ROOT_ID, b"new", 0, BOB)
        await fs.rename(ROOT_ID, b"bob's", place, b"new", 0, BOB)


async def test_who_creates_a_file_exclusively_gets_a_new_one():
    async with file_system() as fs:
        made = await write(fs, ROOT_ID, b"f", b"x", ALICE)
        with raises(errno.EEXIST):
            await fs.create(ROOT_ID, b"f", 0o644, os.O_WRONLY | os.O_EXCL, ALICE)
        handle, found = await fs.create(ROOT_ID, b"f", 0o600, os.O_WRONLY, ALICE)
        assert (found.ino, found.mode & 0o777) == (made.ino, 0o644)
        await fs.release(handle)


async def test_close_tells_who_has_written_that_it_could_not_be_stored(autojump_clock):
    storage = FaultyStorage()
    async with file_system(storage=storage) as fs:
        await fs.drive.sync()
        written, made = await fs.create(ROOT_ID, b"f", 0o644, os.O_WRONLY, ALICE)
        untouched = await fs.open(made.ino, os.O_RDONLY, ALICE)
        await fs.write(written, 0, b"x" * 1000)
        storage.errors["commit"] = OSError(errno.ENOSPC, "No space left on device")
        # What is as old as that is committed by itself, and again a second later.
        await trio.sleep(1.5)
        with raises(errno.ENOSPC):
            await fs.flush(written)
        await fs.flush(untouched)
        await trio.sleep(1)
        await fs.flush(written)
        for handle in (written, untouched):
            await fs.release(handle)
