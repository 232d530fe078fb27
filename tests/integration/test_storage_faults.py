"""A disk that fails, is full, or stops, at each of its writes and syncs in turn.

Two jobs are done on it: a writer appends to two cores together, syncs, clears and truncates; a
reader downloads, follows a truncation, and clears. After each fault the program has had an error or
none, never waited for ever, and the store opens again to a state it had: not before the last one
that was acknowledged.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import random
import shutil
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

import corestore
from corestore import durability, staging
from corestore.errors import StorageError
from corestore.replication import machine
from corestore.storage import DiskStorage
from corestore.storage.base import sync
from tests.support.builders import block, linked
from tests.support.failingdisk import FailingDisk
from tests.support.limits import HANG_SECONDS
from tests.support.storage import append_to, record, some_blocks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

pytestmark = pytest.mark.slow

SIZES = (30, 3000, 9000, 200, 5000)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """After the disk refused something it is tried again at once: hundreds of runs wait for it."""
    monkeypatch.setattr(machine, "REFUSED_DELAY", 0.01)
    monkeypatch.setattr(durability, "FULL_DELAY", 0.01)


@pytest.fixture(autouse=True)
def portions(monkeypatch):
    """Already three blocks are too many for one transaction."""
    monkeypatch.setattr(staging, "HASH_IN_PLACE", 0)
    monkeypatch.setattr(staging, "PORTION_BLOCKS", 2)


@dataclass
class Diary:
    """What a job has done: its states, and which of them were acknowledged as durable."""

    states: list[object] = field(default_factory=list)
    durable: int = -1
    error: BaseException | None = None

    def note(self, state: object, *, durable: bool = False) -> None:
        """A step has returned."""
        self.states.append(state)
        if durable:
            self.durable = len(self.states) - 1


def state_of(core) -> tuple[int, int, bytes]:
    return core.fork, core.length, core.tree_hash() if core.length else b""


# -- the writer ----------------------------------------------------------------------------------

CLEARED = range(1, 4)


def content(fork: int, index: int) -> bytes:
    return block(1000 * fork + index, SIZES[index % len(SIZES)])


async def _append(store, cores, count):
    first, second = cores
    async with store.transaction(first, second) as tx:
        start = tx.length(first)
        await tx.append(first, *(content(first.fork, start + i) for i in range(count)))
        await tx.append(second, b"root %d" % (start + count))


async def _sync(store, cores):
    await store.sync()


async def _clear(store, cores):
    await cores[0].clear(CLEARED.start, CLEARED.stop)


async def _truncate(store, cores):
    await cores[0].truncate(5)


def _appending(count):
    async def append(store, cores):
        await _append(store, cores, count)

    return append


STEPS = [
    _appending(3),
    _sync,
    _appending(4),
    _appending(1),
    _sync,
    _clear,
    _appending(2),
    _truncate,
    _appending(3),
    _sync,
]


async def opened(store):
    return [await store.get(name=name) for name in ("content", "metadata")]


async def write(folder: Path, disk: FailingDisk, diary: Diary, *, mend: bool = False) -> None:
    """All steps. With *mend*, an OSError makes the disk whole and the step is done again."""
    async with corestore.open(lambda: DiskStorage(folder, io=disk.io)) as store:
        cores = await opened(store)
        for step in STEPS:
            await again(partial(step, store, cores), disk, mend=mend)
            diary.note([state_of(core) for core in cores], durable=step is _sync)


async def check_written(folder: Path, clean: list[object], least: int, most: int) -> None:
    """The store is as after one of the steps *least* to *most*, and can be written."""
    async with corestore.open(folder) as store:
        cores = await opened(store)
        found = [state_of(core) for core in cores]
        states = clean[max(least, 0) : most + 1]
        if least < 0:
            states.insert(0, [(0, 0, b""), (0, 0, b"")])
        if found[0][0]:
            # A truncation is durable at once, and of one core alone.
            assert all(found[each] in [state[each] for state in states] for each in (0, 1))
        else:
            assert found in states
        first, second = cores
        forked = 5 if first.fork else first.length
        for index in range(first.length):
            if first.has(index):
                fork = 0 if index < forked else first.fork
                assert await first.get(index) == content(fork, index)
            else:
                assert index in CLEARED
        for index in range(second.length):
            assert (await second.get(index)).startswith(b"root ")
        await _append(store, cores, 2)
        await store.sync()
        assert first.published_length == first.length


# -- the reader ----------------------------------------------------------------------------------


KEY_PAIR = corestore.KeyPair.from_seed(bytes(32))
# The reader's steps; "grow" and "truncate" are the writer's.
READING = ("fetch", "sync", "grow", "fetch", "clear", "truncate", "fetch", "sync")
# How long the reader's log is before its first step, and after each.
LENGTHS = ((0, 0), (0, 8), (0, 8), (0, 12), (0, 12), (1, 8), (1, 8))


async def grow(store, core, count):
    """Append to the core that the reader follows; the same blocks in every run."""
    await core.append(*(content(core.fork, core.length + i) for i in range(count)))
    await store.sync()


async def fetch(store, copy, source):
    """Get all of a core; its store's error if it has stopped meanwhile."""
    while (copy.fork, copy.length) != (source.fork, source.length):
        await store.sync()
        with trio.move_on_after(0.05):
            await copy.update()
    await copy.download(0, copy.length)


async def read(folder: Path, disk: FailingDisk, diary: Diary, *, mend: bool = False) -> None:
    """Download in several steps, with a clear and a truncation between them."""
    async with corestore.open(None) as writing:
        source = await writing.get(key_pair=KEY_PAIR)
        await grow(writing, source, 8)
        async with corestore.open(lambda: DiskStorage(folder, io=disk.io)) as store:
            copy = await store.get(key=source.key)
            async with linked(writing, store):
                do = {
                    "fetch": partial(fetch, store, copy, source),
                    "clear": partial(copy.clear, CLEARED.start, CLEARED.stop),
                    "sync": store.sync,
                }
                for what in READING:
                    if what == "grow":
                        await grow(writing, source, 4)
                    elif what == "truncate":
                        await source.truncate(5)
                        await grow(writing, source, 3)
                    else:
                        await again(do[what], disk, mend=mend)
                        # Beside the job, an upgrade may come before its turn.
                        diary.note(what, durable=what == "sync")


async def again(step: Callable[[], Awaitable[object]], disk: FailingDisk, *, mend: bool) -> None:
    """Do a step; with *mend*, an OSError makes the disk whole, and it is done again."""
    try:
        await step()
    except OSError:
        if not mend:
            raise
        disk.mend()
        await step()


async def check_read(folder: Path, clean: list[object], least: int, most: int) -> None:
    """What is in the reader's store is the writer's; and the rest can be downloaded."""
    async with corestore.open(None) as writing, corestore.open(folder) as store:
        source = await writing.get(key_pair=KEY_PAIR)
        await grow(writing, source, 12)
        await source.truncate(5)
        await grow(writing, source, 3)
        copy = await store.get(key=source.key)
        assert (copy.fork, copy.length) in (*LENGTHS, (1, 5))
        assert (copy.fork, copy.length) >= LENGTHS[least + 1]
        for index in range(copy.length):
            if copy.has(index):
                assert copy.get_nowait(index) == content(copy.fork if index >= 5 else 0, index)
            else:
                assert index in CLEARED or index >= 5 or least < 0
        async with linked(writing, store):
            await fetch(store, copy, source)
        assert [copy.get_nowait(index) for index in range(8)] == [
            content(index >= 5, index) for index in range(8)
        ]


# -- runs ----------------------------------------------------------------------------------------

JOBS = [(write, check_written), (read, check_read)]
jobs = pytest.mark.parametrize(("job", "check"), JOBS, ids=["writing", "reading"])


def leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for each in error.exceptions for leaf in leaves(each)]
    return [error]


def run(job, folder: Path, disk: FailingDisk, *, mend: bool = False) -> Diary:
    """Do a job; the only errors are those a full or broken disk is reported by."""
    diary = Diary()

    async def main():
        with trio.fail_after(HANG_SECONDS):
            await job(folder, disk, diary, mend=mend)

    with disk:
        try:
            trio.run(main)
        except (Exception, BaseExceptionGroup) as error:
            for leaf in leaves(error):
                if not isinstance(leaf, (OSError, StorageError)):
                    raise
            diary.error = error
    return diary


def clean_states(job, folder: Path) -> tuple[list[object], int]:
    """The states of a run without a fault, and how many calls it made."""
    disk = FailingDisk(folder)
    diary = run(job, folder, disk)
    assert diary.error is None
    return diary.states, len(disk.calls)


def look(check, folder: Path, clean: list[object], least: int, most: int) -> None:
    async def main():
        with trio.fail_after(HANG_SECONDS):
            await check(folder, clean, least, most)

    trio.run(main)


@jobs
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("more", [False, True], ids=["once", "for-good"])
def test_a_call_that_fails_loses_nothing_acknowledged(tmp_path, job, check, code, more):
    clean, calls = clean_states(job, tmp_path / "clean")
    failures = 0
    for number in range(calls):
        folder = tmp_path / str(number)
        disk = FailingDisk(folder)
        disk.fail(number, code, more=more)
        diary = run(job, folder, disk)
        failures += diary.error is not None
        assert diary.states == clean[: len(diary.states)]
        if diary.error is None:
            assert len(diary.states) == len(clean)
        look(check, folder, clean, diary.durable, len(diary.states))
        shutil.rmtree(folder)
    assert failures > calls / 2 or code == errno.ENOSPC


@jobs
def test_a_full_disk_stops_nothing_for_good(tmp_path, job, check):
    clean, calls = clean_states(job, tmp_path / "clean")
    for number in range(calls):
        folder = tmp_path / str(number)
        disk = FailingDisk(folder)
        disk.fail(number, errno.ENOSPC, more=True)
        diary = run(job, folder, disk, mend=True)
        # Only opening the store may fail for good.
        assert diary.states == (clean if diary.states else [])
        assert diary.error is None or not diary.states
        look(check, folder, clean, diary.durable, len(diary.states))
        shutil.rmtree(folder)


@jobs
def test_a_process_that_ends_at_any_call_loses_nothing_it_did(tmp_path, job, check):
    clean, _ = clean_states(job, tmp_path / "clean")
    copies: list[tuple[Path, int]] = []
    diary = Diary()
    folder = tmp_path / "store"

    def before(number: int) -> None:
        target = tmp_path / f"copy-{number}"
        shutil.copytree(folder, target, ignore=shutil.ignore_patterns("store.db-shm"))
        copies.append((target, len(diary.states) - 1))

    disk = FailingDisk(folder, before)
    with disk:
        trio.run(job, folder, disk, diary)
    assert len(copies) == len(disk.calls)
    for target, done in copies:
        look(check, target, clean, done, done + 1)


@jobs
@pytest.mark.parametrize("seed", range(3))
def test_the_power_may_go_at_any_call(tmp_path, job, check, seed):
    clean, _ = clean_states(job, tmp_path / "clean")
    source = random.Random(seed)
    copies: list[tuple[Path, int, int]] = []
    diary = Diary()
    folder = tmp_path / "store"

    def before(number: int) -> None:
        # As the store closes SQLite writes the database, and what that may lose is not followed.
        if (folder / "store.db-wal").exists() and len(diary.states) < len(clean):
            target = tmp_path / f"copy-{number}"
            disk.io.cut_power(folder, target, source)
            copies.append((target, diary.durable, len(diary.states)))

    disk = FailingDisk(folder, before)
    with disk:
        trio.run(job, folder, disk, diary)
    assert len(copies) > 30
    for target, durable, most in copies:
        look(check, target, clean, durable, most)


def test_a_checkpoint_without_room_ends_nothing(tmp_path):
    with FailingDisk(tmp_path / "store") as disk:
        storage = DiskStorage(tmp_path / "store", io=disk.io)
        core = storage.create_core(record())
        for number in range(20):
            append_to(storage, core, some_blocks(number, 50))
            disk.fail(len(disk.calls) + number % 5, errno.ENOSPC, more=True)
            storage.checkpoint()
            disk.mend()
        assert disk.failed
        storage.checkpoint()
        storage.close()
    storage = DiskStorage(tmp_path / "store")
    again = storage.open_core(record().key.discovery_key)
    assert again is not None
    assert again.blocks(950, 1000) == some_blocks(19, 50)
    storage.close()


def removed_or_whole(folder: Path, blocks: list[bytes]) -> None:
    """The first core is there with all its blocks, or nothing of it is; the second is there."""
    storage = DiskStorage(folder)
    for number in (0, 1):
        name = record(number).key.discovery_key
        core = storage.open_core(name)
        if core is not None:
            assert core.blocks(0, len(blocks)) == blocks
            assert storage.files.path(name).exists()
        else:
            assert not number
            assert not storage.files.path(name).exists()
            assert storage.database.one("SELECT count(*) FROM node WHERE id < 2 << 42") == 0
            assert storage.database.one("SELECT count(*) FROM bits WHERE id < 2 << 42") == 0
        assert storage.database.one("SELECT count(*) FROM pending_clear") == 0
    storage.close()


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("more", [False, True], ids=["once", "for-good"])
def test_a_removal_is_whole_or_has_not_begun(tmp_path, code, more):
    blocks = some_blocks(1, 50)
    with FailingDisk(tmp_path) as disk:
        for number in itertools.count():
            folder = tmp_path / str(number)
            storage = DiskStorage(folder, io=disk.io)
            for each in (0, 1):
                append_to(storage, storage.create_core(record(each)), blocks)
            sync(storage)
            first = len(disk.calls)
            disk.fail(first + number, code, more=more)
            with contextlib.suppress(OSError, StorageError):
                storage.remove_core(record().key.discovery_key)
            calls = len(disk.calls) - first
            disk.mend()
            disk.io.cut_power(folder, tmp_path / f"{number} cut", random.Random(number))
            with contextlib.suppress(StorageError):
                storage.close()
            for left in (folder, tmp_path / f"{number} cut"):
                removed_or_whole(left, blocks)
                shutil.rmtree(left)
            if number >= calls:
                return
