"""When commits become durable and are shown: the order of the steps, and what fails."""

from __future__ import annotations

import errno
import threading

import pytest
import trio
import trio.testing

import corestore
from corestore import (
    Published,
    StorageError,
)
from tests.support.builders import FaultyStorage, open_with
from tests.support.limits import HANG_SECONDS


async def test_a_disk_too_full_for_a_sync_is_told_once_and_again_when_there_is_room(
    autojump_clock, caplog
):
    caplog.set_level("INFO", "corestore")
    storage = FaultyStorage()
    async with open_with(storage) as store:
        core = await store.get(name="log")
        await core.append(b"a")
        for _ in range(3):
            storage.errors["mark_synced"] = OSError(errno.ENOSPC, "full")
            with pytest.raises(OSError, match="full"):
                await store.sync()
        await store.sync()
        assert core.published_length == 1
    told = [text for text in caplog.messages if "durable" in text]
    assert told == [
        "nothing can be made durable: [Errno 28] full",
        "there is room again: what was committed is durable",
    ]


async def test_the_last_core_of_a_transaction_is_published_first():
    async with corestore.open(None) as store:
        metadata, content = await store.get(name="m"), await store.get(name="c")
        order = []

        async def listen(name, core, task_status):
            with core.events() as events:
                task_status.started()
                async for event in events:
                    if isinstance(event, Published):
                        order.append((name, content.published_length, event.length))

        async with trio.open_nursery() as nursery:
            await nursery.start(listen, "metadata", metadata)
            await nursery.start(listen, "content", content)
            for number in range(1, 4):
                async with store.transaction(metadata, content) as tx:
                    await tx.append(metadata, b"%d" % number)
                    await tx.append(content, b"%d" % number)
                await store.sync()
                await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert all(there >= length for name, there, length in order if name == "metadata")
        assert len(order) == 6


async def test_a_sync_has_its_steps_in_order():
    storage = FaultyStorage()
    async with open_with(storage) as store:
        core = await store.get(name="log")
        await core.append(b"a")
        await store.sync()
        await store.sync()
    assert storage.log == [
        "commit",
        "commit",  # the signature
        "begin_sync",
        "flush",
        "mark_synced",
        "flush_log",
        "finish_sync",
    ]


async def test_a_sync_in_flight_is_not_shared_by_a_later_commit():
    storage = FaultyStorage()
    storage.hold = threading.Event()
    async with open_with(storage) as store:
        core = await store.get(name="log")
        done = []

        async def sync():
            await store.sync()
            done.append(core.published_length)

        await core.append(b"a")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sync)
            await storage.syncing.wait()
            await trio.testing.wait_all_tasks_blocked()
            await core.append(b"b")
            nursery.start_soon(sync)
            nursery.start_soon(sync)
            await trio.lowlevel.checkpoint()
            storage.hold.set()
        assert done == [1, 2, 2]
        assert storage.log.count("begin_sync") == 2


@pytest.mark.parametrize("step", ["begin_sync", "flush", "mark_synced", "flush_log", "finish_sync"])
async def test_a_failed_sync_is_final(step):
    storage = FaultyStorage()
    async with open_with(storage) as store:
        core = await store.get(name="log")
        await core.append(b"a")
        await store.sync()
        storage.errors[step] = OSError(errno.EIO, "broken")
        await core.append(b"b")
        with pytest.raises(StorageError):
            await store.sync()
        assert core.published_length == 1
        with pytest.raises(StorageError):
            await core.append(b"c")
        with pytest.raises(StorageError):
            await store.sync()
        assert await core.get(1) == b"b"


async def test_who_waits_for_a_longer_log_hears_that_the_store_has_failed():
    storage = FaultyStorage()
    async with open_with(storage) as store:
        core = await store.get(name="log")
        failed = []

        async def wait(wait_for, *arguments):
            with pytest.raises(StorageError):
                await wait_for(*arguments)
            failed.append(wait_for)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, core.get, 5)
            nursery.start_soon(wait, core.wait_length, 6)
            await trio.testing.wait_all_tasks_blocked()
            storage.errors["flush"] = OSError(errno.EIO, "broken")
            with trio.fail_after(HANG_SECONDS):
                await core.append(b"a")
                with pytest.raises(StorageError):
                    await store.sync()
                await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert len(failed) == 2


async def test_with_always_an_append_returns_published():
    async with corestore.open(None, sync="always") as store:
        core = await store.get(name="log")
        await core.append(b"a")
        assert core.published_length == 1


async def test_with_none_nothing_is_synced_before_it_is_asked_for():
    storage = FaultyStorage()
    async with open_with(storage, sync="none") as store:
        core = await store.get(name="log")
        await core.append(b"a")
        await trio.testing.wait_all_tasks_blocked()
        assert core.published_length == 1
        assert "flush" not in storage.log
        await store.sync()
        assert "flush" in storage.log


async def test_with_none_what_was_shown_is_not_taken_back_by_a_sync_of_less():
    storage = FaultyStorage()
    storage.hold = threading.Event()
    async with open_with(storage, sync="none") as store:
        core = await store.get(name="log")
        await core.append(b"a")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.sync)
            await storage.syncing.wait()
            await trio.testing.wait_all_tasks_blocked()
            await core.append(b"b")
            storage.hold.set()
        assert core.published_length == 2


def test_an_unknown_policy_is_refused():
    with pytest.raises(ValueError, match="sometimes"):
        corestore.SyncPolicy("sometimes")
