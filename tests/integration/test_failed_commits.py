"""Commits that fail: what stays, who is told, and when they are tried again."""

from __future__ import annotations

import errno
import stat

import pytest
import trio
import trio.testing

import corestore
import hyperfs
from corestore import StorageError
from hyperfs import committer
from hyperfs.drive import ROOT_ID
from tests.support.builders import FaultyStorage, eventually, open_with
from tests.support.drives import a_drive, committed, make_file, snapshot
from tests.support.limits import HANG_SECONDS

FULL = OSError(errno.ENOSPC, "No space left on device")


async def test_a_full_disk_keeps_everything_staged(autojump_clock):
    storage = FaultyStorage()
    async with a_drive(storage) as drive:
        file = make_file(drive, b"f")
        await file.write(0, b"x" * 500)
        version = drive.version
        storage.errors["commit"] = FULL
        with pytest.raises(OSError, match="No space") as caught:
            await drive.commit()
        assert caught.value.errno == errno.ENOSPC
        with pytest.raises(OSError, match="No space"):
            drive.check_flushed()
        assert drive.version == version
        assert await drive.read("/f") == b"x" * 500
        await file.write(500, b"y" * 500)
        # Tried again by itself, a second later.
        await trio.sleep(committer.RETRY_SECONDS * 1.1)
        assert drive.version > version
        drive.check_flushed()
        assert await committed(drive, "/f") == b"x" * 500 + b"y" * 500
        file.release()


async def test_writers_hear_that_a_flush_failed(monkeypatch, autojump_clock):
    monkeypatch.setattr(committer, "FLUSH_DIRTY_BYTES", 2_000_000)
    monkeypatch.setattr(committer, "MAX_DIRTY_BYTES", 4_000_000)
    storage = FaultyStorage()
    async with a_drive(storage) as drive:
        file = make_file(drive, b"f")
        # No sync is under way that would meet the error first.
        await drive.sync()
        storage.errors["commit"] = FULL
        failures = 0
        for n in range(10):
            try:
                await file.write(n * 1_000_000, bytes([n]) * 1_000_000)
            except OSError as error:
                failures += error.errno == errno.ENOSPC
        assert failures == 1
        expected = file.size
        await drive.commit()
        assert len(await committed(drive, "/f")) == expected
        file.release()


async def test_a_batch_that_fails_leaves_nothing():
    async with a_drive() as drive:
        await drive.write("/kept", b"1" * 200)
        version = drive.version

        async def fail():
            async with drive.batch() as batch:
                await batch.write("/kept", b"2" * 200)
                await batch.write("/new", b"3" * 200_000)
                await batch.mkdir("/directory")
                assert (await batch.entry("/new")).size == 200_000
                assert (await drive.entry("/kept")).size == 200
                raise RuntimeError

        with pytest.raises(RuntimeError):
            await fail()
        assert await snapshot(drive) == {b"/": None, b"/kept": b"1" * 200}
        assert drive.version == version
        assert drive.statistics().dirty_bytes == 0


async def test_who_waits_for_a_committer_that_failed_is_told(tmp_path, monkeypatch):
    async def fail(self):
        raise ZeroDivisionError

    monkeypatch.setattr(committer.Committer, "_step", fail)

    told = []

    # It waited for ever: closing a drive commits, and nobody did.
    async def write():
        async with (
            corestore.open(tmp_path) as store,
            hyperfs.open(store, name="d", create=True) as drive,
        ):
            make_file(drive, b"file").release()
            with trio.CancelScope(shield=True), pytest.raises(StorageError, match="has ended"):
                await drive.commit()
            told.append("failed")

    with trio.fail_after(HANG_SECONDS), pytest.raises(ExceptionGroup) as caught:
        await write()
    assert caught.group_contains(ZeroDivisionError)
    assert told


async def test_attributes_of_a_closed_file_outlive_a_failed_commit(autojump_clock):
    storage = FaultyStorage()
    async with a_drive(storage) as drive:
        make_file(drive, b"f").release()
        await drive.sync()
        entry = await drive.lookup(ROOT_ID, b"f")
        file = drive.open_file(entry, (ROOT_ID, b"f"))
        file.update(mode=stat.S_IFREG | 0o600)
        file.release()
        storage.errors["commit"] = FULL
        with pytest.raises(OSError, match="No space"):
            await drive.commit()
        assert (await drive.lookup(ROOT_ID, b"f")).mode == stat.S_IFREG | 0o600
        await drive.commit()
        past = await drive.checkout(drive.version)
        assert (await past.entry("/f")).mode == stat.S_IFREG | 0o600


async def test_a_failed_store_is_not_tried_again(autojump_clock, caplog):
    storage = FaultyStorage()
    async with a_drive(storage) as drive:
        make_file(drive, b"f").release()
        storage.errors["commit"] = StorageError("the disk is gone")
        await trio.sleep(10)
        assert caplog.text.count("cannot be stored") == 1
        with pytest.raises(StorageError, match="the disk is gone"):
            drive.check_flushed()
        # Whoever asks for it has it tried.
        await drive.commit()
        drive.check_flushed()


async def test_only_those_whose_changes_could_not_be_stored_are_told(nursery):
    storage = FaultyStorage()
    async with (
        open_with(storage) as store,
        hyperfs.open(store, name="d", create=True) as drive,
    ):
        told = {}

        async def commit(name):
            try:
                await drive.commit()
                told[name] = "stored"
            except OSError:
                told[name] = "failed"

        await drive.sync()
        # The first commit has begun and cannot end.
        async with store.transaction(drive.metadata):
            for name in ("first", "second"):
                make_file(drive, name.encode()).release()
                nursery.start_soon(commit, name)
                await trio.testing.wait_all_tasks_blocked(0.01)
            storage.errors["commit"] = FULL
        await eventually(lambda: len(told) == 2)
        assert told == {"first": "failed", "second": "stored"}
        past = await drive.checkout(drive.version)
        assert set(await snapshot(past)) == {b"/", b"/first", b"/second"}


async def test_what_another_process_left_of_a_commit_is_dropped_before_the_next(autojump_clock):
    async with a_drive() as drive:
        await drive.write("/one", b"1")
        await drive.sync()
        version = drive.version
        await drive.metadata.append(b"the first node of a commit", b"and the second")
        await drive.write("/two", b"2")
        await drive.commit()
        assert drive.previous() == version
        assert drive.version < version + 3
        assert await snapshot(drive) == {b"/": None, b"/one": b"1", b"/two": b"2"}
