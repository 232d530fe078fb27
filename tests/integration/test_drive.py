"""Drives by name and by path: making, opening, removing them; paths, versions, errors."""

from __future__ import annotations

import errno
import gc
import os
import stat
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

import corestore
import hyperfs
from hyperfs import versions
from hyperfs.drive import ROOT_ID
from hyperfs.index import NodeCache, build_commit, header_block
from hyperfs.records import pack_entry, shared_key
from tests.support.drives import snapshot
from tests.support.limits import HANG_SECONDS

ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def a_drive():
    async with corestore.open(None) as store, hyperfs.open(store, name="d", create=True) as drive:
        yield drive


# -- names -----------------------------------------------------------------------------------------


async def test_creating_a_name_twice_names_the_existing_key():
    async with corestore.open(None) as store:
        key = await hyperfs.create(store, "photos")
        with pytest.raises(hyperfs.DriveExists, match=str(key)) as caught:
            await hyperfs.create(store, "photos")
        assert caught.value.key == key
        assert [(d.name, d.key, d.writable) for d in hyperfs.drives(store)] == [
            ("photos", key, True)
        ]


@pytest.mark.parametrize("name", ["", "a" * 41, "with space", "a/b", "ü", "x\n"])
async def test_bad_names_are_refused(name):
    async with corestore.open(None) as store:
        with pytest.raises(ValueError, match="drive name"):
            await hyperfs.create(store, name)
        assert hyperfs.drives(store) == []


async def test_renamed_drive_keeps_its_key():
    async with corestore.open(None) as store:
        one, two = await hyperfs.create(store, "one"), await hyperfs.create(store, "two")
        with pytest.raises(hyperfs.DriveExists):
            await hyperfs.rename_drive(store, "one", "two")
        with pytest.raises(hyperfs.NoSuchDrive):
            await hyperfs.rename_drive(store, "none", "three")
        await hyperfs.rename_drive(store, "one", "three")
        assert {d.name: d.key for d in hyperfs.drives(store)} == {"three": one, "two": two}
        async with hyperfs.open(store, name="three") as drive:
            await drive.write("/f", b"x")


async def test_removed_name_never_gets_its_key_back(tmp_path):
    async with corestore.open(tmp_path) as store:
        key = await hyperfs.create(store, "d")
        async with hyperfs.open(store, name="d") as drive:
            await drive.write("/f", b"x" * 100_000)
        await hyperfs.remove_drive(store, "d")
        assert list(store.cores()) == []
        with pytest.raises(hyperfs.NoSuchDrive):
            await hyperfs.remove_drive(store, "d")
        assert await hyperfs.create(store, "d") != key


async def test_a_drive_that_cannot_be_removed_keeps_its_name(tmp_path):
    async with corestore.open(tmp_path) as store, corestore.open(tmp_path) as other:
        await hyperfs.create(store, "d")
        async with hyperfs.open(store, name="d") as drive:
            with pytest.raises(ValueError, match="open"):
                await hyperfs.remove_drive(store, "d")
            await drive.write("/f", b"x")
            with pytest.raises(corestore.StorageLocked):
                await hyperfs.remove_drive(other, "d")
        async with hyperfs.open(store, name="d") as drive:
            await drive.write("/g", b"y")
        assert [info.name for info in hyperfs.drives(other)] == ["d"]
        await hyperfs.remove_drive(store, "d")
        assert hyperfs.drives(other) == []


async def test_a_drive_is_opened_by_name_or_by_key():
    async with corestore.open(None) as store:
        with pytest.raises(hyperfs.NoSuchDrive):
            async with hyperfs.open(store, name="d"):
                pass
        with pytest.raises(ValueError, match="by its key or by its name"):
            async with hyperfs.open(store):
                pass
        key = await hyperfs.create(store, "d")
        async with hyperfs.open(store, key=str(key)) as drive:
            assert drive.writable
            assert drive.name == "d"
            await drive.write("/f", b"1")
        async with hyperfs.open(store, name="d") as drive:
            assert await drive.read("/f") == b"1"


async def test_every_first_version_is_whole(tmp_path):
    """After `create` there are header and root, or nothing."""
    async with corestore.open(tmp_path) as store:
        key = await hyperfs.create(store, "d")
    async with corestore.open(tmp_path) as store, hyperfs.open(store, key=key) as drive:
        assert drive.version == 2
        assert drive.previous() == 0
        root = await drive.entry("/")
        assert (root.id, root.is_dir) == (ROOT_ID, True)
        assert await snapshot(drive) == {b"/": None}
        assert drive.statistics().files == 1


async def test_what_is_no_drive_is_refused():
    async with corestore.open(None) as store:
        core = await store.get(name="log")
        await core.append(b"hello", b"world")
        with pytest.raises(hyperfs.NotADrive):
            async with hyperfs.open(store, key=core.key):
                pass
        future = await store.get(name="future")
        await future.append(header_block().replace(b"hyperfs/1", b"hyperfs/9"), b"?")
        with pytest.raises(hyperfs.UnsupportedFormat) as caught:
            async with hyperfs.open(store, key=future.key):
                pass
        assert caught.value.version == 9


# -- paths -----------------------------------------------------------------------------------------


async def test_files_directories_and_links_by_path():
    async with a_drive() as drive:
        await drive.write("/2026/beach.jpg", b"jpeg" * 1000, mode=0o600, mtime_ns=123)
        await drive.mkdir("/empty", mode=0o700, mtime_ns=456)
        await drive.symlink("/latest", "2026/beach.jpg", mtime_ns=789)
        entry = await drive.entry("/2026/beach.jpg")
        assert (entry.mode, entry.size, entry.mtime_ns) == (stat.S_IFREG | 0o600, 4000, 123)
        assert (entry.uid, entry.gid) == (os.getuid(), os.getgid())
        entry = await drive.entry("empty/")
        assert (entry.mode, entry.mtime_ns) == (stat.S_IFDIR | 0o700, 456)
        entry = await drive.entry("/latest")
        assert (entry.target, entry.size, entry.mtime_ns) == (b"2026/beach.jpg", 14, 789)
        assert await drive.read("//2026/../2026/./beach.jpg", 4, 6) == b"jpegjp"
        assert await drive.read("/2026/beach.jpg", 3999, 100) == b"g"
        assert await drive.read("/2026/beach.jpg", 5000) == b""
        found = [each.path async for each in drive.walk()]
        assert found == [b"/2026", b"/empty", b"/latest", b"/2026/beach.jpg"]
        found = [each.name async for each in drive.scandir("/2026")]
        assert found == [b"beach.jpg"]


async def test_overwriting_keeps_id_and_mode():
    async with a_drive() as drive:
        await drive.write("/f", b"1" * 1000, mode=0o755)
        before = await drive.entry("/f")
        await drive.write("/f", b"2")
        after = await drive.entry("/f")
        assert (after.id, after.mode, after.inline) == (before.id, before.mode, b"2")


async def test_writing_a_file_shows_in_who_has_it_open():
    async with a_drive() as drive:
        await drive.write("/f", b"1" * 1000)
        file = drive.open_file(*await drive.resolve(ROOT_ID, b"f"))
        await file.write(0, b"lost under what comes")
        await drive.write("/f", b"2" * 500_000)
        assert file.size == 500_000
        assert await file.read(0, 3) == b"222"
        file.release()
        assert await drive.read("/f", 499_990) == b"2" * 10


async def test_streams_are_written_while_they_come():
    async def chunks():
        for n in range(40):
            yield bytes([n]) * 100_000

    async with a_drive() as drive:
        version = drive.version
        await drive.write("/f", chunks())
        assert (await drive.checkout(drive.previous())).version == version
        data = await drive.read("/f")
        assert data == b"".join([bytes([n]) * 100_000 for n in range(40)])


@pytest.mark.parametrize(
    ("call", "arguments", "error", "path"),
    [
        ("read", ["/missing"], FileNotFoundError, "/missing"),
        ("read", ["/file/below"], NotADirectoryError, "/file"),
        ("read", ["/dir"], IsADirectoryError, "/dir"),
        ("entry", ["/dir/missing/more"], FileNotFoundError, "/dir/missing"),
        ("write", ["/", b""], IsADirectoryError, "/"),
        ("write", ["/dir", b""], IsADirectoryError, "/dir"),
        ("write", ["/file/x", b""], NotADirectoryError, "/file"),
        ("write", ["/" + "n" * 256, b""], OSError, "/" + "n" * 256),
        ("mkdir", ["/dir"], FileExistsError, "/dir"),
        ("mkdir", ["/missing/dir"], FileNotFoundError, "/missing"),
        ("symlink", ["/file", "t"], FileExistsError, "/file"),
        ("remove", ["/missing"], FileNotFoundError, "/missing"),
        ("remove", ["/"], OSError, "/"),
        ("remove", ["/dir"], OSError, "/dir"),
        ("rename", ["/missing", "/x"], FileNotFoundError, "/missing"),
        ("rename", ["/dir", "/dir/below"], OSError, "/dir/below"),
        ("rename", ["/file", "/dir"], IsADirectoryError, "/dir"),
        ("rename", ["/dir", "/file"], NotADirectoryError, "/file"),
        ("rename", ["/other", "/dir"], OSError, "/dir"),
    ],
)
async def test_errors_name_their_path(call, arguments, error, path):
    async with a_drive() as drive:
        await drive.write("/file", b"f")
        await drive.write("/dir/inside", b"i")
        await drive.mkdir("/other")
        before = await snapshot(drive), drive.version
        with pytest.raises(error) as caught:
            await getattr(drive, call)(*arguments)
        assert caught.value.filename == path
        assert (await snapshot(drive), drive.version) == before


async def test_read_of_a_link_is_refused():
    async with a_drive() as drive:
        await drive.symlink("/l", "target")
        with pytest.raises(OSError, match="Invalid") as caught:
            await drive.read("/l")
        assert caught.value.errno == errno.EINVAL


async def test_nul_is_refused():
    async with a_drive() as drive:
        with pytest.raises(ValueError, match="NUL"):
            await drive.write("/a\0b", b"")
        with pytest.raises(ValueError):
            drive.tree.put_link(ROOT_ID, b"..", 2)


async def test_deep_trees_are_walked_and_removed():
    async with a_drive() as drive:
        path = "/d" * 1500
        await drive.write(path + "/f", b"x")
        assert len([each async for each in drive.walk()]) == 1501
        await drive.remove("/d", recursive=True)
        assert await snapshot(drive) == {b"/": None}


async def test_long_listings_are_paged_and_complete():
    async with a_drive() as drive:
        async with drive.batch() as batch:
            for n in range(1000):
                await batch.write(f"/dir/{n:05}", b"%d" % n)
        # Staged changes are merged in: every third name goes, some come.
        directory = (await drive.entry("/dir")).id
        for n in range(0, 1000, 3):
            drive.tree.delete(directory, b"%05d" % n)
        expected = [b"%05d" % n for n in range(1000) if n % 3]
        assert [each.name async for each in drive.scandir("/dir")] == expected
        for limit in (1, 7, 250, 5000):
            found, after = [], b""
            while page := await drive.list(directory, after, limit):
                found += [name for name, _ in page]
                after = page[-1][0]
                if len(page) < limit:
                    break
            assert found == expected


# -- versions --------------------------------------------------------------------------------------


async def test_versions_stay_readable():
    async with a_drive() as drive:
        await drive.write("/f", b"one" * 100)
        one = drive.version
        await drive.write("/f", b"two" * 100_000)
        await drive.rename("/f", "/g")
        past = await drive.checkout(one)
        assert await past.read("/f") == b"one" * 100
        assert past.version == one
        assert not past.writable
        assert past.time_ns <= drive.time_ns
        between = await drive.checkout(drive.previous())
        assert await between.read("/f") == b"two" * 100_000
        for version in (0, -1, 1, drive.version + 1):
            with pytest.raises(ValueError, match="version"):
                await drive.checkout(version)


async def test_difference_of_a_renamed_directory_is_told_by_path():
    async with a_drive() as drive:
        await drive.write("/a/b/f", b"1")
        await drive.write("/x/g", b"1")
        before = await drive.checkout(drive.version)
        await drive.rename("/a", "/c")
        await drive.write("/x/g", b"2")
        changes = [(change.path, change.kind) async for change in drive.diff(before)]
        assert sorted(changes) == [
            (b"/a", "removed"),
            (b"/a/b", "removed"),
            (b"/a/b/f", "removed"),
            (b"/c", "added"),
            (b"/c/b", "added"),
            (b"/c/b/f", "added"),
            (b"/x/g", "changed"),
        ]
        changes = [change.path async for change in drive.diff(before, "/x")]
        assert changes == [b"/x/g"]
        async for change in before.diff(drive, "/c/b"):
            assert change.kind == "removed"


@pytest.mark.parametrize("kind", ["file", "link"])
async def test_data_that_fails_leaves_what_had_the_name_in_a_batch_that_goes_on(kind):
    async def broken():
        yield b"half"
        raise PermissionError(errno.EACCES, "Permission denied")

    async with a_drive() as drive:
        if kind == "file":
            await drive.write("/a", b"whole")
        else:
            await drive.symlink("/a", "there")
        before = await snapshot(drive)
        async with drive.batch() as batch:
            with pytest.raises(PermissionError):
                await batch.write("/a", broken())
        assert await snapshot(drive) == before
        await drive.write("/a", b"new")
        assert await drive.read("/a") == b"new"


async def test_a_directory_within_itself_is_entered_once():
    async with a_drive() as drive:
        await drive.write("/a/f", b"")
        a = await drive.entry("/a")
        drive.tree.put(a.id, b"again", a)
        await drive.commit()
        assert [each.path async for each in drive.walk("/a")] == [b"/a/again", b"/a/f"]


async def test_versions_are_held_while_they_are_compared(monkeypatch):
    monkeypatch.setattr(NodeCache, "get", lambda self, index: None)
    async with a_drive() as drive:
        for content in (b"1", b"22"):
            async with drive.batch() as batch:
                for number in range(300):
                    await batch.write(f"/{number}", content)
        changes = drive.diff(await drive.checkout(drive.previous()))
        gc.collect()
        await drive.collect(keep_last=1)
        with trio.fail_after(HANG_SECONDS):
            assert len([change async for change in changes]) == 300


async def test_a_difference_is_found_without_a_look_at_all_directories(monkeypatch):
    async with a_drive() as drive:
        async with drive.batch() as batch:
            for number in range(100):
                await batch.mkdir(f"/{number:02}/below", parents=True)
        before = await drive.checkout(drive.version)
        looked = []
        children = versions._children

        async def counted(view, id, blocks):
            looked.append(id)
            return await children(view, id, blocks)

        monkeypatch.setattr(versions, "_children", counted)
        await drive.write("/00/new/file", b"1")
        changes = {change.path: change.kind async for change in drive.diff(before)}
        assert changes == {b"/00": "changed", b"/00/new": "added", b"/00/new/file": "added"}
        assert len(looked) < 10


# -- several processes -----------------------------------------------------------------------------


def start_child(program, store):
    """A process that runs *program* on a store."""
    return subprocess.Popen(
        [sys.executable, "-c", program, str(store)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


async def test_a_drive_open_twice_is_written_through_one():
    async with corestore.open(None) as store:
        await hyperfs.create(store, "d")
        async with hyperfs.open(store, name="d") as one, hyperfs.open(store, name="d") as two:
            await two.write("/f", b"1" * 1000)
            with pytest.raises(corestore.StorageLocked):
                await one.write("/g", b"x")
            await one.ready()
            with one.watch_changes() as changes:
                while one.version < two.version:
                    await anext(changes)
            assert await one.read("/f") == b"1" * 1000
        async with hyperfs.open(store, name="d") as one:
            await one.write("/g", b"x")


HOLDER = """
import sys, trio, corestore, hyperfs
async def main():
    async with corestore.open(sys.argv[1]) as store, hyperfs.open(store, name="d") as drive:
        await drive.write("/from-child", b"child")
        await drive.sync()
        print(drive.version, flush=True)
        await trio.to_thread.run_sync(sys.stdin.readline)
        await drive.write("/from-child-2", b"child")
        await drive.sync()
        print(drive.version, flush=True)
        await trio.to_thread.run_sync(sys.stdin.readline)
trio.run(main)
"""


async def test_one_process_writes_and_the_others_follow(tmp_path):
    async with corestore.open(tmp_path) as store:
        await hyperfs.create(store, "d")
    child = start_child(HOLDER, tmp_path)
    try:
        version = int(child.stdout.readline())
        async with corestore.open(tmp_path) as store, hyperfs.open(store, name="d") as drive:
            assert drive.version == version
            assert await drive.read("/from-child") == b"child"
            with pytest.raises(corestore.StorageLocked) as caught:
                await drive.claim()
            assert caught.value.pid == child.pid
            with pytest.raises(corestore.StorageLocked):
                await drive.write("/f", b"x")
            with pytest.raises(corestore.StorageLocked):
                drive.tree.new_id()
            print(file=child.stdin, flush=True)
            version = int(child.stdout.readline())
            child.kill()
            child.wait()
            # The kernel has let the lock go; what the other wrote is there.
            await drive.write("/ours", b"parent")
            assert drive.version > version
            assert set(await snapshot(drive)) == {
                b"/",
                b"/from-child",
                b"/from-child-2",
                b"/ours",
            }
    finally:
        child.kill()
        child.wait()
        child.stdin.close()
        child.stdout.close()


WRITER = """
import sys, trio, corestore, hyperfs
async def main():
    async with corestore.open(sys.argv[1]) as store, hyperfs.open(store, name="d") as drive:
        for n in range(10_000):
            async with drive.batch() as batch:
                await batch.write(f"/{n}/small", b"%d" % n * 50)
                await batch.write(f"/{n}/large", bytes([n % 251]) * 300_000)
            if n % 5 == 0:
                await drive.sync()
                print(n, flush=True)
trio.run(main)
"""


async def test_killed_writer_leaves_a_whole_version_with_all_that_was_synced(tmp_path):
    async with corestore.open(tmp_path) as store:
        await hyperfs.create(store, "d")
    synced = -1
    for lines in (1, 3, 6):
        child = start_child(WRITER, tmp_path)
        with child.stdout, child.stdin:
            for _ in range(lines):
                synced = max(synced, int(child.stdout.readline()))
            child.kill()
            for line in child.stdout:
                if line.endswith("\n"):
                    synced = max(synced, int(line))
        child.wait()
        async with corestore.open(tmp_path) as store, hyperfs.open(store, name="d") as drive:
            names = [int(each.name) async for each in drive.scandir()]
            assert len(names) > synced
            for n in names:
                assert await drive.read(f"/{n}/small") == b"%d" % n * 50
                assert await drive.read(f"/{n}/large") == bytes([n % 251]) * 300_000
            await drive.write("/0/large", bytes(300_000))


async def test_a_torn_commit_is_cut_off(tmp_path):
    """What a power cut can leave: metadata of a version whose content is gone."""
    async with corestore.open(tmp_path, sync="none") as store:
        key = await hyperfs.create(store, "d")
        async with hyperfs.open(store, name="d") as drive:
            await drive.write("/f", b"1" * 1000)
            whole = drive.version
    async with corestore.open(tmp_path, sync="group") as store:
        core = await store.get(key=key)
        root = hyperfs.Entry(ROOT_ID, stat.S_IFDIR, 0, 0, 0, 0, 0)
        blocks = build_commit(
            None,
            {shared_key(ROOT_ID): pack_entry(root)},
            first_block=1,
            time_ns=0,
            content_length=99,
            next_id=9,
            files=1,
            bytes=0,
        )
        await core.append(blocks[-1])
        async with hyperfs.open(store, name="d") as drive:
            assert drive.version == whole == drive.metadata.length
            assert await drive.read("/f") == b"1" * 1000
            await drive.symlink("/g", "2")
            # Its root takes the place of the torn one.
            assert drive.version == whole + 1
            assert await snapshot(drive) == {b"/": None, b"/f": b"1" * 1000, b"/g": "2"}


async def test_iterations_may_be_left_early_and_go_on_later(recwarn):
    """Leaving a loop is enough: no generator has to be closed, and none complains."""
    async with a_drive() as drive:
        async with drive.batch() as batch:
            for number in range(300):
                await batch.write(f"/{number % 7}/{number}", b"")
        with drive.watch() as watch:
            before = await drive.checkout(drive.version)
            async with drive.batch() as batch:
                await batch.write("/0/0", b"changed")
                await batch.write("/1/1", b"changed")
            change = await anext(watch)
        everything = [each.path async for each in drive.walk()]
        for iteration in (drive.walk(), drive.scandir("/0"), drive.diff(before), change.changes()):
            async for _ in iteration:
                break
            gc.collect()
            assert len([each async for each in iteration]) > 0
        walk = drive.walk()
        found = []
        async for each in walk:
            found.append(each.path)
            if len(found) == 100:
                break
        assert found + [each.path async for each in walk] == everything
        gc.collect()
    assert not recwarn.list


async def test_a_batch_that_is_not_committed_is_part_of_the_next_version():
    async with a_drive() as drive:
        before = drive.version
        for number in range(3):
            async with drive.batch(commit=False) as batch:
                await batch.write(f"/{number}", b"x" * 100_000)
        assert drive.version == before
        assert await drive.read("/2") == b"x" * 100_000
        await drive.sync()
        assert drive.previous() == before
