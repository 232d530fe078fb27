"""Whoever waits for peers hears that the store cannot be written any more."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

import corestore
import hyperfs
from corestore import StorageError
from tests.support.builders import FaultyStorage, linked, open_with, two_stores
from tests.support.limits import HANG_SECONDS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from corestore import Hypercore

WAITS: dict[str, Callable[[Hypercore], Awaitable[object]]] = {
    "wait_length": lambda core: core.wait_length(100),
    "wait_until": lambda core: core.wait_until(lambda: False),
    "get": lambda core: core.get(100),
    "download": lambda core: core.download(live=True),
}


async def fail(store, storage):
    """The next sync of *store* finds a broken disk."""
    storage.errors["flush"] = OSError(errno.EIO, "broken")
    async with await store.get(name="other") as core:
        await core.append(b"x")
        with pytest.raises(StorageError):
            await store.sync()


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS.keys())
@pytest.mark.parametrize("before", [False, True])
async def test_who_waits_for_what_will_not_come_is_told(wait, before):
    storage = FaultyStorage()
    async with two_stores(count=3) as (_, _, core), open_with(storage) as store:
        copy = await store.get(key=core.key)
        if not before:
            await fail(store, storage)
        with trio.fail_after(HANG_SECONDS):
            async with trio.open_nursery() as nursery:

                async def waiting():
                    with pytest.raises(StorageError, match="open it again"):
                        await wait(copy)

                nursery.start_soon(waiting)
                await trio.testing.wait_all_tasks_blocked()
                if before:
                    await fail(store, storage)


async def test_a_drive_whose_store_has_failed_is_read_and_not_followed(caplog):
    storage = FaultyStorage()
    async with corestore.open(None) as near, open_with(storage) as far:
        key = await hyperfs.create(near, "photos")
        async with hyperfs.open(near, name="photos") as writer, linked(near, far):
            await writer.write("/file", b"as it was")
            await writer.sync()
            async with hyperfs.open(far, key=key) as reader:
                with trio.fail_after(HANG_SECONDS):
                    await reader.ready()
                    assert await reader.read("/file") == b"as it was"
                    await fail(far, storage)
                    await reader.update()
                    assert await reader.read("/file") == b"as it was"
    assert "is not followed: an earlier write" in caplog.text
