"""What peers proved of one core and storage refuses is no other core's loss."""

from __future__ import annotations

import errno
import os

import pytest
import trio
import trio.testing

import corestore
from corestore import StorageError
from corestore.incoming import BATCH_COST, COMMIT_BYTES, MAX_PENDING_BYTES, Incoming
from corestore.replication.actions import CommitBatch
from corestore.storage import DiskStorage
from corestore.storage.files import FileIO
from corestore.tree.verify import VerifiedBatch
from tests.support.builders import FaultyStorage, fill, linked, open_with
from tests.support.limits import HANG_SECONDS


class RefusingIO(FileIO):
    """Refuses all writes to one data file, as a disk does beyond the greatest offset of a file."""

    def __init__(self) -> None:
        self.name = ""

    def pwritev(self, fd, pieces, offset):
        if self.name and os.readlink(f"/proc/self/fd/{fd}").endswith(self.name):
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        return super().pwritev(fd, pieces, offset)


async def test_a_core_that_cannot_be_written_does_not_keep_others_from_it(tmp_path):
    io = RefusingIO()
    async with corestore.open(None) as store, open_with(DiskStorage(tmp_path, io=io)) as reading:
        bad, good = await store.get(name="bad"), await store.get(name="good")
        io.name = bad.discovery_key.hex()
        await fill(bad, 300, size=1000)
        await fill(good, 300, size=1000)
        await store.sync()

        async def get(key, *, refused):
            core = await reading.get(key=key)
            await core.wait_length(300)
            if refused:
                with pytest.raises(OSError, match="large"):
                    await core.download(0, 300)
            else:
                await core.download(0, 300)

        with trio.fail_after(HANG_SECONDS):
            async with linked(store, reading), trio.open_nursery() as nursery:
                for core in (bad, good):
                    nursery.start_soon(lambda core: get(core.key, refused=core is bad), core)


class Refusing(FaultyStorage):
    """A store in memory that refuses whatever is in a core called `refused`."""

    refused = None

    def commit(self, commits):
        if any(core.record.key == self.refused for core, _ in commits):
            raise OSError(errno.ENOSPC, "full")
        super().commit(commits)


async def test_a_core_that_is_refused_keeps_others_waiting_not_a_moment(autojump_clock, caplog):
    caplog.set_level("INFO", "corestore")
    storage = Refusing()
    async with corestore.open(None) as store, open_with(storage) as reading:
        bad, good = await store.get(name="bad"), await store.get(name="good")
        for core in (bad, good):
            await fill(core, 3)
        await store.sync()
        refused, copy = await reading.get(key=bad.key), await reading.get(key=good.key)
        async with linked(store, reading):
            await refused.wait_length(3)
            await copy.wait_length(3)
            storage.refused = bad.key
            with pytest.raises(OSError, match="full"):
                await refused.get(0)
            began = trio.current_time()
            await copy.download()
            assert trio.current_time() - began < 0.5
            with pytest.raises(OSError, match="full"):
                await refused.get(0)
            storage.refused = None
            assert await refused.get(0) == await bad.get(0)
    told = [text for text in caplog.messages if "stored" in text]
    assert len(told) == 2, told
    assert "cannot be stored" in told[0]
    assert "is stored again" in told[1]


@pytest.mark.parametrize("bug", [LookupError("a node"), ValueError("a block without its leaf")])
async def test_a_bug_that_a_peer_finds_is_told_and_is_not_the_end(bug, autojump_clock, caplog):
    storage = FaultyStorage()
    async with corestore.open(None) as store, open_with(storage) as reading:
        core = await store.get(name="log")
        await fill(core, 3)
        await store.sync()
        copy = await reading.get(key=core.key)
        async with linked(store, reading):
            await copy.wait_length(3)
            storage.errors["commit"] = bug
            with pytest.raises(StorageError, match=str(bug)):
                await copy.get(0)
            assert await copy.get(0) == await core.get(0)
    assert "does not fit" in caplog.text


async def test_a_fetch_fails_with_the_first_of_its_blocks():
    storage = FaultyStorage()
    async with corestore.open(None) as store, open_with(storage) as reading:
        core = await store.get(name="log")
        await fill(core, 9)
        # Nobody has it.
        await core.clear(2, 3)
        await store.sync()
        copy = await reading.get(key=core.key)
        async with linked(store, reading):
            await copy.wait_length(9)
            storage.errors["commit"] = OSError(errno.ENOSPC, "no space")
            with trio.fail_after(HANG_SECONDS), pytest.raises(OSError, match="no space"):
                await copy.fetch([2, 7])
            await copy.fetch([7])


async def test_what_somebody_waits_for_is_written_without_waiting_for_more(nursery):
    async with corestore.open(None) as store:
        state = store._driver.find((await store.get(name="log")).discovery_key)
        incoming = Incoming()

        def put(*, awaited):
            batch = VerifiedBatch(None, (), (0, b""))
            incoming.put(state, CommitBatch(batch, None, 1, fork=0, awaited=awaited))

        async def put_one_each_turn():
            while True:
                put(awaited=False)
                await trio.lowlevel.checkpoint()

        async def gather():
            await incoming.gather()
            taken, _ = incoming.take()
            return len(taken[state])

        nursery.start_soon(put_one_each_turn)
        put(awaited=True)
        assert await gather() < 4
        # What nobody waits for is written together.
        assert await gather() == COMMIT_BYTES // BATCH_COST


async def test_a_core_that_is_forgotten_makes_room():
    async with corestore.open(None) as store:
        state = store._driver.find((await store.get(name="log")).discovery_key)
        incoming = Incoming()
        batch = CommitBatch(VerifiedBatch(None, (), (0, bytes(MAX_PENDING_BYTES))), None, 1, fork=0)
        incoming.put(state, batch)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(incoming.wait_room)
            await trio.testing.wait_all_tasks_blocked()
            assert incoming.forget(state) == [batch]
            with trio.fail_after(HANG_SECONDS):
                while nursery.child_tasks:
                    await trio.lowlevel.checkpoint()
        assert not incoming
