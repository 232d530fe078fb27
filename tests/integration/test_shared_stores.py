"""One store on disk, used by several processes: two in one process share nothing but the files."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import trio

import corestore
from corestore import background
from corestore.commit import Commit, Run
from corestore.errors import StorageConflict, StorageLocked
from corestore.storage import DiskStorage
from corestore.storage.base import sync
from corestore.storage.files import FileIO
from corestore.tree.types import EMPTY_HEAD
from tests.support.builders import block, fill, linked
from tests.support.faults import FaultyIO
from tests.support.limits import HANG_SECONDS
from tests.support.storage import (
    RemoteLog,
    append,
    append_to,
    data_file,
    held,
    record,
    some_blocks,
)

if TYPE_CHECKING:
    from pathlib import Path

NAME = record().key.discovery_key


def test_second_signer_is_refused_with_the_first_ones_pid(tmp_path: Path) -> None:
    one, two = DiskStorage(tmp_path), DiskStorage(tmp_path)
    first = one.create_core(record())
    append_to(one, first, some_blocks(1, 2))
    second = two.open_core(NAME)
    assert second is not None
    assert second.head == first.head
    with pytest.raises(StorageLocked, match=f"process {os.getpid()}") as caught:
        second.lock_signing()
    assert caught.value.pid == os.getpid()
    assert not second.signing_locked
    with pytest.raises(StorageLocked):
        append_to(two, second, some_blocks(2, 2))
    one.close()
    second.lock_signing()
    append_to(two, second, some_blocks(2, 2))
    assert second.blocks(0, 4) == some_blocks(1, 2) + some_blocks(2, 2)
    two.close()


def test_an_append_to_what_another_process_has_lengthened_meanwhile_is_refused(
    tmp_path: Path,
) -> None:
    one, two = DiskStorage(tmp_path), DiskStorage(tmp_path)
    first = one.create_core(record())
    append_to(one, first, some_blocks(1, 2))
    second = two.open_core(NAME)
    assert second is not None
    built = append(second.head, some_blocks(2, 2))
    append_to(one, first, some_blocks(3, 1))
    one.close()
    with pytest.raises(StorageConflict):
        two.commit([(second, built)])
    assert second.blocks(0, second.head.length) == some_blocks(1, 2) + some_blocks(3, 1)
    append_to(two, second, some_blocks(2, 2))
    two.close()


def test_a_core_that_another_process_writes_is_not_removed(tmp_path: Path) -> None:
    one, two = DiskStorage(tmp_path), DiskStorage(tmp_path)
    writer = one.create_core(record())
    append_to(one, writer, some_blocks(1, 2))
    with pytest.raises(StorageLocked):
        two.remove_core(NAME)
    assert writer.block(1) == some_blocks(1, 2)[1]
    one.close()
    two.remove_core(NAME)
    assert two.open_core(NAME) is None
    two.close()


def test_lock_file_of_a_dead_process_locks_nothing(tmp_path: Path) -> None:
    storage = DiskStorage(tmp_path)
    core = storage.create_core(record())
    (tmp_path / "locks" / NAME.hex()).write_bytes(b"1\n")
    core.lock_signing()
    core.lock_signing()
    assert (tmp_path / "locks" / NAME.hex()).read_bytes() == b"%d\n" % os.getpid()
    storage.close()


def test_reader_sees_commits_when_it_looks(tmp_path: Path) -> None:
    one, two = DiskStorage(tmp_path), DiskStorage(tmp_path)
    writer = one.create_core(record())
    reader = two.open_core(NAME)
    assert reader is not None
    assert not reader.changed()
    append_to(one, writer, some_blocks(1, 3))
    assert reader.head == EMPTY_HEAD
    assert reader.changed()
    assert not reader.changed()
    assert reader.head == writer.head
    assert reader.blocks(0, 3) == some_blocks(1, 3)
    other = one.create_core(record(5))
    append_to(one, other, some_blocks(1, 3))
    assert not reader.changed()
    one.close()
    two.close()


def test_reader_publishes_only_what_it_made_sure_is_durable(tmp_path: Path) -> None:
    one, two = DiskStorage(tmp_path), DiskStorage(tmp_path)
    writer = one.create_core(record())
    append_to(one, writer, some_blocks(1, 3))
    reader = two.open_core(NAME)
    assert reader is not None
    ticket = one.begin_sync()
    assert ticket is not None
    one.flush(ticket)
    one.mark_synced(ticket)
    assert reader.changed()
    assert reader.published == EMPTY_HEAD, "the row alone proves nothing"
    sync(two)
    assert reader.published == writer.head
    assert two.begin_sync() is None
    one.close()
    two.close()


def test_core_opened_late_shows_what_is_published(tmp_path: Path) -> None:
    one, two = DiskStorage(tmp_path), DiskStorage(tmp_path)
    writer = one.create_core(record())
    append_to(one, writer, some_blocks(1, 3))
    sync(one)
    reader = two.open_core(NAME)
    assert reader is not None
    assert reader.published == writer.head
    one.close()
    two.close()


def test_core_opened_late_shows_only_what_it_has_made_durable(tmp_path: Path) -> None:
    io = FaultyIO()
    one, two = DiskStorage(tmp_path), DiskStorage(tmp_path, io=io)
    writer = one.create_core(record())
    append_to(one, writer, some_blocks(1, 3))
    ticket = one.begin_sync()
    assert ticket is not None
    one.flush(ticket)
    one.mark_synced(ticket)
    # The other process has not flushed its log yet, and may never do it.
    before = io.calls["fdatasync"]
    reader = two.open_core(NAME)
    assert reader is not None
    assert reader.published == writer.head
    assert io.calls["fdatasync"] == before + 1
    one.close()
    two.close()


def test_two_processes_download_one_core(tmp_path: Path) -> None:
    log = RemoteLog(some_blocks(1, 40))
    one, two = DiskStorage(tmp_path), DiskStorage(tmp_path)
    first = one.create_core(record(ours=False))
    second = two.create_core(record(ours=False))
    one.commit([(first, log.upgrade())])
    two.commit([(second, log.upgrade())])
    for index in range(0, 40, 2):
        one.commit([(first, log.fetched([index]))])
        two.commit([(second, log.fetched([index + 1]))])
    sync(one)
    assert first.changed()
    assert second.changed() or held(second) == list(range(40))
    assert held(first) == held(second) == list(range(40))
    assert first.blocks(0, 40) == second.blocks(0, 40) == log.data
    two.close()
    one.close()
    with DiskStorageClosing(tmp_path) as again:
        core = again.open_core(NAME)
        assert core is not None
        assert core.blocks(0, 40) == log.data


class DiskStorageClosing(DiskStorage):
    def __enter__(self) -> DiskStorage:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def test_longer_head_of_another_process_stays(tmp_path: Path) -> None:
    blocks = some_blocks(1, 8)
    one, two = DiskStorage(tmp_path), DiskStorage(tmp_path)
    first, second = (store.create_core(record(ours=False)) for store in (one, two))
    one.commit([(first, RemoteLog(blocks).upgrade())])
    two.commit([(second, RemoteLog(blocks[:5]).upgrade())])
    assert second.changed()
    assert second.head == first.head
    one.close()
    two.close()


def test_block_verified_against_a_tree_that_is_gone_is_refused(tmp_path: Path) -> None:
    old, new = RemoteLog(some_blocks(1, 8)), RemoteLog(some_blocks(2, 8), fork=1)
    one, two = DiskStorage(tmp_path), DiskStorage(tmp_path)
    first, second = (store.create_core(record(ours=False)) for store in (one, two))
    one.commit([(first, old.upgrade()), (first, old.fetched(range(8)))])
    assert second.changed()
    assert second.block(3) == old.data[3]
    one.commit([(first, new.upgrade(truncate=0))])
    one.commit([(first, new.fetched([3]))])
    # Looked at in between: the caller has not been told yet.
    assert second.block(3) == new.data[3]
    with pytest.raises(StorageConflict):
        two.commit([(second, old.fetched([4]))])
    assert second.changed()
    assert second.head == new.head
    assert held(first) == held(second) == [3]
    two.commit([(second, new.fetched([4]))])
    assert second.block(4) == new.data[4]
    one.close()
    two.close()


def test_clear_by_another_process_is_seen_by_reads(tmp_path: Path) -> None:
    log = RemoteLog(some_blocks(1, 8, size=9000))
    one, two = DiskStorage(tmp_path), DiskStorage(tmp_path)
    first, second = (store.create_core(record(ours=False)) for store in (one, two))
    one.commit([(first, log.upgrade()), (first, log.fetched(range(8)))])
    assert second.block(3) == log.data[3]
    one.commit([(first, Commit(runs=[Run(2, 5, False)]))])
    assert second.block(3) is None
    assert second.block(5) == log.data[5]
    assert second.blocks(1, 4) is None
    one.close()
    two.close()


class ClearingIO(FileIO):
    """Lets another process clear the block between our look at its bit and our reading of it."""

    def __init__(self) -> None:
        self.before_read: list[object] = []

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        while self.before_read:
            call = self.before_read.pop()
            assert callable(call)
            call()
        return super().pread(fd, length, offset)


def test_block_cleared_while_it_is_read_is_not_returned_as_zeros(tmp_path: Path) -> None:
    log = RemoteLog(some_blocks(1, 8, size=9000))
    io = ClearingIO()
    one, two = DiskStorage(tmp_path, io=io), DiskStorage(tmp_path)
    first = one.create_core(record(ours=False))
    one.commit([(first, log.upgrade()), (first, log.fetched(range(8)))])
    second = two.open_core(NAME)
    assert second is not None
    clear = Commit(runs=[Run(0, 8, False)])
    io.before_read.append(lambda: two.commit([(second, clear)]))
    assert first.block(3) is None
    one.commit([(first, log.fetched(range(8)))])
    assert second.changed()
    io.before_read.append(lambda: two.commit([(second, clear)]))
    assert first.blocks(2, 6) is None
    one.close()
    two.close()


def test_core_removed_by_another_process(tmp_path: Path) -> None:
    one, two = DiskStorage(tmp_path), DiskStorage(tmp_path)
    first = one.create_core(record(ours=False))
    append_to(one, first, some_blocks(1, 3))
    second = two.open_core(NAME)
    assert second is not None
    assert second.block(0) is not None
    one.remove_core(NAME)
    assert not data_file(tmp_path).exists()
    with pytest.raises(StorageConflict, match="removed"):
        append_to(two, second, some_blocks(1, 3))
    assert second.block(0) is None
    again = one.create_core(record(ours=False))
    append_to(one, again, some_blocks(2, 3))
    reopened = two.open_core(NAME)
    assert reopened is not None
    assert reopened is not second
    assert reopened.block(0) == some_blocks(2, 3)[0]
    one.close()
    two.close()


def test_heir_of_a_dead_signer_syncs_what_it_left(tmp_path: Path) -> None:
    io = FaultyIO()
    heir = DiskStorage(tmp_path, io=io)
    child = """
import os, sys
from pathlib import Path
from corestore.storage import DiskStorage
from corestore.storage.files import FileIO
from tests.support.storage import append_to, data_file, record, some_blocks
storage = DiskStorage(sys.argv[1])
append_to(storage, storage.create_core(record()), some_blocks(1, 3))
os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", child, str(tmp_path)], check=False).returncode == 9
    core = heir.open_core(NAME)
    assert core is not None
    assert core.published == EMPTY_HEAD
    core.lock_signing()
    before = io.calls["fdatasync"]
    sync(heir)
    assert io.calls["fdatasync"] == before + 2, "the data file, then the log"
    assert core.published.length == 3
    heir.close()


async def test_what_another_process_has_fetched_and_what_it_went_over_to_is_told_to_peers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "POLL_INTERVAL", 0.01)
    async with (
        corestore.open(None) as writing,
        corestore.open(tmp_path) as fetching,
        corestore.open(tmp_path) as serving,
        corestore.open(None) as reading,
    ):
        core = await writing.get(name="log")
        fetched = await fetching.get(key=core.key)
        await serving.get(key=core.key)
        copy = await reading.get(key=core.key)
        async with linked(writing, fetching), linked(serving, reading):
            with trio.fail_after(HANG_SECONDS):
                await fill(core, 10)
                await copy.wait_length(10)
                await core.truncate(3)
                await fill(core, 2, start=50)
                await copy.wait_until(lambda: (copy.fork, copy.length) == (1, 5))
                await fetched.download()
                assert await copy.get(4) == block(51)
