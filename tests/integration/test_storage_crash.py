"""Stores that were not closed: killed processes, and power cuts simulated at the disk's edge.

Longer rounds of the same: tools/crash_storage.py.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from corestore.commit import Commit
from corestore.errors import StorageError
from corestore.storage import DiskStorage
from corestore.storage.base import sync
from corestore.storage.locks import SigningLock, recovery_lock
from tests.support.crash import (
    CONTENT,
    METADATA,
    REMOTE,
    Lost,
    Said,
    Writer,
    block,
    check,
    remote_log,
)
from tests.support.faults import FaultyIO, UnstableIO
from tests.support.limits import HANG_SECONDS
from tests.support.storage import RemoteLog, append, append_to, held, record, some_blocks

if TYPE_CHECKING:
    from corestore.storage import SyncTicket
    from corestore.tree.types import Head

ROOT = Path(__file__).parents[2]


# -- kill -9 -----------------------------------------------------------------------------------


def test_killed_writer_loses_nothing_it_committed(tmp_path: Path) -> None:
    """Twenty times in a row, on one store that so grows older."""
    source = random.Random(1)
    log, said = remote_log(), Said()
    for seed in range(20):
        lines = source.choice([1, 5, 20, 60])
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.support.crash", str(tmp_path / "store"), str(seed)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert child.stdout is not None
        with child.stdout:
            for _, line in zip(range(lines), child.stdout, strict=False):
                said.hear(line)
            child.send_signal(signal.SIGKILL)
            for line in child.stdout:
                if line.endswith("\n"):
                    said.hear(line)
        assert child.wait() == -signal.SIGKILL
        check(tmp_path / "store", said, log, killed=True)


def run_together(path: Path, processes: int, commits: int) -> None:
    """Several processes on one store, then a check of all that is in it."""
    arguments = [sys.executable, "-m", "tests.support.crash", str(path)]
    children = [
        subprocess.Popen([*arguments, str(number), str(commits)], cwd=ROOT)
        for number in range(processes)
    ]
    assert [child.wait() for child in children] == [0] * processes
    log = remote_log()
    storage = DiskStorage(path)
    remote = storage.open_core(record(REMOTE).key.discovery_key)
    assert remote is not None
    assert remote.head == log.head
    assert all(remote.block(index) == log.data[index] for index in held(remote))
    for number in range(processes):
        own = storage.open_core(record(10 + number).key.discovery_key)
        assert own is not None
        assert own.published == own.head
        assert held(own) == list(range(own.head.length))
        assert all(own.block(index) == block(CONTENT, index) for index in held(own))
    assert storage.recovered() == []
    storage.close()


def test_processes_that_write_one_store_do_not_disturb_each_other(tmp_path: Path) -> None:
    run_together(tmp_path / "store", processes=3, commits=100)


# -- power cuts ----------------------------------------------------------------------------------


def write_and_cut(tmp_path: Path, seed: int, *, lie: bool = False) -> None:
    """Write, stop at a random step of a sync, cut the power, check what is left; three times."""
    source = random.Random(seed)
    log, said = remote_log(), Said()
    path = tmp_path / f"{seed}.0"
    for life in range(3):
        io = UnstableIO(path, lie=lie)
        storage = DiskStorage(path, io=io)
        writer = Writer(storage, source, log, said.hear)
        ticket: SyncTicket | None = None
        for _ in range(source.randrange(1, 8)):
            for step in ("begin", "flush", "mark", "flush_log", "finish"):
                for _ in range(source.randrange(4)):
                    writer.write()
                if step == "begin":
                    ticket = writer.begin_sync()
                elif ticket is None:
                    break
                elif step == "finish":
                    writer.finish_sync(ticket)
                else:
                    getattr(storage, {"mark": "mark_synced"}.get(step, step))(ticket)
                if source.random() < 0.03:
                    break
        target = tmp_path / f"{seed}.{life + 1}"
        io.cut_power(path, target, source)
        storage.close()
        lengths = check(target, said, log, killed=False)
        said.committed = said.acknowledged = lengths
        path = target


@pytest.mark.parametrize("seed", range(20))
def test_power_cut_loses_nothing_acknowledged(tmp_path: Path, seed: int) -> None:
    write_and_cut(tmp_path, seed)


def test_power_cut_test_notices_a_disk_that_does_not_sync(tmp_path: Path) -> None:
    failures = 0
    for seed in range(10):
        try:
            write_and_cut(tmp_path, seed, lie=True)
        except (Lost, StorageError):
            failures += 1
    assert failures > 2


@pytest.mark.parametrize("step", ["flush", "flush_log"])
def test_power_cut_test_notices_a_step_left_out(
    tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DiskStorage, step, lambda self, ticket: None)
    failures = 0
    for seed in range(20):
        try:
            write_and_cut(tmp_path, seed)
        except (Lost, StorageError):
            failures += 1
    assert failures > 0


# -- what recovery decides ---------------------------------------------------------------------


def damage(path: Path, number: int, offset: int, count: int = 1) -> None:
    """Overwrite bytes of a data file, as a page that was never written would read."""
    text = record(number).key.discovery_key.hex()
    with (path / "data" / text[:2] / text).open("r+b") as file:
        file.seek(offset)
        file.write(bytes(count))


def abandon(storage: DiskStorage, io: FaultyIO) -> None:
    """Close a store as a dying process does: nothing is synced, nothing marked."""
    io.fail("fdatasync")
    with pytest.raises(StorageError):
        storage.database.log.flush()
    storage.close()


def test_lost_tail_takes_its_transaction_back_in_both_cores(tmp_path: Path) -> None:
    io = FaultyIO()
    storage = DiskStorage(tmp_path, io=io)
    content, metadata = storage.create_core(record(CONTENT)), storage.create_core(record(METADATA))
    heads: list[tuple[Head, Head]] = []
    for number in range(5):
        both = [
            (content, append(content.head, some_blocks(number, 3))),
            (metadata, append(metadata.head, some_blocks(-number - 1, 2))),
        ]
        storage.commit(both)
        heads.append((content.head, metadata.head))
        if number == 1:
            sync(storage)
    append_to(storage, metadata, some_blocks(77, 1))
    bad = heads[2][0].byte_length + 200
    abandon(storage, io)
    damage(tmp_path, CONTENT, bad)

    storage = DiskStorage(tmp_path)
    cut = {core.record.key: (core, before) for core, before in storage.recovered()}
    content, before = cut[record(CONTENT).key]
    assert before == 15
    assert content.head == content.published == heads[2][0]
    metadata, before = cut[record(METADATA).key]
    assert before == 11
    assert metadata.head == metadata.published == heads[2][1]
    assert held(content) == list(range(9))
    assert not content.signing_locked
    append_to(storage, content, some_blocks(9, 3))
    assert content.blocks(9, 12) == some_blocks(9, 3)
    storage.close()
    storage = DiskStorage(tmp_path)
    assert storage.recovered() == []
    storage.close()


def test_a_head_signed_late_stays_with_its_transaction(tmp_path: Path) -> None:
    io = FaultyIO()
    storage = DiskStorage(tmp_path, io=io)
    content, metadata = storage.create_core(record(CONTENT)), storage.create_core(record(METADATA))
    append_to(storage, content, some_blocks(1, 3))
    append_to(storage, metadata, some_blocks(2, 2))
    sync(storage)
    heads = content.head, metadata.head
    both = [
        (content, unsigned(append(content.head, some_blocks(3, 3)))),
        (metadata, unsigned(append(metadata.head, some_blocks(4, 2)))),
    ]
    storage.commit(both)
    assert list(storage.unsigned()) == [content, metadata]
    storage.commit([(metadata, Commit(head=replace(metadata.head, signature=bytes(64))))])
    assert list(storage.unsigned()) == [content]
    bad = heads[0].byte_length + 10
    abandon(storage, io)
    damage(tmp_path, CONTENT, bad)
    storage = DiskStorage(tmp_path)
    assert sorted(before for _, before in storage.recovered()) == [4, 6]
    assert [core.head for core, _ in storage.recovered()] == list(heads)
    storage.close()


def test_an_unsigned_head_is_synced_and_not_published(tmp_path: Path) -> None:
    storage = DiskStorage(tmp_path)
    core = storage.create_core(record())
    append_to(storage, core, some_blocks(1, 2))
    sync(storage)
    published = core.published
    storage.commit([(core, unsigned(append(core.head, some_blocks(2, 3))))])
    assert list(storage.unsigned()) == [core]
    sync(storage)
    assert core.published == published
    assert core.head.length == 5
    storage.commit([(core, Commit(head=replace(core.head, signature=bytes(64))))])
    sync(storage)
    assert core.published == core.head
    storage.close()


def unsigned(commit: Commit) -> Commit:
    assert commit.head is not None
    return replace(commit, head=replace(commit.head, signature=b""))


def test_core_is_never_cut_below_what_is_published(tmp_path: Path) -> None:
    io = FaultyIO()
    storage = DiskStorage(tmp_path, io=io)
    core = storage.create_core(record())
    append_to(storage, core, some_blocks(1, 3))
    sync(storage)
    published = core.published
    append_to(storage, core, some_blocks(2, 3))
    start = published.byte_length
    abandon(storage, io)
    damage(tmp_path, 0, 10)
    damage(tmp_path, 0, start + 10)
    storage = DiskStorage(tmp_path)
    ((again, before),) = storage.recovered()
    assert before == 6
    assert again.head == again.published == published
    storage.close()


def test_good_tail_is_kept_and_published(tmp_path: Path) -> None:
    io = FaultyIO()
    storage = DiskStorage(tmp_path, io=io)
    core = storage.create_core(record())
    append_to(storage, core, some_blocks(1, 6))
    abandon(storage, io)
    storage = DiskStorage(tmp_path)
    assert storage.recovered() == []
    again = storage.open_core(record().key.discovery_key)
    assert again is not None
    assert again.published == again.head == core.head
    storage.close()


def test_lost_download_loses_its_bit_only(tmp_path: Path) -> None:
    io = FaultyIO()
    storage = DiskStorage(tmp_path, io=io)
    log = RemoteLog(some_blocks(1, 10))
    core = storage.create_core(record(ours=False))
    storage.commit([(core, log.upgrade()), (core, log.fetched([0, 1]))])
    sync(storage)
    storage.commit([(core, log.fetched([4, 5, 6]))])
    abandon(storage, io)
    damage(tmp_path, 0, log.offsets[5] + 3)
    damage(tmp_path, 0, log.offsets[1] + 3)  # synced: not looked at again
    storage = DiskStorage(tmp_path)
    assert storage.recovered() == []
    again = storage.open_core(record().key.discovery_key)
    assert again is not None
    assert held(again) == [0, 1, 4, 6]
    assert again.head == log.head
    assert storage.database.one("SELECT count(*) FROM unsynced") == 0
    storage.commit([(again, log.fetched([5], leaves=False))])
    assert again.block(5) == log.data[5]
    storage.close()


def test_missing_data_file_is_an_empty_core(tmp_path: Path) -> None:
    io = FaultyIO()
    storage = DiskStorage(tmp_path, io=io)
    core = storage.create_core(record())
    append_to(storage, core, some_blocks(1, 6))
    abandon(storage, io)
    text = record().key.discovery_key.hex()
    (tmp_path / "data" / text[:2] / text).unlink()
    storage = DiskStorage(tmp_path)
    ((again, before),) = storage.recovered()
    assert (again.head.length, before) == (0, 6)
    append_to(storage, again, some_blocks(2, 6))
    assert again.blocks(0, 6) == some_blocks(2, 6)
    storage.close()


def test_cut_that_was_never_signed_is_listed_until_it_is(tmp_path: Path) -> None:
    io = FaultyIO()
    storage = DiskStorage(tmp_path, io=io)
    core = storage.create_core(record())
    append_to(storage, core, some_blocks(1, 6))
    storage.cut(core, 4)
    abandon(storage, io)
    for _ in range(2):
        storage = DiskStorage(tmp_path)
        ((again, _length),) = storage.recovered()
        assert again.head.length == 4
        assert again.head.signature == b""
        assert again.published.length == 0
        storage.close()
    storage = DiskStorage(tmp_path)
    ((again, _length),) = storage.recovered()
    signed = RemoteLog(some_blocks(1, 6)[:4]).head
    storage.commit([(again, Commit(head=signed))])
    storage.close()
    storage = DiskStorage(tmp_path)
    assert storage.recovered() == []
    again = storage.open_core(record().key.discovery_key)
    assert again is not None
    assert again.published == signed
    storage.close()


def test_signer_waits_for_a_recovery_that_holds_its_lock(tmp_path: Path) -> None:
    storage = DiskStorage(tmp_path)
    core = storage.create_core(record())
    recovering, done = threading.Event(), threading.Event()

    def recover() -> None:
        with recovery_lock(tmp_path / "locks"):
            lock = SigningLock(tmp_path / "locks", core.name)
            recovering.set()
            done.wait(0.05)
            lock.release()

    thread = threading.Thread(target=recover)
    thread.start()
    assert recovering.wait(HANG_SECONDS)
    append_to(storage, core, some_blocks(1, 1))
    thread.join()
    storage.close()


def test_tail_that_a_living_process_works_on_is_left_alone(tmp_path: Path) -> None:
    one = DiskStorage(tmp_path)
    core = one.create_core(record())
    append_to(one, core, some_blocks(1, 3))
    damage(tmp_path, 0, 10)
    two = DiskStorage(tmp_path)
    assert two.recovered() == []
    seen = two.open_core(record().key.discovery_key)
    assert seen is not None
    assert seen.head.length == 3
    assert seen.published.length == 0
    two.close()
    one.close()
