"""Open files and commits: when they happen, and what they hold."""

from __future__ import annotations

import errno
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import trio
import trio.testing

import corestore
import hyperfs
from hyperfs import committer
from hyperfs.drive import ROOT_ID, SHARED
from hyperfs.index.node import BlocksMissing
from tests.support.builders import FaultyStorage, eventually, open_with
from tests.support.drives import a_drive, committed, contents, make_file, snapshot

# -- when ----------------------------------------------------------------------------------------


async def test_nothing_is_committed_before_ten_milliseconds_and_then_soon(autojump_clock):
    async with a_drive() as drive:
        version = drive.version
        file = make_file(drive, b"f")
        await file.write(0, b"x")
        drive.schedule_commit()
        await trio.sleep(committer.SOON_SECONDS * 0.9)
        assert drive.version == version
        await trio.sleep(committer.SOON_SECONDS * 0.2)
        assert drive.version > version
        assert await committed(drive, "/f") == b"x"
        file.release()


async def test_what_goes_on_without_a_pause_is_committed_by_age_alone(autojump_clock):
    async with a_drive() as drive:
        version, began = drive.version, trio.current_time()
        while drive.version == version:
            make_file(drive, b"%f" % trio.current_time()).release()
            drive.schedule_commit()
            await trio.sleep(committer.SOON_SECONDS * 0.9)
        waited = trio.current_time() - began
        assert 0.99 <= waited / committer.AGE_SECONDS <= 1.05


async def test_a_great_number_of_changes_is_committed_at_once(autojump_clock):
    async with a_drive() as drive:
        version = drive.version
        for number in range(committer.MOST_CHANGES):
            make_file(drive, b"%d" % number).release()
        await trio.sleep(committer.AGE_SECONDS / 10)
        assert drive.version > version


async def test_age_commits_open_files(autojump_clock):
    async with a_drive() as drive:
        file = make_file(drive, b"f")
        await file.write(0, b"half")
        version = drive.version
        await trio.sleep(committer.AGE_SECONDS * 0.9)
        assert drive.version == version
        await trio.sleep(committer.AGE_SECONDS * 0.2)
        assert await committed(drive, "/f") == b"half"
        assert not file.dirty
        file.release()


async def test_commit_without_changes_makes_no_version(autojump_clock):
    async with a_drive() as drive:
        version = drive.version
        assert await drive.commit() == version
        await drive.sync()
        file = make_file(drive, b"f")
        drive.tree.delete(ROOT_ID, b"f")
        assert await drive.commit() == version
        file.release()


async def test_commits_collect_what_comes_while_one_is_in_flight():
    async with a_drive() as drive:
        version = drive.version
        files = [make_file(drive, b"%d" % n) for n in range(50)]
        async with trio.open_nursery() as nursery:
            for file in files:
                await file.write(0, b"data" * 1000)
                nursery.start_soon(drive.commit)
                await trio.lowlevel.checkpoint()
        # Each commit of small changes is one block, or two when the overlay is rewritten.
        commits, past = 0, drive
        while past.version > version:
            commits += 1
            past = await drive.checkout(past.previous())
        assert commits < 25
        for file in files:
            file.release()


async def test_leaving_the_block_commits_even_when_cancelled():
    async with open_with(FaultyStorage()) as store:
        with trio.CancelScope() as scope:
            async with hyperfs.open(store, name="d", create=True) as drive:
                file = make_file(drive, b"f")
                await file.write(0, b"kept")
                file.release()
                scope.cancel()
                await trio.sleep_forever()
        async with hyperfs.open(store, name="d") as drive:
            assert await drive.read("/f") == b"kept"


async def test_an_exception_in_the_block_comes_out_as_it_is():
    async with open_with(FaultyStorage()) as store:
        with pytest.raises(FileNotFoundError) as caught:
            async with hyperfs.open(store, name="d", create=True) as drive:
                await drive.read("/missing/file")
        assert caught.value.errno == errno.ENOENT
        assert caught.value.filename == "/missing"


async def test_sync_publishes():
    async with a_drive() as drive:
        file = make_file(drive, b"f")
        await file.write(0, b"x" * 100_000)
        await drive.sync()
        assert drive.metadata.published_length == drive.version
        assert drive.content.published_length == drive.content.length > 0
        file.release()


# -- one instant -----------------------------------------------------------------------------------


async def test_writes_during_a_commit_belong_to_the_next():
    async with a_drive() as drive:
        file = make_file(drive, b"f")
        await file.write(0, b"a" * 2_000_000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drive.commit)
            await trio.testing.wait_all_tasks_blocked()
            await file.write(5, b"later")
            file.truncate(1_000_000)
            assert await file.read(0, 12) == b"aaaaalateraa"
        assert await committed(drive, "/f") == b"a" * 2_000_000
        assert await file.read(0, 12) == b"aaaaalateraa"
        assert file.size == 1_000_000
        await drive.commit()
        assert await committed(drive, "/f") == b"aaaaalater".ljust(1_000_000, b"a")
        file.release()


async def test_a_file_renamed_during_its_commit_ends_under_its_new_name():
    async with a_drive() as drive:
        file = make_file(drive, b"old")
        await file.write(0, b"b" * 1_000_000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drive.commit)
            await trio.testing.wait_all_tasks_blocked()
            drive.tree.delete(ROOT_ID, b"old")
            drive.tree.put(ROOT_ID, b"new", file.entry)
            assert file.location == (ROOT_ID, b"new")
            file.release()
        await drive.commit()
        assert await snapshot(drive) == {b"/": None, b"/new": b"b" * 1_000_000}
        assert await committed(drive, "/new") == b"b" * 1_000_000
        assert drive.tree.files.get(file.id) is None


async def test_a_file_unlinked_during_its_commit_is_gone_and_still_reads():
    async with a_drive() as drive:
        file = make_file(drive, b"f")
        await file.write(0, b"c" * 1_000_000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drive.commit)
            await trio.testing.wait_all_tasks_blocked()
            drive.tree.delete(ROOT_ID, b"f")
            assert file.location is None
        await drive.commit()
        assert await snapshot(drive) == {b"/": None}
        assert await contents(file) == b"c" * 1_000_000
        await file.write(1, b"d")
        assert (await file.read(0, 3)) == b"cdc"
        file.release()
        assert drive.tree.files.get(file.id) is None
        assert drive.statistics().dirty_bytes == 0
        assert drive.statistics().files == 1


async def test_a_replaced_file_keeps_its_content_for_who_has_it_open():
    async with a_drive() as drive:
        old, new = make_file(drive, b"f"), make_file(drive, b"tmp")
        await old.write(0, b"old" * 100_000)
        await new.write(0, b"new" * 100_000)
        await drive.commit()
        drive.tree.delete(ROOT_ID, b"tmp")
        drive.tree.put(ROOT_ID, b"f", new.entry)
        assert (old.location, new.location) == (None, (ROOT_ID, b"f"))
        await drive.commit()
        assert await contents(old) == b"old" * 100_000
        assert await committed(drive, "/f") == b"new" * 100_000
        old.release()
        new.release()


async def test_an_unlinked_file_with_many_extents_keeps_them_when_its_groups_go():
    async with a_drive() as drive:
        file = make_file(drive, b"f")
        for n in range(100):
            await file.write(n * 50_000, bytes([n]) * 20_000)
        await drive.commit()
        assert file.entry.grouped
        expected = await contents(file)
        drive.tree.delete(ROOT_ID, b"f")
        drive.tree.forget_content(file.entry)
        await drive.commit()
        index = drive._tree.view.index
        assert [key for key, _ in index.scan(b"", None, 1000)] == [b"\0\0\0\0\0\1\0"]
        assert await contents(file) == expected
        file.release()


async def test_group_records_beyond_the_end_go_with_a_truncation():
    async with a_drive() as drive:
        file = make_file(drive, b"f")
        for n in range(100):
            await file.write(n * 100_000, bytes([n]) * 100_000)
        await drive.commit()
        before = len(drive._tree.view.index.scan(b"", None, 1000))
        file.truncate(4_000_000)
        await drive.commit()
        after = len(drive._tree.view.index.scan(b"", None, 1000))
        assert before - after == 23  # of 39 windows of 256 KiB
        file.truncate(0)
        await file.write(0, b"short")
        await drive.commit()
        assert len(drive._tree.view.index.scan(b"", None, 1000)) == 2
        assert file.entry.inline == b"short"
        file.release()


# -- attributes and hard links ---------------------------------------------------------------------


async def test_attributes_of_an_open_file_are_shown_and_committed():
    async with a_drive() as drive:
        file = make_file(drive, b"f")
        await file.write(0, b"x" * 200)
        file.update(mode=stat.S_IFREG | 0o400, xattrs={b"user.a": b"1"}, mtime_ns=77)
        entry = await drive.lookup(ROOT_ID, b"f")
        assert (entry.size, entry.mtime_ns, entry.xattrs) == (200, 77, {b"user.a": b"1"})
        assert await drive.list(ROOT_ID) == [(b"f", entry)]
        await drive.commit()
        recorded = await (await drive.checkout(drive.version)).entry("/f")
        assert (recorded.mode, recorded.mtime_ns) == (stat.S_IFREG | 0o400, 77)
        with pytest.raises(ValueError):
            file.update(xattrs={b"": b"1"})
        file.release()


async def test_putting_an_open_file_changes_its_attributes_only():
    async with a_drive() as drive:
        file = make_file(drive, b"f")
        entry = file.entry
        await file.write(0, b"x" * 300)
        drive.tree.put(ROOT_ID, b"f", entry)
        assert file.size == 300
        await drive.commit()
        assert (await drive.lookup(ROOT_ID, b"f")).size == 300
        file.release()


async def test_hard_links_share_one_record():
    async with a_drive() as drive:
        file = make_file(drive, b"one")
        await file.write(0, b"shared" * 50)
        drive.tree.put_shared(file.entry)
        drive.tree.put_link(ROOT_ID, b"one", file.id)
        drive.tree.put_link(ROOT_ID, b"two", file.id)
        file.update(nlink=2)
        assert file.location is SHARED
        await drive.commit()
        await file.write(0, b"SHARED")
        assert (await drive.resolve(ROOT_ID, b"two")) == (file.entry, SHARED)
        file.release()
        await drive.commit()
        for path in ("/one", "/two"):
            assert (await committed(drive, path))[:12] == b"SHAREDshared"
        assert drive.statistics().files == 2
        # The last but one name goes by path, the other stays.
        await drive.remove("/one")
        assert (await drive.entry("/two")).nlink == 1
        await drive.remove("/two")
        assert drive.tree.shared(file.id) is None
        assert drive.statistics().files == 1


async def test_opening_with_an_old_entry_reads_the_new_content():
    async with a_drive() as drive:
        file = make_file(drive, b"f")
        await file.write(0, b"1" * 1000)
        await drive.commit()
        old = file.entry
        await file.write(0, b"2" * 1000)
        file.release()
        await drive.commit()
        assert drive.tree.files.get(old.id) is None
        again = drive.open_file(old, (ROOT_ID, b"f"))
        assert await again.read(0, 10) == b"2" * 10
        again.release()


# -- content ---------------------------------------------------------------------------------------


async def test_small_files_of_one_commit_share_blocks():
    async with a_drive() as drive:
        before = drive.content.length
        async with drive.batch() as batch:
            for n in range(100):
                await batch.write(f"/{n}", bytes([n]) * 1000)
        assert drive.content.length - before == 2
        for n in range(100):
            assert await drive.read(f"/{n}") == bytes([n]) * 1000


async def test_tiny_files_take_no_content():
    async with a_drive() as drive:
        await drive.write("/tiny", b"t" * 128)
        await drive.write("/empty", b"")
        assert drive.content.length == 0
        assert (await drive.entry("/tiny")).inline == b"t" * 128


async def test_equal_content_is_stored_once():
    import random

    data = random.Random(1).randbytes(3_000_000)
    async with a_drive() as drive:
        await drive.write("/one", data)
        stored = drive.content.byte_length
        await drive.write("/two", data)
        await drive.write("/shifted", b"in front" + data)
        assert drive.content.byte_length - stored < 300_000
        assert await drive.read("/shifted") == b"in front" + data


async def test_a_log_synced_line_by_line_keeps_few_extents():
    async with a_drive() as drive:
        file = make_file(drive, b"log")
        for n in range(300):
            await file.write(file.size, b"line %06d of a hundred bytes " % n * 4)
            await drive.commit()
        size = file.size
        file.release()
        entry = await drive.entry("/log")
        pieces = size // 4096 + 2
        assert entry.grouped or len(entry.extents) <= pieces
        # As many bytes again for each page as its lines rewrite, about half of it each time.
        assert drive.content.byte_length < 300 * 4096


async def test_scattered_small_writes_do_not_fragment_for_ever():
    import random

    source = random.Random(3)
    async with a_drive() as drive:
        data = bytearray(source.randbytes(1_500_000))
        await drive.write("/db", bytes(data))
        file = drive.open_file(*await drive.resolve(ROOT_ID, b"db"))
        for _ in range(600):
            page = source.randrange(300) * 4096
            piece = source.randbytes(4096)
            await file.write(page, piece)
            data[page : page + 4096] = piece
            if source.random() < 0.1:
                await drive.commit()
        await drive.commit()
        assert await contents(file) == data
        assert len(file.content.window(0)) <= 300
        file.release()


async def test_holes_take_no_content():
    async with a_drive() as drive:
        file = make_file(drive, b"sparse")
        await file.write(1 << 40, b"end" * 100)
        file.truncate(1 << 41)
        await drive.commit()
        assert drive.content.byte_length == 300
        assert await file.read((1 << 40) - 5, 10) == bytes(5) + b"enden"
        assert (await drive.entry("/sparse")).size == 1 << 41
        file.release()


async def test_offsets_beyond_bounds_are_refused():
    async with a_drive() as drive:
        file = make_file(drive, b"f")
        with pytest.raises(OSError, match="too large") as caught:
            await file.write(1 << 50, b"x")
        assert caught.value.errno == errno.EFBIG
        with pytest.raises(OSError, match="too large") as caught:
            file.truncate((1 << 50) + 1)
        assert caught.value.errno == errno.EFBIG
        assert file.size == 0
        file.truncate(1 << 50)
        assert file.size == 1 << 50
        with pytest.raises(ValueError):
            await file.write(-1, b"x")
        file.release()


# -- bounds ----------------------------------------------------------------------------------------


async def test_dirty_content_is_bounded_and_flushed_before_its_record(monkeypatch, autojump_clock):
    monkeypatch.setattr(committer, "FLUSH_DIRTY_BYTES", 4_000_000)
    monkeypatch.setattr(committer, "MAX_DIRTY_BYTES", 8_000_000)
    async with a_drive() as drive:
        version = drive.version
        file = make_file(drive, b"f")
        most = 0
        for n in range(60):
            await file.write(n * 1_000_000, bytes([n]) * 1_000_000)
            most = max(most, drive.statistics().dirty_bytes)
        assert most < 10_000_000
        assert drive.content.byte_length > 3 * 250_000
        assert drive.version <= version + 4
        await drive.commit()
        for n in range(60):
            assert await file.read(n * 1_000_000 + 999_999, 1) == bytes([n])
        file.release()
        assert drive.statistics().dirty_bytes == 0


async def test_a_file_is_recorded_after_its_content_was_flushed(monkeypatch, autojump_clock):
    monkeypatch.setattr(committer, "FLUSH_DIRTY_BYTES", 2_000_000)
    async with a_drive() as drive:
        file = make_file(drive, b"f")
        await drive.commit()
        version = drive.version
        await file.write(0, b"x" * 3_000_000)
        await eventually(lambda: not drive.statistics().dirty_bytes)
        assert drive.version == version
        await drive.commit()
        assert await committed(drive, "/f") == b"x" * 3_000_000
        file.release()


async def test_a_replaced_content_that_is_being_flushed_is_whole(monkeypatch):
    monkeypatch.setattr(committer, "FLUSH_DIRTY_BYTES", 2_000_000)
    async with a_drive() as drive:
        await drive.write("/f", b"old" * 1000)
        async with drive.batch() as batch:
            await batch.write("/f", b"new" * 1_000_000)
            # The committer has begun to append what will be the content of /f.
            while not any(each.frozen for each in drive._tree.files.values()):
                await trio.lowlevel.checkpoint()
        assert await drive.read("/f") == b"new" * 1_000_000
        assert await committed(drive, "/f") == b"new" * 1_000_000
        assert drive.statistics().dirty_bytes == 0


async def test_an_unlinked_file_is_bounded_too(monkeypatch):
    monkeypatch.setattr(committer, "FLUSH_DIRTY_BYTES", 1_000_000)
    monkeypatch.setattr(committer, "MAX_DIRTY_BYTES", 2_000_000)
    async with a_drive() as drive:
        files = []
        for n in range(30):
            file = make_file(drive, b"f")
            drive.tree.delete(ROOT_ID, b"f")
            await file.write(0, bytes([n]) * 300_000)
            files.append(file)
        assert drive.statistics().dirty_bytes < 3_000_000
        for n, file in enumerate(files):
            assert await contents(file) == bytes([n]) * 300_000
            file.release()
        assert drive.statistics().dirty_bytes == 0


async def test_a_checkout_cannot_be_changed():
    async with a_drive() as drive:
        await drive.write("/f", b"x")
        past = await drive.checkout(drive.version)
        with pytest.raises(corestore.NotWritable):
            await past.write("/f", b"y")
        with pytest.raises(corestore.NotWritable):
            past.tree.new_id()
        file = past.open_file(await past.entry("/f"), (ROOT_ID, b"f"))
        with pytest.raises(corestore.NotWritable):
            await file.write(0, b"y")
        file.release()


def test_missing_blocks_are_an_internal_matter():
    assert not issubclass(BlocksMissing, (OSError, corestore.CorestoreError))


BIG_FILE = """
import os, resource, stat, sys, trio, corestore, hyperfs
async def main():
    async with corestore.open(sys.argv[1]) as store:
        async with hyperfs.open(store, name="d", create=True) as drive:
            base = int.from_bytes(os.urandom(1 << 20), "little")
            entry = hyperfs.Entry(drive.tree.new_id(), stat.S_IFREG | 0o644, 0, 0, 0, 0, 0)
            drive.tree.put(1, b"big", entry)
            file = drive.open_file(entry, (1, b"big"))
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            for n in range(256):
                salt = int.from_bytes(os.urandom(8) * 131072, "little")
                data = (base ^ salt).to_bytes(1 << 20, "little")
                for at in range(0, 1 << 20, 1 << 17):
                    await file.write((n << 20) + at, data[at : at + (1 << 17)])
                    await trio.lowlevel.checkpoint()
            file.release()
            await drive.sync()
            assert (await drive.entry("/big")).size == 256 << 20
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
trio.run(main)
"""


@pytest.mark.slow
def test_a_file_of_256_mib_is_written_in_bounded_memory(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", BIG_FILE, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    # 64 MiB of dirty content at most, what is being appended among it, and the caches.
    assert int(done.stdout) < 130_000


async def test_equal_content_is_found_after_reopening(tmp_path):
    import random

    data = random.Random(5).randbytes(2_000_000)
    for n in range(3):
        async with (
            corestore.open(tmp_path) as store,
            hyperfs.open(store, name="d", create=True) as drive,
        ):
            await drive.write("/own", random.Random(n).randbytes(200_000))
            # The table is loaded in the background.
            await trio.testing.wait_all_tasks_blocked(0.01)
            stored = drive.content.byte_length
            await drive.write(f"/{n}", data)
            grown = drive.content.byte_length - stored
            assert grown == (len(data) if n == 0 else 0)
            assert await drive.read(f"/{n}") == data


async def test_attributes_changed_before_a_commit_and_closed_during_it_are_not_lost(nursery):
    """What rsync does: open for reading, fchmod, close, rename."""
    async with (
        open_with(FaultyStorage()) as store,
        hyperfs.open(store, name="d", create=True) as drive,
    ):
        make_file(drive, b"draft").release()
        await drive.commit()
        entry = await drive.lookup(ROOT_ID, b"draft")
        file = drive.open_file(entry, (ROOT_ID, b"draft"))
        file.update(mode=stat.S_IFREG | 0o600)
        done = trio.Event()

        async def commit():
            await drive.commit()
            done.set()

        # The commit has begun and cannot end.
        async with store.transaction(drive.metadata):
            nursery.start_soon(commit)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert drive._tree.staging.committing is not None
            file.release()
            entry = await drive.lookup(ROOT_ID, b"draft")
            assert not done.is_set()
        # Nothing shows the old mode, and nothing that is made of what is shown has it.
        assert entry.mode == stat.S_IFREG | 0o600
        drive.tree.delete(ROOT_ID, b"draft")
        drive.tree.put(ROOT_ID, b"final", entry)
        await drive.commit()
        past = await drive.checkout(drive.version)
        assert (await past.entry("/final")).mode == stat.S_IFREG | 0o600
        assert not drive._tree.files
        assert not drive._tree.dirty_files
