"""The store on disk: folders, holes, syncs, full and failing disks, checkpoints."""

from __future__ import annotations

import errno
import os
import stat
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import apsw
import pytest

from corestore.commit import Commit, Run, StoredBlock
from corestore.errors import StorageConflict, StorageCorrupt, StorageError
from corestore.storage import DiskStorage, database
from corestore.storage.base import sync
from corestore.storage.files import DataFiles, FileIO
from corestore.storage.health import Health
from corestore.tree.types import EMPTY_HEAD
from tests.support.faults import FaultyIO
from tests.support.limits import HANG_SECONDS
from tests.support.storage import (
    RemoteLog,
    append,
    append_in_two,
    append_to,
    data_file,
    held,
    record,
    some_blocks,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from corestore.storage import CoreStorage

NAME = record().key.discovery_key


def abandon(storage: DiskStorage) -> None:
    """Let go of a store as a kill would: nothing more is synced."""
    storage._health.error = StorageError("killed")
    storage.close()


def allocated(path: Path) -> int:
    """Bytes a file takes on the disk."""
    return path.stat().st_blocks * 512


# -- the folder --------------------------------------------------------------------------------


def test_folder_and_key_are_ours_alone(tmp_path: Path) -> None:
    path = tmp_path / "a" / "store"
    storage = DiskStorage(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE((path / "primary-key").stat().st_mode) == 0o600
    assert (path / "primary-key").read_bytes() == storage.primary_key
    storage.close()
    assert sorted(file.name for file in path.iterdir()) == [
        "data",
        "locks",
        "primary-key",
        "reserve",
        "store.db",
    ]


def test_store_is_as_it_was_when_opened_again(tmp_path: Path) -> None:
    storage = DiskStorage(tmp_path)
    core = storage.create_core(record())
    append_to(storage, core, some_blocks(1, 5000, size=30))
    storage.set_user_data("name", b"value")
    key = storage.primary_key
    storage.close()
    storage = DiskStorage(tmp_path)
    again = storage.open_core(NAME)
    assert again is not None
    assert storage.primary_key == key
    assert storage.user_data("name") == b"value"
    assert again.record == record()
    assert again.head == again.published == core.head
    assert again.blocks(0, 5000) == some_blocks(1, 5000, size=30)
    assert storage.recovered() == []
    assert storage.begin_sync() is None
    storage.close()


def test_file_in_the_way_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError, match="is a file"):
        DiskStorage(tmp_path / "file")
    with pytest.raises(NotADirectoryError):
        DiskStorage(tmp_path / "file" / "store")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_that_is_not_ours_to_write(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError):
        DiskStorage(tmp_path)


def test_newer_format_is_refused(tmp_path: Path) -> None:
    DiskStorage(tmp_path).close()
    connection = apsw.Connection(str(tmp_path / "store.db"))
    connection.execute("PRAGMA user_version = 7")
    connection.close()
    with pytest.raises(StorageError, match="format 7, newer than"):
        DiskStorage(tmp_path)


def test_database_of_another_program_is_refused(tmp_path: Path) -> None:
    connection = apsw.Connection(str(tmp_path / "store.db"))
    connection.execute("CREATE TABLE t (a)")
    connection.close()
    (tmp_path / "primary-key").write_bytes(bytes(32))
    with pytest.raises(StorageError, match="another program"):
        DiskStorage(tmp_path)


def test_a_store_without_its_primary_key_is_refused_and_left_alone(tmp_path: Path) -> None:
    DiskStorage(tmp_path).close()
    key = (tmp_path / "primary-key").read_bytes()
    (tmp_path / "primary-key").unlink()
    with pytest.raises(StorageError, match=r"lost its file primary-key.* from a backup"):
        DiskStorage(tmp_path)
    assert not (tmp_path / "primary-key").exists()
    (tmp_path / "primary-key").write_bytes(key)
    DiskStorage(tmp_path).close()


@pytest.mark.parametrize("emptied", [False, True])
def test_data_without_a_database_is_refused_and_left_alone(tmp_path: Path, emptied: bool) -> None:
    storage = DiskStorage(tmp_path)
    append_to(storage, storage.create_core(record()), some_blocks(1, 3))
    key = storage.primary_key
    storage.close()
    (tmp_path / "store.db").unlink()
    if emptied:
        (tmp_path / "store.db").touch()
    with pytest.raises(StorageError, match=r"lost its database store\.db.* from a backup"):
        DiskStorage(tmp_path)
    assert data_file(tmp_path).exists()
    data_file(tmp_path).unlink()
    storage = DiskStorage(tmp_path)
    assert (storage.primary_key, list(storage.cores())) == (key, [])
    storage.close()


def test_damaged_database_and_key_are_said_to_be_damaged(tmp_path: Path) -> None:
    (tmp_path / "store.db").write_bytes(b"not a database" * 1000)
    (tmp_path / "primary-key").write_bytes(bytes(32))
    with pytest.raises(StorageCorrupt, match=r"store\.db"):
        DiskStorage(tmp_path)
    (tmp_path / "primary-key").write_bytes(b"short")
    with pytest.raises(StorageCorrupt, match="5 bytes instead of 32"):
        DiskStorage(tmp_path)


@pytest.mark.parametrize(
    ("version", "good"),
    [
        ("3.40.1", False),
        ("3.44.5", False),
        ("3.44.6", True),
        ("3.50.6", False),
        ("3.50.7", True),
        ("3.51.2", False),
        ("3.51.3", True),
        ("3.54.1", True),
        ("4.0.0", True),
    ],
)
def test_sqlite_that_can_damage_stores_is_refused(version: str, good: bool) -> None:
    if good:
        database.check_sqlite_version(version)
    else:
        with pytest.raises(StorageError, match=r"3\.51\.3"):
            database.check_sqlite_version(version)


# -- giving space back -------------------------------------------------------------------------


@pytest.mark.parametrize("size", [200, 5000, 65536])
def test_clearing_gives_space_back(tmp_path: Path, size: int) -> None:
    storage = DiskStorage(tmp_path)
    core = storage.create_core(record())
    count = 2_000_000 // size
    blocks = some_blocks(1, count, size=size)
    append_to(storage, core, blocks)
    sync(storage)
    before = allocated(data_file(tmp_path))
    # In small steps, so that pages shared by neighbouring runs must be found.
    for start in range(0, count // 2, max(count // 40, 1)):
        end = min(start + max(count // 40, 1), count // 2)
        storage.commit([(core, Commit(runs=[Run(start, end, False)]))])
    half = allocated(data_file(tmp_path))
    if half == before:
        pytest.skip("this file system does not punch holes")
    assert half <= sum(map(len, blocks[count // 2 :])) + 8192
    assert core.blocks(count // 2, count) == blocks[count // 2 :]
    storage.commit([(core, Commit(runs=[Run(0, count, False)]))])
    assert allocated(data_file(tmp_path)) == 0
    assert storage.database.one("SELECT count(*) FROM pending_clear") == 0
    storage.close()


def test_cut_and_truncation_give_space_back(tmp_path: Path) -> None:
    storage = DiskStorage(tmp_path)
    core = storage.create_core(record())
    append_to(storage, core, some_blocks(1, 10, size=100_000))
    storage.cut(core, 0)
    assert allocated(data_file(tmp_path)) == 0
    append_to(storage, core, some_blocks(2, 10, size=100_000))
    shorter = RemoteLog(some_blocks(2, 10, size=100_000)[:1], fork=1)
    storage.commit([(core, Commit(truncate=1, head=shorter.head))])
    assert allocated(data_file(tmp_path)) <= 150_000 + 8192
    assert core.block(0) == shorter.data[0]
    storage.close()


class NoHoles(FileIO):
    def punch(self, fd: int, start: int, end: int) -> bool:
        return False


def test_file_system_without_holes_clears_too(tmp_path: Path) -> None:
    storage = DiskStorage(tmp_path, io=NoHoles())
    core = storage.create_core(record())
    append_to(storage, core, some_blocks(1, 10, size=10_000))
    storage.commit([(core, Commit(runs=[Run(0, 5, False)]))])
    assert held(core) == [5, 6, 7, 8, 9]
    storage.close()


class Order(FileIO):
    """Notes what is called, in order."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def pwritev(self, fd: int, pieces: Sequence[bytes | memoryview], offset: int) -> int:
        self.calls.append("pwritev")
        return super().pwritev(fd, pieces, offset)

    def fdatasync(self, fd: int) -> None:
        self.calls.append("fdatasync")
        super().fdatasync(fd)

    def punch(self, fd: int, start: int, end: int) -> bool:
        self.calls.append("punch")
        return super().punch(fd, start, end)


def test_log_is_flushed_between_a_clear_and_its_hole(tmp_path: Path) -> None:
    io = Order()
    storage = DiskStorage(tmp_path, io=io)
    core = storage.create_core(record())
    append_to(storage, core, some_blocks(1, 10, size=10_000))
    io.calls.clear()
    storage.commit([(core, Commit(runs=[Run(0, 5, False)]))])
    assert io.calls == ["fdatasync", "punch"]
    storage.close()


def test_nothing_durable_names_blocks_that_a_truncation_overwrites(tmp_path: Path) -> None:
    io = Order()
    storage = DiskStorage(tmp_path, io=io)
    old = some_blocks(1, 10, size=10_000)
    core = storage.create_core(record(ours=False))
    log, other = RemoteLog(old), RemoteLog(old[:4] + some_blocks(2, 3), fork=1)
    storage.commit([(core, log.upgrade()), (core, log.fetched(range(10)))])
    fetched = other.fetched([5])
    io.calls.clear()
    nodes = [*other.head.roots, *fetched.nodes]
    truncation = Commit(4, fetched.blocks, nodes, fetched.runs, other.head)
    storage.commit([(core, truncation)])
    # That the old blocks are gone is durable before, that the new ones are here only afterwards.
    assert io.calls[:4] == ["fdatasync", "pwritev", "fdatasync", "fdatasync"]
    storage.close()


def test_hole_left_by_a_dead_process_is_punched_at_open(tmp_path: Path) -> None:
    io = FaultyIO()
    storage = DiskStorage(tmp_path, io=io)
    core = storage.create_core(record())
    append_to(storage, core, some_blocks(1, 10, size=10_000))
    sync(storage)
    before = allocated(data_file(tmp_path))
    io.fail("punch")
    with pytest.raises(StorageError, match="freeing space"):
        storage.commit([(core, Commit(runs=[Run(0, 5, False)]))])
    storage.close()
    assert allocated(data_file(tmp_path)) == before
    storage = DiskStorage(tmp_path)
    assert allocated(data_file(tmp_path)) < before
    again = storage.open_core(NAME)
    assert again is not None
    assert held(again) == [5, 6, 7, 8, 9]
    assert again.blocks(5, 10) == some_blocks(1, 10, size=10_000)[5:]
    storage.close()


@pytest.mark.parametrize("looked", [False, True])
def test_hole_left_pending_is_punched_before_new_bytes_come_there(
    tmp_path: Path, looked: bool
) -> None:
    """Another process died, or is slow, between a clear and its hole. *looked*: there had been
    none when we stored something before."""
    log = RemoteLog(some_blocks(1, 8, size=10_000))
    io = FaultyIO()
    dying, storage = DiskStorage(tmp_path, io=io), DiskStorage(tmp_path)
    core = dying.create_core(record(ours=False))
    dying.commit([(core, log.upgrade()), (core, log.fetched(range(8)))])
    other = storage.open_core(NAME)
    assert other is not None
    if looked:
        storage.commit([(other, log.fetched([0]))])
        storage.commit([(other, log.fetched([0]))])
    io.fail("punch")
    with pytest.raises(StorageError):
        dying.commit([(core, Commit(runs=[Run(0, 8, False)]))])
    storage.commit([(other, log.fetched([1, 2]))])
    assert storage.database.one("SELECT count(*) FROM pending_clear") == 0
    storage.punch_pending()
    assert other.blocks(1, 3) == log.data[1:3]
    dying.close()
    storage.close()


def test_blocks_of_a_core_we_sign_are_read_without_asking_for_others_commits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = DiskStorage(tmp_path)
    core = storage.create_core(record())
    append_to(storage, core, some_blocks(1, 3))
    monkeypatch.setattr(storage, "look", lambda: pytest.fail("asked"))
    assert core.block(1) == some_blocks(1, 3)[1]
    assert core.blocks(0, 3) == some_blocks(1, 3)
    monkeypatch.undo()
    storage.close()


def test_nobody_clears_blocks_of_a_core_that_another_process_signs(tmp_path: Path) -> None:
    """Not even who opened it before it was known to be ours: the signer reads without a look."""
    one, other = DiskStorage(tmp_path), DiskStorage(tmp_path)
    one.create_core(record(ours=False))
    stale = other.open_core(NAME)
    assert stale is not None
    core = one.create_core(record())
    append_to(one, core, some_blocks(1, 3))
    with pytest.raises(StorageConflict):
        other.commit([(stale, Commit(runs=[Run(1, 2, False)]))])
    assert core.blocks(0, 3) == some_blocks(1, 3)
    other.close()
    one.close()


# -- blocks laid ahead -----------------------------------------------------------------------------


def nodes_beyond(storage: DiskStorage, core: CoreStorage) -> int:
    """How many nodes are stored of blocks that the log has not got."""
    rows = "SELECT count(*) FROM node WHERE id & ((1 << 42) - 1) >= ?"
    found = storage.database.one(rows, (2 * core.head.length,))
    assert isinstance(found, int)
    return found


@pytest.mark.parametrize("before", [0, 3])
def test_blocks_laid_ahead_count_when_the_head_comes(tmp_path: Path, before: int) -> None:
    storage = DiskStorage(tmp_path)
    core = storage.create_core(record())
    if before:
        append_to(storage, core, some_blocks(1, before))
    head, new = core.head, some_blocks(2, 6)
    ahead, rest = append_in_two(head, new, 4)
    storage.commit([(core, ahead)])
    sync(storage)
    assert (core.head, held(core), core.block(before)) == (head, list(range(before)), None)
    storage.commit([(core, rest)])
    assert core.blocks(before, before + 6) == new
    assert core.synced_length == before
    assert storage.database.one("SELECT count(*) FROM unsynced") == 0
    sync(storage)
    storage.close()
    storage = DiskStorage(tmp_path)
    again = storage.open_core(NAME)
    assert again is not None
    assert again.published == append(head, new).head
    assert again.blocks(before, before + 6) == new
    storage.close()


@pytest.mark.parametrize("how", ["goes on", "recovers", "another goes on", "cut", "truncated"])
def test_what_was_laid_ahead_and_given_up_is_forgotten(tmp_path: Path, how: str) -> None:
    storage = DiskStorage(tmp_path)
    core = storage.create_core(record())
    append_to(storage, core, some_blocks(1, 3))
    sync(storage)
    append_to(storage, core, some_blocks(1, 1))
    head = core.head
    storage.commit([(core, append_in_two(head, some_blocks(2, 9), 8)[0])])
    assert nodes_beyond(storage, core)
    stale = core.node(12)
    assert stale is not None  # and in the cache
    other = DiskStorage(tmp_path) if how == "another goes on" else None
    if how == "recovers":
        abandon(storage)
        storage = DiskStorage(tmp_path)
        assert nodes_beyond(storage, core) == 0
    elif how == "cut":
        storage.cut(core, 3)
    elif how == "truncated":
        storage.commit([(core, Commit(truncate=3, head=replace(core.published, fork=1)))])
    elif other is not None:
        core.unlock_signing()
        storage, other = other, storage
    found = storage.open_core(NAME)
    assert found is not None
    if how in ("goes on", "another goes on"):
        append_to(storage, found, some_blocks(3, 1))
        assert found.node(12) is None
    assert nodes_beyond(storage, found) == 0
    new = some_blocks(4, 5)
    commit = append(found.head, new)
    storage.commit([(found, commit)])
    assert [found.node(node.index) for node in commit.nodes] == list(commit.nodes)
    assert storage.database.one("SELECT count(*) FROM unsynced") == 0
    if other is not None:
        core.changed()
        assert [core.node(node.index) for node in commit.nodes] == list(commit.nodes)
        other.close()
    storage.close()


def test_a_recovery_leaves_what_another_process_is_laying(tmp_path: Path) -> None:
    storage = DiskStorage(tmp_path)
    core = storage.create_core(record())
    ahead, rest = append_in_two(core.head, some_blocks(1, 5), 4)
    core.lock_signing()
    storage.commit([(core, ahead)])
    DiskStorage(tmp_path).close()
    assert storage.database.one("SELECT count(*) FROM unsynced") == 1
    storage.commit([(core, rest)])
    assert core.blocks(0, 5) == some_blocks(1, 5)
    storage.close()


# -- syncs ---------------------------------------------------------------------------------------


def test_what_is_committed_during_a_sync_waits_for_the_next(tmp_path: Path) -> None:
    storage = DiskStorage(tmp_path)
    storage.set_user_data("one", b"1")
    ticket = storage.begin_sync()
    assert ticket is not None
    storage.set_user_data("two", b"2")
    storage.finish_sync(ticket)
    assert storage.begin_sync() is not None
    storage.close()


def test_what_was_cut_during_a_sync_does_not_count_as_synced(tmp_path: Path) -> None:
    storage = DiskStorage(tmp_path)
    core = storage.create_core(record())
    append_to(storage, core, some_blocks(1, 5))
    ticket = storage.begin_sync()
    assert ticket is not None
    storage.flush(ticket)
    storage.cut(core, 2)
    append_to(storage, core, some_blocks(2, 5))
    storage.mark_synced(ticket)
    storage.flush_log(ticket)
    storage.finish_sync(ticket)
    # Of the seven blocks five were written after the flush.
    assert core.synced_length <= 2
    assert core.published.length <= 2
    sync(storage)
    assert core.synced_length == core.published.length == 7
    storage.close()


# -- full and failing disks --------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_full_disk_commits_nothing_and_the_store_works_on(tmp_path: Path, code: int) -> None:
    io = FaultyIO()
    storage = DiskStorage(tmp_path, io=io)
    one, two = storage.create_core(record(1)), storage.create_core(record(2))
    append_to(storage, one, some_blocks(1, 3))
    io.fail("pwritev", after=1, code=code)
    both = [(one, append(one.head, some_blocks(2, 3))), (two, append(two.head, some_blocks(3, 3)))]
    with pytest.raises(OSError, match=r".") as caught:
        storage.commit(both)
    assert caught.value.errno == code
    assert (one.head.length, two.head.length) == (3, 0)
    storage.commit(both)
    sync(storage)
    assert one.blocks(0, 6) == some_blocks(1, 3) + some_blocks(2, 3)
    storage.close()


def test_full_disk_under_the_database_commits_nothing_and_the_store_works_on(
    tmp_path: Path,
) -> None:
    storage = DiskStorage(tmp_path)
    core = storage.create_core(record())
    append_to(storage, core, some_blocks(1, 3))
    pages = storage.database.one("PRAGMA page_count")
    storage.database.one(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(OSError, match=r"store\.db") as caught:
        append_to(storage, core, some_blocks(2, 1000, size=10))
    assert caught.value.errno == errno.ENOSPC
    assert core.head.length == 3
    assert held(core) == [0, 1, 2]
    storage.database.one("PRAGMA max_page_count = 1000000")
    append_to(storage, core, some_blocks(2, 1000, size=10))
    storage.close()
    storage = DiskStorage(tmp_path)
    again = storage.open_core(NAME)
    assert again is not None
    assert again.blocks(0, 1003) == some_blocks(1, 3) + some_blocks(2, 1000, size=10)
    storage.close()


@pytest.mark.parametrize("step", ["flush", "flush_log"])
def test_failed_sync_is_final(tmp_path: Path, step: str) -> None:
    io = FaultyIO()
    storage = DiskStorage(tmp_path, io=io)
    core = storage.create_core(record())
    append_to(storage, core, some_blocks(1, 3))
    io.fail("fdatasync", after=step == "flush_log")
    with pytest.raises(StorageError, match=r"syncing .* failed"):
        sync(storage)
    assert core.published == EMPTY_HEAD
    for call in (
        lambda: append_to(storage, core, some_blocks(2, 3)),
        lambda: sync(storage),
        lambda: storage.create_core(record(4)),
        lambda: storage.set_user_data("a", b""),
        storage.checkpoint,
    ):
        with pytest.raises(StorageError, match="must be opened again"):
            call()
    assert core.block(1) == some_blocks(1, 3)[1], "reading goes on"
    storage.close()
    storage = DiskStorage(tmp_path)
    again = storage.open_core(NAME)
    assert again is not None
    assert again.published.length == 3, "the next open recovered and synced it"
    storage.close()


def test_log_that_was_replaced_is_not_acknowledged(tmp_path: Path) -> None:
    storage = DiskStorage(tmp_path)
    core = storage.create_core(record())
    append_to(storage, core, some_blocks(1, 3))
    log = tmp_path / "store.db-wal"
    log.rename(tmp_path / "moved")
    log.write_bytes(b"")
    with pytest.raises(StorageError, match="replaced"):
        sync(storage)
    log.unlink()
    (tmp_path / "moved").rename(log)
    storage.close()


def test_missing_data_file_is_corruption_and_not_an_end(tmp_path: Path) -> None:
    storage = DiskStorage(tmp_path)
    append_to(storage, storage.create_core(record()), some_blocks(1, 3))
    storage.close()
    data_file(tmp_path).rename(tmp_path / "away")
    storage = DiskStorage(tmp_path)
    core = storage.open_core(NAME)
    assert core is not None
    with pytest.raises(StorageCorrupt, match="missing"):
        core.block(0)
    data_file(tmp_path).write_bytes(b"short")
    with pytest.raises(StorageCorrupt, match="ends before"):
        core.block(2)
    append_to(storage, core, some_blocks(2, 3))
    storage.close()


# -- descriptors -------------------------------------------------------------------------------


def test_few_descriptors_serve_many_files(tmp_path: Path) -> None:
    io = FaultyIO()
    files = DataFiles(tmp_path, Health(), io, limit=4)
    names = [record(number).key.discovery_key for number in range(10)]
    for number, name in enumerate(names):
        files.write(number, name, [StoredBlock(0, 0, b"%d" % number)])
    assert io.calls["fdatasync"] == 6, "each was synced before it was closed"
    assert [files.read(number, name, 0, 1) for number, name in enumerate(names)] == [
        b"%d" % number for number in range(10)
    ]
    assert io.calls["fdatasync"] == 10
    files.close()


def test_descriptor_is_not_closed_under_its_sync(tmp_path: Path) -> None:
    entered, release = threading.Event(), threading.Event()

    class Slow(FileIO):
        def fdatasync(self, fd: int) -> None:
            entered.set()
            assert release.wait(HANG_SECONDS)
            super().fdatasync(fd)

    files = DataFiles(tmp_path, Health(), Slow(), limit=1)
    names = [record(number).key.discovery_key for number in range(3)]
    files.write(0, names[0], [StoredBlock(0, 0, b"x")])
    begun = files.begin_flush([0])
    thread = threading.Thread(target=files.flush, args=[begun])
    thread.start()
    assert entered.wait(HANG_SECONDS)
    files.write(1, names[1], [StoredBlock(0, 0, b"y")])
    files.forget(0)
    os.fstat(begun[0].fd)
    release.set()
    thread.join()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(begun[0].fd)
    files.close()


# -- checkpoints -------------------------------------------------------------------------------


def test_log_starts_over_beside_commits(tmp_path: Path) -> None:
    storage = DiskStorage(tmp_path)
    core = storage.create_core(record())
    stop = threading.Event()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            while not stop.is_set():
                if storage.checkpoint_due():
                    storage.checkpoint()
                stop.wait(0.002)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    blocks = some_blocks(1, 200, size=20)
    total = 0
    for _ in range(700):
        append_to(storage, core, blocks)
        total += 200
    stop.set()
    thread.join()
    assert not failures
    assert (tmp_path / "store.db-wal").stat().st_size < 48 << 20
    assert core.blocks(total - 200, total) == blocks
    storage.close()
    assert not (tmp_path / "store.db-wal").exists()
    assert storage.database is not None


def test_stored_block_without_its_leaf_is_refused(tmp_path: Path) -> None:
    storage = DiskStorage(tmp_path)
    core = storage.create_core(record(ours=False))
    log = RemoteLog(some_blocks(1, 4))
    storage.commit([(core, log.upgrade())])
    wrong = Commit(
        blocks=[StoredBlock(0, 0, b"too short")], nodes=[log.nodes[0]], runs=[Run(0, 1, True)]
    )
    with pytest.raises(ValueError, match="its leaf says"):
        storage.commit([(core, wrong)])
    assert held(core) == []
    storage.close()
