"""The inode layer over a real drive in memory, without FUSE."""

from __future__ import annotations

import errno
import os
import stat

import pytest
import trio

from hyperfs.changes import Changed
from hyperfs.records import ROOT_ID
from hyperfs.vfs import names as vfs_names
from hyperfs.vfs.attributes import Attributes, Presentation, SetAttributes
from hyperfs.vfs.filesystem import FileSystem
from hyperfs.vfs.history import History
from hyperfs.vfs.rules import ROOT
from hyperfs.vfs.tree import InvalidateEntry, InvalidateInode
from tests.support.vfs import file_system, names, raises, read, write
from tests.support.waiting import Waiting


async def test_a_file_is_found_again_after_its_inode_was_forgotten():
    async with file_system() as fs:
        made = await write(fs, ROOT_ID, b"f", b"content")
        fs.forget(made.ino, 1)
        assert made.ino not in fs.inodes
        with raises(errno.ESTALE):
            await fs.getattr(made.ino)
        found = await fs.lookup(ROOT_ID, b"f", ROOT)
        assert (found.ino, found.size) == (made.ino, 7)
        assert await read(fs, found.ino) == b"content"


async def made(fs):
    await fs.release((await fs.create(ROOT_ID, b"f", 0o644, os.O_WRONLY, ROOT))[0])


async def touched(fs):
    found = await fs.lookup(ROOT_ID, b"old", ROOT)
    handle = await fs.open(found.ino, os.O_WRONLY, ROOT)
    await fs.setattr(found.ino, SetAttributes(mtime_ns=1), ROOT)
    await fs.release(handle)


async def cut(fs):
    found = await fs.lookup(ROOT_ID, b"old", ROOT)
    handle = await fs.open(found.ino, os.O_WRONLY, ROOT)
    await fs.setattr(found.ino, SetAttributes(size=1), ROOT, handle)
    await fs.release(handle)


@pytest.mark.parametrize("change", [made, touched, cut])
async def test_what_is_done_to_an_open_file_is_committed_soon_after_its_close(
    change, autojump_clock
):
    async with file_system() as fs:
        await write(fs, ROOT_ID, b"old", b"content")
        await fs.drive.commit()
        await trio.sleep(2)
        version = fs.drive.version
        await change(fs)
        await trio.sleep(0.1)
        assert fs.drive.version > version


async def test_attributes_set_after_a_commit_keep_the_committed_content():
    async with file_system() as fs:
        made = await write(fs, ROOT_ID, b"f", b"x" * 200_000)
        for mode in (0o600, 0o640):
            await fs.drive.commit()
            await fs.setattr(made.ino, SetAttributes(mode=mode), ROOT)
        await fs.drive.commit()
        assert await read(fs, made.ino) == b"x" * 200_000
        assert stat.S_IMODE((await fs.getattr(made.ino)).mode) == 0o640


async def test_listing_in_pieces_shows_each_name_once_while_names_come_and_go():
    async with file_system() as fs:
        directory = (await fs.mkdir(ROOT_ID, b"d", 0o755, ROOT)).ino
        for i in range(50):
            await write(fs, directory, b"%02d" % i)
        handle = await fs.opendir(directory, ROOT)
        found, position = [], 0
        while listed := await fs.readdir(handle, position):
            fs.remember(handle, listed[:4])
            for entry in listed[:4]:
                found.append(entry[0])
                position = entry[2]
            last = found[-1]
            if last.isdigit():
                await fs.unlink(directory, last, ROOT)
                await write(fs, directory, last + b"-new")
        listed_once = [name for name in found if name.isdigit()]
        assert listed_once == [b"%02d" % i for i in range(50)]
        await fs.releasedir(handle)


async def test_a_listing_that_was_told_to_its_end_is_read_anew_from_the_start():
    async with file_system() as fs:
        await write(fs, ROOT_ID, b"a")
        await write(fs, ROOT_ID, b"b")
        handle = await fs.opendir(ROOT_ID, ROOT)
        listed = await fs.readdir(handle, 0)
        fs.remember(handle, listed)
        end = listed[-1][2]
        assert not await fs.readdir(handle, end)
        await write(fs, ROOT_ID, b"c")
        listed = await fs.readdir(handle, 0)
        fs.remember(handle, listed[:4])
        assert [entry[0] for entry in await fs.readdir(handle, end)] == [b"c"]


async def test_listing_goes_on_from_any_position_told():
    async with file_system() as fs:
        for i in range(20):
            await write(fs, ROOT_ID, b"%02d" % i)
        handle = await fs.opendir(ROOT_ID, ROOT)
        listed = await fs.readdir(handle, 0)
        assert [entry[0] for entry in listed[:2]] == [b".", b".."]
        fs.remember(handle, listed)
        for i, entry in enumerate(listed[:-1]):
            assert (await fs.readdir(handle, entry[2]))[0][0] == listed[i + 1][0]
        with raises(errno.EINVAL):
            await fs.readdir(handle, 1000)


async def test_lookups_of_a_listing_are_counted_except_the_dots():
    async with file_system() as fs:
        made = await write(fs, ROOT_ID, b"f")
        before = fs.inodes.find(ROOT_ID).lookups
        assert await names(fs, ROOT_ID) == [b".", b"..", b"f"]
        assert fs.inodes.find(ROOT_ID).lookups == before
        assert fs.inodes.find(made.ino).lookups == 2


async def test_unlinked_open_file_works_until_it_is_released():
    async with file_system() as fs:
        handle, made = await fs.create(ROOT_ID, b"f", 0o644, os.O_RDWR, ROOT)
        await fs.write(handle, 0, b"before")
        await fs.unlink(ROOT_ID, b"f", ROOT)
        await fs.write(handle, 6, b" after")
        assert await fs.read(handle, 0, 100) == b"before after"
        assert (await fs.getattr(made.ino)).nlink == 0
        await fs.drive.commit()
        assert await fs.read(handle, 0, 100) == b"before after"
        await fs.fsync(handle, data_only=False)
        await fs.release(handle)
        assert (await fs.getattr(made.ino)).size == 12
        fs.forget(made.ino, 1)
        assert made.ino not in fs.inodes
        assert await fs.lookup(ROOT_ID, b"f", ROOT) is None


@pytest.mark.parametrize("open_then", [False, True])
async def test_a_removed_file_is_whole_for_who_knows_its_number(open_then):
    async with file_system() as fs:
        handle, made = await fs.create(ROOT_ID, b"f", 0o644, os.O_WRONLY, ROOT)
        await fs.write(handle, 0, b"content" * 1000)
        if not open_then:
            await fs.release(handle)
        await fs.unlink(ROOT_ID, b"f", ROOT)
        if open_then:
            await fs.release(handle)
        await fs.drive.commit()
        assert await read(fs, made.ino) == b"content" * 1000
        fs.forget(made.ino, 1)
        assert not fs.drive.tree.files
        assert fs.drive.statistics().dirty_bytes == 0


async def test_a_link_told_by_a_listing_is_treated_as_one():
    async with file_system() as fs:
        made = await write(fs, ROOT_ID, b"a", b"x")
        await fs.link(made.ino, ROOT_ID, b"b", ROOT)
        fs.forget(made.ino, 2)
        await names(fs, ROOT_ID)
        await fs.setattr(made.ino, SetAttributes(mode=0o600), ROOT)
        await fs.unlink(ROOT_ID, b"b", ROOT)
        assert (await fs.getattr(made.ino)).nlink == 1
        await fs.rename(ROOT_ID, b"a", ROOT_ID, b"c", 0, ROOT)
        assert stat.S_IMODE((await fs.getattr(made.ino)).mode) == 0o600
        assert await read(fs, made.ino) == b"x"
        await fs.unlink(ROOT_ID, b"c", ROOT)
        assert fs.drive.tree.shared(made.ino) is None


async def test_linking_a_file_that_is_open_and_dirty_keeps_its_content():
    async with file_system() as fs:
        handle, made = await fs.create(ROOT_ID, b"a", 0o644, os.O_RDWR, ROOT)
        await fs.write(handle, 0, b"one")
        assert (await fs.link(made.ino, ROOT_ID, b"b", ROOT)).nlink == 2
        await fs.write(handle, 3, b" two")
        await fs.drive.commit()
        await fs.unlink(ROOT_ID, b"a", ROOT)
        await fs.write(handle, 7, b" three")
        await fs.release(handle)
        await fs.drive.commit()
        found = await fs.lookup(ROOT_ID, b"b", ROOT)
        assert (found.ino, found.nlink, found.size) == (made.ino, 1, 13)
        assert await read(fs, found.ino) == b"one two three"


async def test_rename_over_an_open_file_leaves_it_to_its_holders():
    async with file_system() as fs:
        handle, old = await fs.create(ROOT_ID, b"old", 0o644, os.O_RDWR, ROOT)
        await fs.write(handle, 0, b"old")
        new = await write(fs, ROOT_ID, b"new", b"new")
        await fs.rename(ROOT_ID, b"new", ROOT_ID, b"old", 0, ROOT)
        assert await fs.read(handle, 0, 10) == b"old"
        assert (await fs.lookup(ROOT_ID, b"old", ROOT)).ino == new.ino
        await fs.write(handle, 0, b"OLD")
        await fs.release(handle)
        await fs.drive.commit()
        assert await read(fs, new.ino) == b"new"
        assert (await fs.getattr(old.ino)).nlink == 0


async def test_exchange_swaps_also_what_is_dirty():
    async with file_system() as fs:
        directory = (await fs.mkdir(ROOT_ID, b"d", 0o755, ROOT)).ino
        await write(fs, ROOT_ID, b"a", b"a")
        await write(fs, directory, b"b", b"b")
        await fs.rename(ROOT_ID, b"a", directory, b"b", 2, ROOT)
        await fs.drive.commit()
        a = await fs.lookup(ROOT_ID, b"a", ROOT)
        b = await fs.lookup(directory, b"b", ROOT)
        assert await read(fs, a.ino) == b"b"
        assert await read(fs, b.ino) == b"a"


async def test_a_directory_cannot_move_below_itself():
    async with file_system() as fs:
        a = (await fs.mkdir(ROOT_ID, b"a", 0o755, ROOT)).ino
        b = (await fs.mkdir(a, b"b", 0o755, ROOT)).ino
        with raises(errno.EINVAL):
            await fs.rename(ROOT_ID, b"a", b, b"c", 0, ROOT)
        with raises(errno.EINVAL):
            await fs.rename(a, b"b", ROOT_ID, b"a", 2, ROOT)


async def test_a_directory_with_names_in_it_is_not_replaced():
    async with file_system() as fs:
        full = (await fs.mkdir(ROOT_ID, b"full", 0o755, ROOT)).ino
        await write(fs, full, b"f")
        await fs.mkdir(ROOT_ID, b"empty", 0o755, ROOT)
        with raises(errno.ENOTEMPTY):
            await fs.rename(ROOT_ID, b"empty", ROOT_ID, b"full", 0, ROOT)
        await fs.rename(ROOT_ID, b"full", ROOT_ID, b"empty", 0, ROOT)
        assert await names(fs, full) == [b".", b"..", b"f"]


async def test_no_name_is_moved_to_where_the_past_is_shown():
    async with file_system() as fs:
        await write(fs, ROOT_ID, b"f")
        for flags in (0, 1, 2):
            with raises(errno.EBUSY):
                await fs.rename(ROOT_ID, b"f", ROOT_ID, b".hyperfs", flags, ROOT)
        folder = (await fs.mkdir(ROOT_ID, b"d", 0o755, ROOT)).ino
        await fs.rename(ROOT_ID, b"f", folder, b".hyperfs", 0, ROOT)


async def test_names_told_to_be_missing_are_taken_back_when_there_are_too_many(monkeypatch):
    monkeypatch.setattr(vfs_names, "MISSING_NAMES", 3)
    async with file_system() as writable:
        told = writable.invalidations.items
        same = {"invalidations": writable.invalidations, "read_only": True}
        fs = Waiting(FileSystem(writable.drive, Attributes, **same))
        for name in (b"a", b"b", b"c", b"a", b"d"):
            await fs.lookup(ROOT_ID, name, ROOT)
        assert told == [InvalidateEntry(ROOT_ID, b"b")]
        told.clear()
        # Nor is anything of them trusted when too much has changed to be listed.
        await fs.apply(Changed(99, (), complete=False))
        assert {InvalidateEntry(ROOT_ID, name) for name in (b"a", b"c", b"d")} <= set(told)


async def test_nothing_is_made_in_a_removed_directory():
    async with file_system() as fs:
        directory = (await fs.mkdir(ROOT_ID, b"d", 0o755, ROOT)).ino
        await fs.rmdir(ROOT_ID, b"d", ROOT)
        with raises(errno.ENOENT):
            await write(fs, directory, b"f")
        assert await names(fs, directory) == [b".", b".."]


async def test_truncation_and_open_with_truncation():
    async with file_system() as fs:
        made = await write(fs, ROOT_ID, b"f", b"0123456789")
        await fs.drive.commit()
        assert (await fs.setattr(made.ino, SetAttributes(size=4), ROOT)).size == 4
        assert (await fs.setattr(made.ino, SetAttributes(size=6), ROOT)).size == 6
        assert await read(fs, made.ino) == b"0123\0\0"
        with raises(errno.EISDIR):
            await fs.setattr(ROOT_ID, SetAttributes(size=0), ROOT)
        handle = await fs.open(made.ino, os.O_WRONLY | os.O_TRUNC, ROOT)
        assert (await fs.getattr(made.ino)).size == 0
        await fs.release(handle)


async def test_read_only_file_system_changes_nothing():
    async with file_system() as writable:
        made = await write(writable, ROOT_ID, b"f", b"x")
        fs = Waiting(FileSystem(writable.drive, Attributes, read_only=True))
        await fs.lookup(ROOT_ID, b"f", ROOT)
        for attempt in (
            lambda: fs.open(made.ino, os.O_RDWR, ROOT),
            lambda: fs.create(ROOT_ID, b"g", 0o644, os.O_WRONLY, ROOT),
            lambda: fs.unlink(ROOT_ID, b"f", ROOT),
            lambda: fs.setattr(made.ino, SetAttributes(mode=0), ROOT),
            lambda: fs.setxattr(made.ino, b"user.a", b"", ROOT),
            lambda: fs.link(made.ino, ROOT_ID, b"g", ROOT),
        ):
            with raises(errno.EROFS):
                await attempt()
        assert await read(fs, made.ino) == b"x"


async def test_extended_attributes_survive_everything_else():
    async with file_system() as fs:
        made = await write(fs, ROOT_ID, b"f", b"x")
        await fs.setxattr(made.ino, b"user.a", b"1", ROOT)
        await fs.drive.commit()
        handle = await fs.open(made.ino, os.O_WRONLY, ROOT)
        await fs.write(handle, 0, b"yy")
        await fs.setxattr(made.ino, b"user.b", b"2", ROOT)
        await fs.release(handle)
        await fs.rename(ROOT_ID, b"f", ROOT_ID, b"g", 0, ROOT)
        await fs.drive.commit()
        assert await fs.listxattr(made.ino) == [b"user.a", b"user.b"]
        assert await fs.getxattr(made.ino, b"user.a", ROOT) == b"1"
        for name, number in (
            (b"security.capability", errno.ENODATA),
            (b"system.posix_acl_access", errno.EOPNOTSUPP),
            (b"user.none", errno.ENODATA),
        ):
            with raises(number):
                await fs.getxattr(made.ino, name, ROOT)


async def test_changes_of_names_move_the_directory_s_times_from_version_to_version():
    async with file_system() as fs:
        directory = (await fs.mkdir(ROOT_ID, b"d", 0o755, ROOT)).ino
        times = [(await fs.getattr(directory)).mtime_ns]
        await fs.drive.commit()

        async def moved():
            times.append((await fs.getattr(directory)).mtime_ns)
            await fs.drive.commit()
            return times[-1] > times[-2]

        made = await write(fs, directory, b"f")
        assert await moved()
        await fs.link(made.ino, directory, b"g", ROOT)
        assert await moved()
        await fs.rename(directory, b"g", ROOT_ID, b"g", 0, ROOT)
        assert await moved()
        await fs.unlink(directory, b"f", ROOT)
        assert await moved()
        await fs.lookup(ROOT_ID, b"g", ROOT)
        assert not await moved()


async def test_set_access_time_is_shown_while_the_inode_is_known():
    async with file_system() as fs:
        made = await write(fs, ROOT_ID, b"f")
        found = await fs.setattr(made.ino, SetAttributes(atime_ns=5, mtime_ns=7), ROOT)
        assert (found.atime_ns, found.mtime_ns) == (5, 7)
        assert (await fs.lookup(ROOT_ID, b"f", ROOT)).atime_ns == 5


PAGE = 4096
MIB = 1 << 20


@pytest.mark.parametrize(
    ("steps", "pages"),
    [
        ([100 * MIB], 1),  # never none: see `Presentation.show`
        ([(0, 10 * PAGE)], 10),
        ([(0, 10 * PAGE), 100 * MIB], 10),
        ([(10 * MIB, 2 * PAGE)], 2),
        ([(0, 3 * PAGE), (10 * MIB, 2 * PAGE), (20 * MIB, PAGE)], 6),
        ([(0, 10 * PAGE), 4 * PAGE, 100 * MIB], 4),
        ([(0, 10 * PAGE), 0, 100 * MIB], 1),
        ([(0, 10 * PAGE), 2 * PAGE, 50 * PAGE, (20 * PAGE, PAGE), 60 * PAGE], 3),
    ],
)
@pytest.mark.parametrize("between", [False, True])
async def test_used_blocks_count_no_holes(steps, pages, between):
    """*steps* truncate to a size, or write so many bytes at an offset; *between* them it is
    committed, or only after the last."""
    async with file_system() as fs:
        handle, made = await fs.create(ROOT_ID, b"f", 0o644, os.O_RDWR, ROOT)
        for step in steps:
            if isinstance(step, int):
                told = await fs.setattr(made.ino, SetAttributes(size=step), ROOT)
                assert told.blocks == (await fs.getattr(made.ino)).blocks
            else:
                offset, length = step
                await fs.write(handle, offset, os.urandom(length))
            if between:
                await fs.drive.commit()
        assert (await fs.getattr(made.ino)).blocks == pages * PAGE // 512
        await fs.drive.commit()
        assert (await fs.getattr(made.ino)).blocks == pages * PAGE // 512
        await fs.release(handle)
        while fs.drive.tree.files.get(made.ino) is not None:
            await trio.lowlevel.checkpoint()
        assert (await fs.getattr(made.ino)).blocks == pages * PAGE // 512


async def test_used_blocks_are_those_of_the_size_where_all_is_written_again():
    async with file_system() as fs:
        handle, made = await fs.create(ROOT_ID, b"f", 0o644, os.O_RDWR, ROOT)
        for _ in range(3):
            await fs.write(handle, 0, os.urandom(MIB))
            assert (await fs.getattr(made.ino)).blocks == MIB // 512
            await fs.drive.commit()


async def test_presentation_shows_other_owners_and_bits():
    shown = Presentation(uid=5, gid=6, umask=0o022)
    async with file_system(presentation=shown) as fs:
        made = await write(fs, ROOT_ID, b"f", b"x", ROOT, 0o600)
        assert (made.uid, made.gid, made.mode) == (5, 6, stat.S_IFREG | 0o755)
        entry = await fs.drive.lookup(ROOT_ID, b"f")
        assert (entry.uid, entry.mode) == (0, stat.S_IFREG | 0o600)


async def test_change_beside_the_mount_is_told():
    async with file_system() as fs:
        made = await write(fs, ROOT_ID, b"f", b"one")
        await fs.drive.write("/f", b"other")
        await fs.changed_outside(ROOT_ID, b"f")
        told = fs.invalidations.items
        found = await fs.drive.lookup(ROOT_ID, b"f")
        if found.id == made.ino:
            assert InvalidateInode(made.ino, attr_only=False) in told
        else:
            assert InvalidateEntry(ROOT_ID, b"f") in told
        await fs.drive.remove("/f")
        told.clear()
        await fs.changed_outside(ROOT_ID, b"f")
        assert InvalidateEntry(ROOT_ID, b"f") in told


async def test_two_files_made_at_once_under_one_name_are_one():
    async with file_system() as fs:
        outcomes = []

        async def make():
            try:
                outcomes.append((await fs.mkdir(ROOT_ID, b"d", 0o755, ROOT)).ino)
            except FileExistsError:
                outcomes.append(None)

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(make)
        assert outcomes.count(None) == 4


async def test_the_log_names_what_a_request_was_about_by_its_path():
    pytest.importorskip("pyfuse3")
    from hyperfs.fuse.operations import Operations

    async with file_system() as fs:
        folder = (await fs.mkdir(ROOT_ID, b"a folder", 0o755, ROOT)).ino
        made = await write(fs, folder, b"f", b"content")
        handle = await fs.open(made.ino, os.O_RDONLY, ROOT)
        listing = await fs.opendir(folder, ROOT)
        told = Operations(fs, History(fs, lambda drive: fs), xattrs=True).described
        assert told("getattr", (made.ino, None)) == "getattr /a folder/f"
        assert told("getattr", (ROOT_ID, None)) == "getattr /"
        assert told("lookup", (folder, b"g", None)) == "lookup /a folder/g"
        assert told("lookup", (ROOT_ID, b"g", None)) == "lookup /g"
        assert told("getxattr", (made.ino, b"user.a", None)) == "getxattr /a folder/f"
        assert told("read", (handle, 0, 10)) == "read /a folder/f"
        assert told("readdir", (listing, 0, None)) == "readdir /a folder"
        assert told("read", (999, 0, 10)) == "read of what is not open"
        assert told("getattr", (999, None)) == "getattr /(inode 999)"
        assert told("statfs", (None,)) == "statfs"
        await fs.unlink(folder, b"f", ROOT)
        assert told("read", (handle, 0, 10)) == f"read /(inode {made.ino})"


@pytest.mark.parametrize("meanwhile", ["link", "rename", "remove", "replace", "mkdir"])
async def test_what_programs_do_while_the_library_writes_a_file_holds(meanwhile):
    async with file_system() as fs:
        made = await write(fs, ROOT_ID, b"f", b"old")
        await fs.drive.commit()

        async def data():
            yield b"new "
            match meanwhile:
                case "link":
                    await fs.link(made.ino, ROOT_ID, b"other", ROOT)
                case "rename":
                    await fs.rename(ROOT_ID, b"f", ROOT_ID, b"other", 0, ROOT)
                case "remove":
                    await fs.unlink(ROOT_ID, b"f", ROOT)
                case "replace":
                    await write(fs, ROOT_ID, b"g", b"another")
                    await fs.rename(ROOT_ID, b"g", ROOT_ID, b"f", 0, ROOT)
                case "mkdir":
                    await fs.unlink(ROOT_ID, b"f", ROOT)
                    await fs.mkdir(ROOT_ID, b"f", 0o755, ROOT)
            yield b"content"

        if meanwhile == "mkdir":
            with raises(errno.EISDIR):
                await fs.drive.write("/f", data())
            return
        await fs.drive.write("/f", data())
        assert await fs.drive.read("/f") == b"new content"
        shown = await fs.lookup(ROOT_ID, b"f", ROOT)
        other = await fs.lookup(ROOT_ID, b"other", ROOT)
        assert (shown.ino == made.ino) == (meanwhile == "link")
        if meanwhile == "link":
            assert shown.ino == other.ino
            assert shown.nlink == 2
            assert await fs.drive.read("/other") == b"new content"
        elif meanwhile == "rename":
            assert other.ino == made.ino
            assert await fs.drive.read("/other") == b"old"


async def test_a_directory_made_while_the_library_writes_below_it_keeps_what_it_has():
    async with file_system() as fs:

        async def data():
            yield b"one "
            made = await fs.mkdir(ROOT_ID, b"d", 0o755, ROOT)
            await write(fs, made.ino, b"a", b"here first")
            yield b"two"

        await fs.drive.write("/d/b", data())
        assert await fs.drive.read("/d/a") == b"here first"
        assert await fs.drive.read("/d/b") == b"one two"
