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


@pytest.mark.parametrize("seed", range(6))
async def test_every_answer_shows_what_is_there_now_whatever_was_listed_before(seed):
    choose = random.Random(seed)
    async with file_system() as fs:
        directory = (await fs.mkdir(ROOT_ID, b"d", 0o755, ROOT)).ino
        held, opened, told = set(), {}, {}
        for step in range(1500):
            name = b"%03d" % choose.randrange(200)
            handle = choose.choice(list(told)) if told else None
            match choose.choice((0, 1, 1, 1, 2, 3, 4, 5, 6, 6, 6, 6, 6, 6, 7)):
                case 0 if len(told) < 3:
                    told[await fs.opendir(directory, ROOT)] = {0: b""}
                case 1 if name not in held:
                    await write(fs, directory, name, b"x" * choose.choice((0, 300)))
                    held.add(name)
                case 2 if name in held:
                    await fs.unlink(directory, name, ROOT)
                    held.discard(name)
                case 3 if name in held and name not in opened:
                    ino = (await fs.lookup(directory, name, ROOT)).ino
                    opened[name] = await fs.open(ino, os.O_WRONLY, ROOT)
                case 4 if opened:
                    name = choose.choice(list(opened))
                    await fs.write(opened[name], choose.randrange(9000), b"more")
                    if choose.random() < 0.5:
                        await fs.release(opened.pop(name))
                case 5 if name in held:
                    ino = (await fs.lookup(directory, name, ROOT)).ino
                    times = SetAttributes(mode=0o600, atime_ns=step)
                    await fs.setattr(ino, times, ROOT)
                case 6 if handle:
                    positions = told[handle]
                    position = choose.choice((0, max(positions), choose.choice(list(positions))))
                    after = positions[position]
                    listed = await fs.readdir(handle, position)
                    names_now = [name for name in sorted(held) if name > after]
                    shown = [entry for entry in listed if entry[0] not in (b".", b"..")]
                    assert [entry[0] for entry in shown] == names_now[: len(shown)]
                    for _, attributes, _, ino in shown:
                        assert attributes == await fs.getattr(ino)
                    # Who was told the end is told it again.
                    assert listed or not names_now or position == max(positions)
                    listed = listed[: choose.choice((5, 30, 300))]
                    fs.remember(handle, listed)
                    for entry in listed:
                        positions[entry[2]] = b"" if entry[2] < 3 else entry[0]
                case 7:
                    await fs.drive.commit()


async def test_an_open_directory_that_was_read_to_its_end_keeps_nothing_but_names():
    async with file_system() as fs:
        for number in range(30):
            await write(fs, ROOT_ID, b"%d" % number)
        handle = await fs.opendir(ROOT_ID, ROOT)
        listed = await fs.readdir(handle, 0)
        fs.remember(handle, listed)
        assert fs.handles.directories[handle].listing is not None
        assert await fs.readdir(handle, listed[-1][2]) == []
        assert fs.handles.directories[handle].listing is None
        assert (await fs.readdir(handle, 2))[0] == listed[2]


async def test_what_is_listed_again_counts_as_looked_up_again():
    async with file_system() as fs:
        made = await write(fs, ROOT_ID, b"f")
        await fs.drive.commit()
        for _ in range(3):
            await sizes(fs, ROOT_ID)
        assert fs.inodes.find(made.ino).lookups == 4
        fs.forget(made.ino, 4)
        assert made.ino not in fs.inodes
        await sizes(fs, ROOT_ID)
        assert fs.inodes.find(made.ino).lookups == 1
        assert (await fs.getattr(made.ino)).size == 0
