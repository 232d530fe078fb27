"""A disk with no room at all: what is there can be looked at, and given back."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from corestore.commit import Commit, Run
from corestore.errors import StorageError
from corestore.storage import DiskStorage
from corestore.storage.base import sync
from corestore.storage.reserve import LAST_BYTES, RESERVE_BYTES, Reserve
from corestore.tree import truncate
from tests.support.failingdisk import FailingDisk
from tests.support.storage import RemoteLog, append, append_to, held, record, some_blocks

if TYPE_CHECKING:
    from pathlib import Path

    from corestore.storage.base import CoreStorage

NAME = record().key.discovery_key
CLEAR = Commit(runs=(Run(2, 8, False),))


def fill_up(disk: FailingDisk) -> None:
    disk.fail(len(disk.calls), errno.ENOSPC, more=True)


def download(storage: DiskStorage) -> CoreStorage:
    """A core of somebody else with ten blocks."""
    log = RemoteLog(some_blocks(1, 10, size=10_000))
    core = storage.create_core(record(ours=False))
    storage.commit([(core, log.upgrade()), (core, log.fetched(range(10)))])
    return core


def test_blocks_are_cleared_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FailingDisk(tmp_path) as disk:
        storage = DiskStorage(tmp_path, io=disk.io)
        core = download(storage)
        sync(storage)
        reserve = tmp_path / "reserve"
        assert reserve.stat().st_blocks * 512 >= RESERVE_BYTES
        fill_up(disk)
        with pytest.raises(OSError, match=r"store\.db"):
            storage.set_user_data("name", b"value")
        assert reserve.exists()

        released = Reserve.release

        def release(self: Reserve, least: int = 0) -> bool:
            disk.mend()
            return released(self, least)

        monkeypatch.setattr(Reserve, "release", release)
        storage.commit([(core, CLEAR)])
        assert held(core) == [0, 1, 8, 9]
        assert reserve.exists()  # made again, of what was given back
        storage.close()


@pytest.mark.parametrize("how", ["removed", "truncated"])
def test_a_core_is_given_back_on_a_full_disk(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FailingDisk(tmp_path) as disk:
        storage = DiskStorage(tmp_path, io=disk.io)
        core = storage.create_core(record())
        append_to(storage, core, some_blocks(1, 10, size=10_000))
        sync(storage)
        shorter = truncate(core.head, 2, 1, nodes=core)
        fill_up(disk)

        released = Reserve.release

        def release(self: Reserve, least: int = 0) -> bool:
            disk.mend()
            return released(self, least)

        monkeypatch.setattr(Reserve, "release", release)
        if how == "removed":
            storage.remove_core(NAME)
            assert storage.open_core(NAME) is None
        else:
            head = shorter.head(bytes(64))
            storage.commit([(core, Commit(truncate=2, nodes=shorter.nodes, head=head))])
            assert held(core) == [0, 1]
        assert (tmp_path / "reserve").exists()
        storage.close()


def log_size(folder: Path) -> int:
    return (folder / "store.db-wal").stat().st_size


def test_a_core_of_many_blocks_is_removed_in_the_room_of_the_reserve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = DiskStorage(tmp_path)
    core = storage.create_core(record())
    append_to(storage, core, some_blocks(1, 20_000, size=10))
    sync(storage)
    storage.close()
    storage = DiskStorage(tmp_path)
    before = log_size(tmp_path)
    # The process ends before the file is deleted, and the tree after it.
    with monkeypatch.context() as patch:
        patch.setattr(DiskStorage, "_give_back", lambda self: None)
        storage.remove_core(NAME)
    assert log_size(tmp_path) - before < RESERVE_BYTES / 4
    assert storage.open_core(NAME) is None
    other = storage.create_core(record(1))
    append_to(storage, other, some_blocks(2, 3))
    storage.close()
    storage = DiskStorage(tmp_path)
    assert storage.database.one("SELECT count(*) FROM node") == 4
    assert storage.database.one("SELECT count(*) FROM bits") == 1
    assert storage.database.one("SELECT count(*) FROM pending_clear") == 0
    assert not storage.files.path(NAME).exists()
    storage.close()


def test_a_store_opens_on_a_disk_too_full_to_note_what_it_gave_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FailingDisk(tmp_path) as disk:
        storage = DiskStorage(tmp_path, io=disk.io)
        core = download(storage)
        sync(storage)
        with monkeypatch.context() as patch:
            patch.setattr(DiskStorage, "_give_back", lambda self: None)
            storage.commit([(core, CLEAR)])
        storage.close()
        fill_up(disk)
        storage = DiskStorage(tmp_path, io=disk.io)
        assert storage.database.one("SELECT count(*) FROM pending_clear") == 1
        disk.mend()
        storage.close()
        storage = DiskStorage(tmp_path, io=disk.io)
        assert storage.database.one("SELECT count(*) FROM pending_clear") == 0
        storage.close()


def test_a_reserve_that_another_process_has_used_is_made_again(tmp_path: Path) -> None:
    one, other = Reserve(tmp_path / "reserve"), Reserve(tmp_path / "reserve")
    one.keep()
    other.keep()
    assert other.release()
    assert not one.release()
    one.keep()
    assert (tmp_path / "reserve").stat().st_blocks * 512 >= RESERVE_BYTES
    assert other.release()


def test_a_clearing_that_fails_with_the_reserve_too_gives_it_back(tmp_path: Path) -> None:
    with FailingDisk(tmp_path) as disk:
        storage = DiskStorage(tmp_path, io=disk.io)
        core = download(storage)
        sync(storage)
        fill_up(disk)
        with pytest.raises(OSError, match=r"store\.db"):
            storage.commit([(core, CLEAR)])
        assert (tmp_path / "reserve").exists()
        disk.mend()
        storage.close()


def test_a_reserve_is_kept_as_far_as_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = [1_000_000]
    allocate = os.posix_fallocate

    def allocate_in_room(fd: int, start: int, size: int) -> None:
        if start + size > room[0]:
            allocate(fd, start, size // 2)  # some of it is there
            raise OSError(errno.ENOSPC, "full")
        allocate(fd, start, size)

    monkeypatch.setattr(os, "posix_fallocate", allocate_in_room)
    path = tmp_path / "reserve"
    reserve = Reserve(path)
    reserve.keep()
    assert 900_000 < path.stat().st_size <= 1_000_000
    assert reserve.release(LAST_BYTES)
    assert path.stat().st_size == LAST_BYTES
    assert not reserve.release(LAST_BYTES)
    room[0] = 10_000_000
    reserve.keep()
    assert path.stat().st_size == RESERVE_BYTES


def test_what_makes_room_is_committed_and_synced_on_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FailingDisk(tmp_path) as disk:
        storage = DiskStorage(tmp_path, io=disk.io)
        core = storage.create_core(record())
        append_to(storage, core, some_blocks(1, 3))
        sync(storage)
        fill_up(disk)
        released = Reserve.release
        left: list[int] = []

        def release(self: Reserve, least: int = 0) -> bool:
            disk.mend()
            left.append(least)
            return released(self, least)

        monkeypatch.setattr(Reserve, "release", release)
        commit = append(core.head, some_blocks(2, 1))
        with pytest.raises(OSError, match="No space left"):
            storage.commit([(core, commit)])
        assert left == []
        storage.commit([(core, replace(commit, makes_room=True))])
        fill_up(disk)
        sync(storage)
        assert core.published.length == 4
        fill_up(disk)
        storage.commit([(core, Commit(user_data={"oldest": b"3"}))])
        # What is left is for clearing.
        assert left == [LAST_BYTES] * 3
        fill_up(disk)
        storage.commit([(core, Commit(runs=(Run(0, 3, False),)))])
        assert left[3:] == [0]
        storage.close()


def test_a_reserve_that_was_left_empty_is_filled(tmp_path: Path) -> None:
    (tmp_path / "reserve").touch()
    storage = DiskStorage(tmp_path)
    assert (tmp_path / "reserve").stat().st_blocks * 512 >= RESERVE_BYTES
    storage.close()


def test_a_clearing_without_a_reserve_fails_and_changes_nothing(tmp_path: Path) -> None:
    with FailingDisk(tmp_path) as disk:
        storage = DiskStorage(tmp_path, io=disk.io)
        core = download(storage)
        sync(storage)
        (tmp_path / "reserve").unlink()
        fill_up(disk)
        with pytest.raises(OSError, match=r"store\.db"):
            storage.commit([(core, CLEAR)])
        assert held(core) == list(range(10))
        disk.mend()
        storage.commit([(core, CLEAR)])
        storage.close()


def abandon(storage: DiskStorage, disk: FailingDisk) -> None:
    """Close a store as a dying process does: nothing is synced, nothing marked."""
    disk.fail(len(disk.calls), errno.EIO, more=True)
    with pytest.raises(StorageError):
        storage.database.log.flush()
    storage.close()


def test_a_reader_that_was_killed_on_a_full_disk_opens_and_closes(tmp_path: Path) -> None:
    with FailingDisk(tmp_path) as disk:
        storage = DiskStorage(tmp_path, io=disk.io)
        download(storage)
        abandon(storage, disk)
        for _ in range(2):
            fill_up(disk)
            storage = DiskStorage(tmp_path, io=disk.io)
            core = storage.open_core(NAME)
            assert core is not None
            assert held(core) == list(range(10))
            assert disk.failed
            storage.close()
        disk.mend()
        storage = DiskStorage(tmp_path, io=disk.io)
        assert storage.database.one("SELECT count(*) FROM unsynced") == 0
        storage.close()


def test_what_was_appended_here_is_not_called_durable_on_a_full_disk(tmp_path: Path) -> None:
    with FailingDisk(tmp_path) as disk:
        storage = DiskStorage(tmp_path, io=disk.io)
        append_to(storage, storage.create_core(record()), some_blocks(1, 3))
        abandon(storage, disk)
        fill_up(disk)
        with pytest.raises(OSError, match=r"store\.db"):
            DiskStorage(tmp_path, io=disk.io)
        disk.mend()
        storage = DiskStorage(tmp_path, io=disk.io)
        core = storage.open_core(NAME)
        assert core is not None
        assert core.published.length == 3
        storage.close()
