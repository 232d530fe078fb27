"""Space given back: what the disk gets, what comes back, what readers and writers see meanwhile."""

from __future__ import annotations

import random
import threading
from functools import partial

import pytest
import trio
import trio.testing

import corestore
import hyperfs
from hyperfs import committer
from hyperfs.collect import oldest_version
from hyperfs.drive import ROOT_ID
from tests.support.builders import FaultyStorage, eventually, linked
from tests.support.drives import a_drive, contents, make_file, snapshot
from tests.support.limits import HANG_SECONDS

DATA = random.Random(11).randbytes(8_000_000)


def disk_bytes(folder):
    """What the files of a folder take on the disk."""
    return sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file())


async def test_deleting_gives_the_disk_back(tmp_path):
    async with (
        corestore.open(tmp_path) as store,
        hyperfs.open(store, name="d", create=True) as drive,
    ):
        await drive.write("/large", DATA)
        await drive.write("/small", b"kept" * 1000)
        await drive.remove("/large")
        await drive.sync()
        before = disk_bytes(tmp_path)
        newest = drive.version
        found = await drive.collect(keep_last=1)
        assert found.byte_length >= len(DATA)
        # One more version tells others what is kept.
        assert found.version == newest == drive.previous()
        assert disk_bytes(tmp_path) < before - len(DATA) + 1_000_000
        assert await drive.read("/small") == b"kept" * 1000
        assert await drive.collect(keep_last=1) == hyperfs.Collected(newest, 0, 0)
        assert drive.previous() == newest


async def test_what_was_given_back_stays_so_after_reopening(tmp_path):
    async with (
        corestore.open(tmp_path) as store,
        hyperfs.open(store, name="d", create=True) as drive,
    ):
        await drive.write("/a", DATA[:300_000])
        old = drive.version
        await drive.write("/a", DATA[300_000:500_000])
        await drive.collect(keep_last=1)
    async with corestore.open(tmp_path) as store, hyperfs.open(store, name="d") as drive:
        assert await drive.read("/a") == DATA[300_000:500_000]
        with pytest.raises(hyperfs.VersionCleared, match=str(old)) as caught:
            await drive.checkout(old)
        assert caught.value.oldest == drive.previous()
        # The chunk table still names the blocks: what it finds is compared.
        await drive.write("/b", DATA[:300_000])
        assert await drive.read("/b") == DATA[:300_000]
        async with hyperfs.open(store, key=drive.key, read_timeout=0) as again:
            assert await again.read("/b") == DATA[:300_000]


async def test_versions_of_a_time_are_kept(monkeypatch):
    clock = [1_000 * 10**9]
    monkeypatch.setattr("hyperfs.live.LiveTree.now_ns", lambda self: clock[0])
    monkeypatch.setattr("time.time_ns", lambda: clock[0])
    async with corestore.open(None) as store, hyperfs.open(store, name="d", create=True) as drive:
        versions = []
        for n in range(10):
            clock[0] += 10 * 10**9
            await drive.write("/f", DATA[n * 50_000 : (n + 1) * 50_000])
            versions.append(drive.version)
        # 25 s ago version 7 was the newest: 8 and 9 came 20 and 10 s ago... and the last one now.
        found = await drive.collect(keep_within=25)
        assert found.version == versions[6]
        for n in range(6, 10):
            past = await drive.checkout(versions[n])
            assert await past.read("/f") == DATA[n * 50_000 : (n + 1) * 50_000]
        # More cannot come back; both bounds together keep what either keeps.
        assert (await drive.collect(keep_last=9)).version == versions[6]
        assert (await drive.collect(keep_last=3, keep_within=5)).version == versions[7]
        assert oldest_version(drive.metadata) == versions[7]


async def test_writing_goes_on_while_space_is_given_back():
    """What is written equals what is being cleared: each chunk is found again, or stored anew."""
    rng = random.Random(3)
    pieces = [DATA[n * 40_000 : n * 40_000 + 120_000] for n in range(40)]
    async with corestore.open(None) as store, hyperfs.open(store, name="d", create=True) as drive:
        for round_ in range(6):
            for n in range(20):
                await drive.write(f"/{n}", rng.choice(pieces))
            for n in range(0, 20, 2):
                await drive.remove(f"/{n}")
            wanted = {}

            async def write(wanted=wanted, round_=round_):
                for n in range(30):
                    path = f"/new{round_}-{n}"
                    wanted[path] = rng.choice(pieces)
                    await drive.write(path, wanted[path])

            async with trio.open_nursery() as nursery:
                nursery.start_soon(write)
                nursery.start_soon(lambda: drive.collect(keep_last=1))
            async with hyperfs.open(store, key=drive.key, read_timeout=0) as again:
                for path, data in wanted.items():
                    assert await again.read(path) == data
                assert await snapshot(again) == await snapshot(drive)


async def test_a_new_reader_gets_all_of_a_collected_drive():
    async with (
        corestore.open(None) as near,
        corestore.open(None) as far,
        hyperfs.open(near, name="d", create=True) as writer,
    ):
        for n in range(100):
            await writer.write(f"/{n % 10}/file", DATA[n * 20_000 : (n + 1) * 20_000])
        await writer.collect(keep_last=3)
        await writer.sync()
        async with linked(near, far), hyperfs.open(far, key=writer.key) as reader:
            with trio.fail_after(HANG_SECONDS):
                await reader.ready()
                assert await snapshot(reader) == await snapshot(writer)
                kept = writer.previous()
                past = await reader.checkout(kept)
                assert len(await snapshot(past)) == len(await snapshot(writer))
                past = await reader.checkout(past.previous())
                # The one before was given back, and nobody is asked for it.
                past = await reader.checkout(past.previous())
                for drive in (reader, past):
                    with pytest.raises(hyperfs.VersionCleared) as caught:
                        await drive.checkout(past.previous())
                    assert caught.value.oldest == past.version
                assert await reader.version_at(1) == 0


async def test_a_checkout_of_a_checkout_is_kept_too():
    async with corestore.open(None) as store, hyperfs.open(store, name="d", create=True) as drive:
        for n in range(3):
            await drive.write("/f", DATA[n * 100_000 : (n + 1) * 100_000])
        second = await drive.checkout(drive.previous())
        first = await second.checkout(second.previous())
        await drive.collect(keep_last=1)
        with trio.fail_after(HANG_SECONDS):
            assert await first.read("/f") == DATA[:100_000]


async def test_a_collection_is_told_by_a_version_that_changes_nothing():
    async with corestore.open(None) as store, hyperfs.open(store, name="d", create=True) as drive:

        def root():
            return drive._tree.view.index.root

        for n in range(4):
            await drive.write("/f", DATA[n * 50_000 : (n + 1) * 50_000])
        assert root().oldest == 0
        for keep in (2, 1):
            # The newest version is the fourth that was written, and then the one that tells.
            kept = drive.previous()
            found = await drive.collect(keep_last=keep)
            assert found.version == root().oldest == kept
            # Told once, and not again.
            version = drive.version
            assert await drive.collect(keep_last=keep) == hyperfs.Collected(kept, 0, 0)
            assert drive.version == version
        await drive.write("/f", b"more")
        assert root().oldest == kept
        assert await (await drive.checkout(kept)).read("/f") == DATA[150_000:200_000]


async def test_only_the_writer_gives_versions_back():
    async with (
        corestore.open(None) as near,
        corestore.open(None) as far,
        hyperfs.open(near, name="d", create=True) as writer,
    ):
        with pytest.raises(ValueError, match="which versions"):
            await writer.collect()
        with pytest.raises(ValueError, match="newest"):
            await writer.collect(keep_last=0)
        async with hyperfs.open(far, key=writer.key) as reader:
            with pytest.raises(corestore.NotWritable):
                await reader.collect(keep_last=1)


async def test_nothing_is_given_back_when_a_record_cannot_be_read(monkeypatch):
    async with corestore.open(None) as store, hyperfs.open(store, name="d", create=True) as drive:
        await drive.write("/a", DATA[:100_000])
        await drive.remove("/a")

        def unreadable(data):
            raise corestore.DecodeError("record")

        monkeypatch.setattr("hyperfs.reach.unpack_record", unreadable)
        with pytest.raises(corestore.DecodeError):
            await drive.collect(keep_last=1)
        content = drive.content
        assert content.has(0, content.length)
        assert drive.metadata.has(0, drive.metadata.length)


async def test_what_is_kept_in_the_background_is_collected(autojump_clock):
    async with corestore.open(None) as store, hyperfs.open(store, name="d", create=True) as drive:
        await drive.write("/a", DATA[:1_000_000])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: drive.keep(keep_last=1))
            await drive.write("/a", b"short")
            await trio.sleep(3600)
            assert not any(drive.content.held(0, drive.content.length))
            nursery.cancel_scope.cancel()
        assert await drive.read("/a") == b"short"


async def test_a_lost_index_block_ends_a_collection_with_nothing_given_back():
    async with corestore.open(None) as store, hyperfs.open(store, name="d", create=True) as drive:
        async with drive.batch() as batch:
            for n in range(2000):
                await batch.mkdir(f"/{n:05}{'x' * 40}")
        await drive.write("/f", DATA[:100_000])
        await drive.remove("/f")
        await drive.metadata.clear(5, 6)
        with pytest.raises(corestore.BlockNotAvailable):
            await drive.collect(keep_last=1)
        assert drive.content.has(0, drive.content.length)


async def test_while_everything_is_kept_nothing_is_told():
    async with corestore.open(None) as store, hyperfs.open(store, name="d", create=True) as drive:
        await drive.write("/f", b"x" * 5000)
        version = drive.version
        await drive.collect(keep_last=10)
        assert drive.version == version


# -- what no version has ---------------------------------------------------------------------------


async def test_the_newest_version_is_durable_before_anything_is_given_back():
    storage = FaultyStorage()
    async with a_drive(storage) as drive:
        await drive.write("/f", DATA[:500_000])
        await drive.write("/f", DATA[500_000:700_000])
        held = drive.content.length
        storage.hold = threading.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(drive.collect, keep_last=1))
            await trio.testing.wait_all_tasks_blocked(0.01)
            still_held = drive.content.has(0, held)
            storage.hold.set()
        assert still_held
        assert not drive.content.has(0, held)


def before_clearing(drive, monkeypatch, do):
    """Have *do* done when a collection has made the newest version durable."""
    committer = drive._committer
    sync = committer.sync

    async def sync_and_do():
        await sync()
        await do()

    monkeypatch.setattr(committer, "sync", sync_and_do)


async def test_what_a_batch_has_appended_is_kept(monkeypatch):
    async with a_drive() as drive:
        await drive.write("/f", DATA[:500_000])
        async with drive.batch() as batch:
            for n in range(3):
                await batch.write(f"/new/{n}", DATA[n * 1_000_000 : (n + 1) * 1_000_000])
            await drive.collect(keep_last=1)
        for n in range(3):
            assert await drive.read(f"/new/{n}") == DATA[n * 1_000_000 : (n + 1) * 1_000_000]


async def test_what_staged_records_name_is_kept(monkeypatch):
    async with a_drive() as drive:
        await drive.write("/old", DATA[:500_000])
        entry = await drive.entry("/old")
        await drive.remove("/old")
        await drive.commit()

        async def put_back():
            drive.tree.put(ROOT_ID, b"again", entry)

        before_clearing(drive, monkeypatch, put_back)
        await drive.collect(keep_last=1)
        with trio.fail_after(HANG_SECONDS):
            assert await drive.read("/again") == DATA[:500_000]


async def test_what_was_flushed_of_an_open_file_is_kept(monkeypatch, autojump_clock):
    monkeypatch.setattr(committer, "FLUSH_DIRTY_BYTES", 500_000)
    async with a_drive() as drive:
        file = make_file(drive, b"f")
        for at in range(0, 6_000_000, 20_000):
            await file.write(at, DATA[at : at + 10_000])
        await drive.commit()
        expected = bytearray(await contents(file))

        async def write_more():
            for at in range(0, 6_000_000, 20_000):
                await file.write(at + 5_000, DATA[at : at + 10_000])
                expected[at + 5_000 : at + 15_000] = DATA[at : at + 10_000]
            await eventually(lambda: drive.statistics().dirty_bytes < 500_000)

        before_clearing(drive, monkeypatch, write_more)
        await drive.collect(keep_last=1)
        assert file.content.windows
        with trio.fail_after(HANG_SECONDS):
            assert await contents(file) == expected
        file.release()
