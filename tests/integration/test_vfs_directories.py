"""What is remembered of directories (a listing, a record, how many names) is never out of date."""

from __future__ import annotations

import errno
import os
import random
import stat

import pytest

from hyperfs.records import ROOT_ID
from hyperfs.vfs.attributes import SetAttributes
from hyperfs.vfs.rules import ROOT
from tests.support.vfs import file_system, names, raises, write


async def sizes(fs, ino):
    """What a listing shows: sizes and modes by name."""
    handle = await fs.opendir(ino, ROOT)
    listed = await fs.readdir(handle, 0)
    fs.remember(handle, listed)
    await fs.releasedir(handle)
    return {name: (shown.size, stat.S_IMODE(shown.mode)) for name, shown, _, _ in listed[2:]}


async def test_a_listing_asked_for_again_shows_what_was_changed_since():
    async with file_system() as fs:
        made = await write(fs, ROOT_ID, b"f", b"content")
        await fs.drive.commit()
        for _ in range(2):
            assert await sizes(fs, ROOT_ID) == {b"f": (7, 0o644)}
        handle = await fs.open(made.ino, os.O_WRONLY, ROOT)
        await fs.write(handle, 7, b"!")
        for _ in range(2):
            assert await sizes(fs, ROOT_ID) == {b"f": (8, 0o644)}
        await fs.write(handle, 8, b"!")
        assert await sizes(fs, ROOT_ID) == {b"f": (9, 0o644)}
        await fs.release(handle)
        await fs.drive.commit()
        assert await sizes(fs, ROOT_ID) == {b"f": (9, 0o644)}
        await fs.setattr(made.ino, SetAttributes(mode=0o600), ROOT)
        assert await sizes(fs, ROOT_ID) == {b"f": (9, 0o600)}
        await fs.drive.write("/f", b"beside the mount")
        assert (await sizes(fs, ROOT_ID))[b"f"][0] == 16
        await fs.drive.remove("/f")
        assert await sizes(fs, ROOT_ID) == {}


async def test_a_directory_takes_changes_of_its_attributes_along_when_names_change():
    async with file_system() as fs:
        made = await fs.mkdir(ROOT_ID, b"d", 0o755, ROOT)
        for number, mode in enumerate((0o700, 0o750)):
            await write(fs, made.ino, b"%d" % number)
            await fs.setattr(made.ino, SetAttributes(mode=mode, mtime_ns=1), ROOT)
            await fs.setxattr(made.ino, b"user.n", b"%d" % number, ROOT)
            await fs.unlink(made.ino, b"%d" % number, ROOT)
            shown = await fs.getattr(made.ino)
            assert stat.S_IMODE(shown.mode) == mode
            assert shown.mtime_ns > 1
            assert await fs.getxattr(made.ino, b"user.n", ROOT) == b"%d" % number


@pytest.mark.parametrize("seed", range(6))
async def test_only_empty_directories_are_removed_whatever_was_listed_and_done(seed):
    choose = random.Random(seed)
    async with file_system() as fs:
        directories = {}
        for name in (b"a", b"b"):
            directories[name] = (await fs.mkdir(ROOT_ID, name, 0o755, ROOT)).ino, set()
        for step in range(400):
            at = choose.choice((b"a", b"b"))
            ino, held = directories[at]
            name = b"%d" % choose.randrange(3)
            other = choose.choice((b"a", b"b"))
            match choose.randrange(9):
                case 0 if name not in held:
                    await write(fs, ino, name, b"x" * choose.choice((0, 300)))
                    held.add(name)
                case 1 | 2 | 3 if name in held:
                    await fs.unlink(ino, name, ROOT)
                    held.discard(name)
                case 4 | 5:
                    assert set(await names(fs, ino)) == held | {b".", b".."}
                case 6 if name in held:
                    there, of_there = directories[other]
                    one = await fs.lookup(ino, name, ROOT)
                    two = await fs.lookup(there, b"0", ROOT)
                    await fs.rename(ino, name, there, b"0", 0, ROOT)
                    if two is None or one.ino != two.ino:
                        held.discard(name)
                    of_there.add(b"0")
                case 7 if name in held and b"2" not in directories[other][1]:
                    there, of_there = directories[other]
                    file = await fs.lookup(ino, name, ROOT)
                    await fs.link(file.ino, there, b"2", ROOT)
                    of_there.add(b"2")
                case 8:
                    if choose.random() < 0.5:
                        await fs.drive.commit()
                    else:
                        await fs.drive.write(f"/{os.fsdecode(at)}/{os.fsdecode(name)}", b"beside")
                        held.add(name)
            if held:
                with raises(errno.ENOTEMPTY):
                    await fs.rmdir(ROOT_ID, at, ROOT)
            elif step % 3 == 0:
                await fs.rmdir(ROOT_ID, at, ROOT)
                directories[at] = (await fs.mkdir(ROOT_ID, at, 0o755, ROOT)).ino, set()
